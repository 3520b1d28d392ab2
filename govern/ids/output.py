"""The directory of a build, from before its first byte to its `manifest.json`: `output`.

    .work/begun.json    what is being built: parameters, and files by name, size and version
    .work/parts/…       what was read so far
    .work/stages/…      what an engine's workers made of it

A build that stops keeps these, if it has finished a part, and nothing else of it is left. The
next build with `resume` goes on from there if it is the same build; every other one begins anew.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from govern.ids.inputs import Inputs
from govern.ids.parts import PARTS_FORMAT, PARTS_NAME
from manifests.errors import InputError
from manifests.files import atomic_write, canonical_json, writer_lock
from manifests.index import INDEX_NAME
from manifests.reader import open_manifest
from manifests.schema import TABLES
from manifests.writer import WORK_NAME, is_torn_index, sweep

_BEGUN_NAME = "begun.json"
# A person would rather hear of the file that is new.
_FOLLOWS_FROM_INPUTS = frozenset({"reading_tasks"})
STAGES_NAME = "stages"
_OURS = frozenset({*TABLES, WORK_NAME, ".lock"})


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What a build is: equal ones give the same manifest.

    Attributes:
        parameters: Everything that shapes the IDs, as the manifest records it, and the extractors.
        inputs: Source and version of each file, by its name.
    """

    parameters: Mapping[str, Any]
    inputs: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, parameters: Mapping[str, Any], inputs: Inputs) -> Begun:
        """A build of these files with these parameters and the extractors that are installed."""
        return cls(
            parameters={
                **parameters,
                "extractors": list(inputs.extractors),
                "parts_format": PARTS_FORMAT,
            },
            inputs={f.uri: [f.source, f.version] for f in inputs.files},
        )

    def difference(self, now: Begun) -> str | None:
        """What `now` has changed, in words; None when nothing."""
        # Bands and rows follow from the threshold, which a person would rather hear of.
        names = {*self.parameters, *now.parameters} - _FOLLOWS_FROM_INPUTS
        return (
            self._other_parameter(now, sorted(names, key=lambda n: (n in ("bands", "rows"), n)))
            or self._other_input(now)
            or self._other_parameter(now, sorted(_FOLLOWS_FROM_INPUTS))
        )

    def _other_parameter(self, now: Begun, names: Sequence[str]) -> str | None:
        for name in names:
            value = self.parameters.get(name)
            if now.parameters.get(name) != value:
                return f"{name} {value} at its beginning and {now.parameters.get(name)} now"
        return None

    def _other_input(self, now: Begun) -> str | None:
        for uri in sorted({*self.inputs, *now.inputs}):
            if uri not in now.inputs:
                return f"no input {uri} any more"
            if uri not in self.inputs:
                return f"a new input {uri}"
            (source, version), (source_now, version_now) = self.inputs[uri], now.inputs[uri]
            if source != source_now:
                return f"source {source} of {uri} at its beginning and {source_now} now"
            if version != version_now:
                return f"an input {uri} that was written to since"
        return None


@contextmanager
def output(
    directory: Path, begun: Begun, *, resume: bool, note: Callable[[str], None]
) -> Iterator[Path]:
    """The manifest's directory, locked, with its working folder.

    Args:
        directory: Where the manifest will be.
        begun: What is being built.
        resume: Whether to go on with an unfinished build.
        note: Told, in a line, what becomes of an unfinished build.

    Raises:
        InputError: The directory holds something else, the unfinished build there is another one
            than is to be resumed, or the disk does not take what is written.
        LockedError: Another build writes there.
    """
    made = not directory.exists()
    if (directory / INDEX_NAME).exists() and (directory / WORK_NAME).exists():
        # A build that was killed after its commit: the manifest is whole, the litter is not its.
        with writer_lock(directory):
            sweep(directory, open_manifest(directory).index)
    _require_free(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with writer_lock(directory):
        # Again, under the lock: another build may have finished in between.
        _require_free(directory)
        try:
            _begin(directory, begun, resume=resume, note=note)
            yield directory
        except OSError as error:
            kept = _stop(directory, made)
            raise InputError(
                f"--out {directory}",
                expected="a disk that takes the working files and the manifest",
                found=str(error),
                remedy="make room (about four times the text while building), then run it again"
                + (" with --resume" if kept else ""),
            ) from error
        except BaseException:
            _stop(directory, made)
            raise


def is_unfinished(directory: Path) -> bool:
    """Whether a build that stopped has left something there that can be gone on with."""
    work = directory / WORK_NAME
    parts = work / PARTS_NAME
    whole = parts.is_dir() and any(not part.name.startswith(".") for part in parts.iterdir())
    return whole and (work / _BEGUN_NAME).exists() and not (directory / INDEX_NAME).exists()


def _begin(directory: Path, begun: Begun, *, resume: bool, note: Callable[[str], None]) -> None:
    """Make the working folder what this build begins with."""
    path = directory / WORK_NAME / _BEGUN_NAME
    if is_unfinished(directory):
        if resume:
            _require_same(directory, Begun(**json.loads(path.read_bytes())), begun)
            _clear(directory)
            note(f"goes on with the unfinished build in {directory}")
            return
        note(f"begins anew; --resume would have gone on with the unfinished build in {directory}")
    sweep(directory, None)
    atomic_write(path, canonical_json(vars(begun)))


def _require_same(directory: Path, old: Begun, new: Begun) -> None:
    changed = old.difference(new)
    if changed is not None:
        raise InputError(
            f"--resume in {directory}",
            expected="the build that was begun there",
            found=changed,
            remedy="run it without --resume to begin anew, or exactly as it was begun",
        )


def _stop(directory: Path, made: bool) -> bool:
    """After a failure: keep what can be gone on with, or leave no trace; whether it is kept."""
    if (directory / INDEX_NAME).exists():
        return False
    if is_unfinished(directory):
        _clear(directory)
        return True
    for name in _OURS - {".lock"}:
        shutil.rmtree(directory / name, ignore_errors=True)
    for path in directory.iterdir():
        if is_torn_index(path.name):
            path.unlink()
    (directory / ".lock").unlink()
    if made:
        directory.rmdir()
    return False


def _clear(directory: Path) -> None:
    """Remove all of an unfinished build but what can be gone on with."""
    work = directory / WORK_NAME
    kept = {work / name for name in (_BEGUN_NAME, PARTS_NAME, STAGES_NAME)}
    doomed = [
        *(directory / table for table in TABLES),
        *(path for path in directory.iterdir() if is_torn_index(path.name)),
        *(path for path in work.iterdir() if path not in kept),
        *(work / PARTS_NAME).glob(".*"),
        *(work / STAGES_NAME).rglob(".*.tmp"),
    ]
    for path in doomed:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _require_free(directory: Path) -> None:
    """Refuse a directory with anything but the remains of an interrupted build."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise _occupied(directory, "a file")
    names = sorted(path.name for path in directory.iterdir())
    foreign = [name for name in names if name not in _OURS and not is_torn_index(name)]
    if INDEX_NAME in foreign:
        raise _occupied(directory, "a finished manifest")
    if foreign:
        raise _occupied(directory, f"other files ({foreign[0]}, …)")


def _occupied(directory: Path, found: str) -> InputError:
    return InputError(
        f"--out {directory}",
        expected="a new or empty directory",
        found=found,
        remedy="name another directory, or remove this one first",
    )
