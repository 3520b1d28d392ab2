"""What tests of engines share: an engine without workers, corpora of several tasks, and builds."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "ids"))
from corpora import edited, planted, prose, tree_bytes, write_jsonl

from govern.engines import open_engine
from govern.engines.base import attempt, calls, value_of
from govern.ids.corpus import ReadOptions
from govern.ids.pipeline import BuildConfig, BuildReport, build_ids

__all__ = ["edited", "planted", "prose", "tree_bytes", "write_jsonl"]
# Few permutations, so few bands: a build has a task for each.
FEW: dict[str, Any] = {"workers": 2, "threshold": 0.8, "num_perm": 32}
BANDS = BuildConfig(**FEW).banding.bands
READ = ReadOptions(source="s", keep=("owner",), batch_rows=40)
SMALL_PARTS = "govern.ids.parts.PART_BYTES"
PACKAGES = {"ray": "ray", "spark": "pyspark"}


class Inline:
    """An engine that runs its tasks here, one after another, so that they can be disturbed."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, int]] = []

    def run(
        self,
        stage: str,
        function: Callable[[Any], Any],
        arguments: Sequence[Any],
        finished: Callable[[int], None],
    ) -> list[Any]:
        values = []
        for call in calls(stage, function, arguments):
            values.append(value_of(attempt(call)))
            self.ran.append((stage, call.argument.number))
            finished(1)
        return values


@contextmanager
def used(engine: Any) -> Iterator[None]:
    """Builds use this engine, whatever their configuration names."""

    @contextmanager
    def opened(*_: Any) -> Iterator[Any]:
        yield engine

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("govern.ids.pipeline.open_engine", opened)
        patched.setattr("govern.ids.add.open_engine", opened)
        yield


@contextmanager
def a_cluster(name: str) -> Iterator[Any]:
    """A Ray or Spark of two workers; skips where its extra is not installed."""
    pytest.importorskip(PACKAGES[name], reason=f"extra {name}")
    with pytest.MonkeyPatch.context() as patched:
        # Workers must find the tasks of these tests.
        patched.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        with open_engine(name, None, 2) as engine:
            yield engine


def build(
    corpus: Path, out: Path, engine: str = "local", *, resume: bool = False, **options: Any
) -> BuildReport:
    config = BuildConfig(read=READ, **{**FEW, "engine": engine, **options})
    return build_ids([corpus], out, config, resume=resume)


def staged(corpus: Path, out: Path, *, resume: bool = False, **options: Any) -> list[Any]:
    """Build by tasks, here; the tasks that were run."""
    engine = Inline()
    with used(engine):
        build(corpus, out, "processes", resume=resume, **options)
    return engine.ran


def crowded(folder: Path, shards: int = 3, families: int = 12) -> Path:
    """Planted families, a bucket above the cap, an ID that is taken twice, a broken record."""
    records: list[Any] = [*planted(families, 2 * families), {"id": "f0-0", "text": "taken"}, 7]
    base = prose(9_000, 60)
    records += [{"id": f"big{k}", "text": edited(base, 1, k), "owner": k} for k in range(150)]
    for shard in range(shards):
        write_jsonl(folder / f"{shard}.jsonl", records[shard::shards])
    return folder
