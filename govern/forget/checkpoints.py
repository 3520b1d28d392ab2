"""Several checkpoints of one training in one request: which go together, and where reports lie.

One manifest and one sink map make one training: a selection then means the same blocks in each of
them. Everything else of a run is its own, so each has its plan, its erase, its statement and its
report, and each of these can be verified alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

from govern.forget.call import bad_call, default_report_dir
from govern.forget.run_view import RunView, read_run, require_trained_on
from manifests import Manifest
from manifests.errors import CheckpointError


def read_checkpoints(run: Path, also: Sequence[Path], manifest: Manifest) -> tuple[RunView, ...]:
    """Read the run and the other checkpoints of its training, in this order.

    Raises:
        CheckpointError, ManifestError: One is no run, not of this manifest, or of another training.
        InputError: A run is named twice, or lies inside another one.
    """
    first = read_run(run)
    require_trained_on(first, manifest)
    others = tuple(read_run(path) for path in also)
    for other in others:
        _require_same_training(first, other)
    _require_apart([run, *also])
    return (first, *others)


def report_dirs(runs: Sequence[Path], reference: str, *, given: Path | None) -> tuple[Path, ...]:
    """Where the report of each run lies: beside it; in a given directory under the run's name.

    A given directory is that of the report itself where there is one run only.

    Raises:
        InputError: Two runs have one name.
    """
    if given is None:
        return tuple(default_report_dir(run, reference) for run in runs)
    if len(runs) == 1:
        return (given,)
    names = [run.resolve().name for run in runs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        expected = "runs of different names, for each has its report there under its name"
        raise bad_call("--report", expected, f"two that are called {twice}")
    return tuple(given / name for name in names)


def _require_same_training(first: RunView, other: RunView) -> None:
    for what, wanted, found in (
        ("manifest content digest", first.content_digest, other.content_digest),
        ("manifest snapshot", first.snapshot, other.snapshot),
        ("sink map", first.sink_map, other.sink_map),
    ):
        if wanted != found:
            raise CheckpointError(
                f"--also {other.path}",
                expected=f"a checkpoint of the same training as {first.path}, {what} {wanted}",
                found=f"{what} {found}",
                remedy="forget in it by a call of its own",
            )


def _require_apart(runs: Sequence[Path]) -> None:
    for one, other in permutations(runs, 2):
        if one.resolve() == other.resolve():
            raise bad_call("--also", "each run once", f"{one} twice")
        if one.resolve().is_relative_to(other.resolve()):
            raise bad_call("--also", "runs that lie apart", f"{one} inside {other}")
