"""What is lost, cut short or refused on the way stops a build, which says the stage and the file.

Then its remedy is done, and the build that goes on gives the undisturbed bytes. What happens to
single tasks and to files between stages is tested on Ray and Spark too, where their extras are.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_sabotage import (
    Disturbed,
    drops_a_key,
    drops_a_pair,
    fault_of,
    finish,
    has_no_room,
    leaves_a_batch_out,
    leaves_a_group_out,
    misses_a_key,
    scratch,
    shorten,
    small_disk,
)
from engine_world import BANDS, PACKAGES, Inline, a_cluster, build, staged, tree_bytes, used
from kill_points import ended, forked

from govern.ids.exchange import Groups
from manifests.errors import EngineError, InputError


@pytest.fixture(
    scope="module",
    params=["inline", *(pytest.param(name, marks=pytest.mark.slow) for name in PACKAGES)],
)
def engine(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Tasks here, and on each kind of cluster, which all tests share."""
    if request.param == "inline":
        yield Inline()
        return
    with a_cluster(request.param) as cluster:
        yield cluster


def test_a_task_of_a_build_that_is_over(
    tmp_path: Path, corpus: Path, whole: Path, engine: Any
) -> None:
    """A worker that was cut off comes back when another driver goes on there."""
    fence = tmp_path / "m/.work/driver"
    taken = Disturbed(engine, "keys", before=lambda: fence.write_text("another"))
    said = fault_of(corpus, tmp_path / "m", taken)
    assert f"working file {fence}: expected the mark of the build" in said
    assert "found that of another build" in said
    finish(corpus, tmp_path / "m", whole, engine)


@pytest.mark.parametrize(
    ("stage", "task", "change", "file", "expected"),
    [
        ("keys", 1, drops_a_key, "keys/00001.parquet", "rows, found"),
        ("pairs", 3, misses_a_key, "pairs/00003.parquet", "keys to have been read, found"),
        ("links", 0, drops_a_pair, "links", "pairs to have been read, found"),
    ],
)
def test_a_task_that_drops_a_row(
    tmp_path: Path,
    corpus: Path,
    whole: Path,
    engine: Any,
    stage: str,
    task: int,
    change: Callable[[pytest.MonkeyPatch], None],
    file: str,
    expected: str,
) -> None:
    out = tmp_path / "m"
    said = fault_of(corpus, out, Disturbed(engine, stage, task=(task, change)))
    lost = out / ".work/stages" / file
    assert said.startswith(f"stage {stage}, {lost}: expected "), said
    assert expected in said
    for one in lost.iterdir() if lost.is_dir() else [lost]:
        one.unlink()
    finish(corpus, out, whole, engine)


def test_a_batch_that_is_not_written(
    tmp_path: Path, corpus: Path, whole: Path, engine: Any
) -> None:
    """No file after it would miss these texts: they are nowhere."""
    part = tmp_path / "m/.work/parts/00001-00000"
    disturbed = Disturbed(engine, "reading", task=(1, leaves_a_batch_out))
    said = fault_of(corpus, tmp_path / "m", disturbed)
    assert said.startswith(f"working files {part}: expected "), said
    assert " documents and rejects, found " in said
    for one in part.parent.glob("00001-*"):
        one.rename(tmp_path / one.name)
    finish(corpus, tmp_path / "m", whole, engine)


def test_a_group_that_is_not_written(
    tmp_path: Path, corpus: Path, whole: Path, engine: Any
) -> None:
    """The worker counts what it wrote before anybody can read it."""
    keys = tmp_path / "m/.work/stages/keys"
    said = fault_of(corpus, tmp_path / "m", Disturbed(engine, "keys", task=(0, leaves_a_group_out)))
    assert said.startswith(f"stage keys, {keys}/00000.parquet: expected "), said
    assert not (keys / "00000.parquet").exists()
    finish(corpus, tmp_path / "m", whole, engine)


@pytest.mark.parametrize(
    ("stage", "file"),
    [
        ("reading", "parts"),
        ("keys", "keys/00002.parquet"),
        ("pairs", f"pairs/{BANDS - 1:05}.parquet"),
        ("links", "links/00000.parquet"),
    ],
)
def test_an_engine_that_loses_a_task(
    tmp_path: Path, corpus: Path, whole: Path, stage: str, file: str
) -> None:
    said = fault_of(corpus, tmp_path / "m", Disturbed(Inline(), stage, lost=1))
    assert said.startswith(f"stage {stage}, "), said
    assert file in said
    assert "one file system that all machines have at this path" in said
    finish(corpus, tmp_path / "m", whole)


@pytest.mark.parametrize("change", [shorten, scratch])
@pytest.mark.parametrize(
    ("stage", "file"),
    [
        ("keys", "keys/00001.parquet"),
        ("pairs", "pairs/00007.parquet"),
        ("links", "links/00000.parquet"),
    ],
)
def test_a_damaged_exchange_file(
    tmp_path: Path,
    corpus: Path,
    whole: Path,
    engine: Any,
    stage: str,
    file: str,
    change: Callable[[Path], None],
) -> None:
    path = tmp_path / "m/.work/stages" / file
    said = fault_of(corpus, tmp_path / "m", Disturbed(engine, stage, after=lambda: change(path)))
    assert said.startswith(f"stage {stage}, {path}: expected the whole file"), said
    assert said.endswith("remove this file and run it again with --resume")
    path.unlink()
    finish(corpus, tmp_path / "m", whole, engine)


@pytest.mark.parametrize(
    ("reader", "file"), [("pairs", "keys/00002.parquet"), ("links", "pairs/00000.parquet")]
)
def test_an_exchange_file_that_workers_find_cut_short(
    tmp_path: Path, corpus: Path, whole: Path, engine: Any, reader: str, file: str
) -> None:
    """The driver has counted it before."""
    path = tmp_path / "m/.work/stages" / file
    said = fault_of(corpus, tmp_path / "m", Disturbed(engine, reader, before=lambda: shorten(path)))
    assert said.startswith(f"stage {path.parent.name}, {path}: expected the whole file"), said
    path.unlink()
    finish(corpus, tmp_path / "m", whole, engine)


def test_a_damaged_part(tmp_path: Path, corpus: Path, whole: Path) -> None:
    part = tmp_path / "m/.work/parts/00001-00000"
    said = fault_of(
        corpus,
        tmp_path / "m",
        Disturbed(Inline(), "reading", after=lambda: shorten(part / "documents.arrow")),
    )
    assert said.startswith(f"working files {part}: expected "), said
    for one in part.parent.glob("00001-*"):
        one.rename(tmp_path / one.name)
    finish(corpus, tmp_path / "m", whole)


@pytest.mark.parametrize(
    ("stage", "task", "file"),
    [
        ("reading", 1, "parts/00001-00000"),
        ("keys", 0, "stages/keys/00000.parquet"),
        ("pairs", BANDS - 1, f"stages/pairs/{BANDS - 1:05}.parquet"),
        ("links", 0, "stages/links/00000.parquet"),
    ],
)
def test_a_full_disk_on_a_worker(
    tmp_path: Path, corpus: Path, whole: Path, engine: Any, stage: str, task: int, file: str
) -> None:
    said = fault_of(corpus, tmp_path / "m", Disturbed(engine, stage, task=(task, has_no_room)))
    path = tmp_path / "m/.work" / file
    assert said.startswith(f"stage {stage}, {path}: expected reading and writing to work"), said
    assert f"found [Errno 28] No space left on device: '{path}'; mend it" in said
    assert said.endswith("run it again with --resume")
    finish(corpus, tmp_path / "m", whole, engine)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "named"),
    [
        ("60k", "stage reading, {}/.work/parts/0000"),
        ("350k", "stage pairs, {}/.work/stages/pairs/000"),
        ("1200k", "--out {}: "),
    ],
)
def test_a_disk_that_is_really_full(
    tmp_path: Path, corpus: Path, whole: Path, engine: Any, size: str, named: str
) -> None:
    """While workers read and compare, and while the driver writes."""
    with small_disk(tmp_path / "disk", size) as resize:
        out = tmp_path / "disk/m"
        said = fault_of(corpus, out, engine)
        assert said.startswith(named.format(out)), said
        assert "found [Errno 28] " in said
        assert "No space left on device" in said
        assert said.endswith("run it again with --resume")
        resize("100m")
        finish(corpus, out, whole, engine)


@pytest.mark.parametrize("limit", [3_000, 30_000])
def test_files_that_may_not_grow(tmp_path: Path, corpus: Path, whole: Path, limit: int) -> None:
    """The operating system refuses, in Python or in compiled code."""
    out = tmp_path / "m"

    def limited() -> None:
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        )
        said = fault_of(corpus, out)
        assert "File too large" in said, said
        work = out / ".work"
        places = (f"stage reading, {work}/parts/0000", f"stage keys, {work}/stages/keys/0000")
        assert said.startswith(places), said

    assert ended(forked(limited)) == 0
    finish(corpus, out, whole)


class Stopped(BaseException):
    """Ends a build in a test, as an interruption does."""


class Interrupted(Inline):
    """An engine that stops before its task number `at`."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._left = at

    def run(self, stage: str, function: Any, arguments: Any, finished: Any) -> list[Any]:
        some = arguments[: self._left]
        values = super().run(stage, function, some, finished)
        self._left -= len(some)
        if len(some) < len(arguments):
            raise Stopped
        return values


@pytest.mark.parametrize("at", [1, 2, 3, 5, 6, 10, 6 + BANDS])
def test_no_task_is_run_twice(tmp_path: Path, corpus: Path, whole: Path, at: int) -> None:
    stopped = Interrupted(at)
    with used(stopped), pytest.raises(Stopped):
        build(corpus, tmp_path / "m", "processes")
    again = staged(corpus, tmp_path / "m", resume=True)
    assert len(stopped.ran) + len(again) == 3 + 3 + BANDS + len(
        [s for s, _ in again if s == "links"]
    )
    assert not set(stopped.ran) & set(again)
    assert tree_bytes(tmp_path / "m") == tree_bytes(whole)


def test_another_plan_begins_its_stages_anew(
    tmp_path: Path, corpus: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with used(Interrupted(10)), pytest.raises(Stopped):
        build(corpus, tmp_path / "m", "processes")
    monkeypatch.setattr("govern.ids.staged.TEXTS_PER_BUCKET", 120)
    again = staged(corpus, tmp_path / "m", resume=True)
    assert [stage for stage, _ in again].count("keys") == 3
    assert tree_bytes(tmp_path / "m") == tree_bytes(whole)


def test_threads_go_on_with_what_tasks_read(tmp_path: Path, corpus: Path, whole: Path) -> None:
    with used(Interrupted(10)), pytest.raises(Stopped):
        build(corpus, tmp_path / "m", "processes")
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "m").glob(".work/parts/*/*.arrow")}
    assert len(stamps) > 6
    build(corpus, tmp_path / "m", resume=True)
    assert tree_bytes(tmp_path / "m") == tree_bytes(whole)


def test_more_texts_than_threads_can_number(
    tmp_path: Path, corpus: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("govern.ids.refusals._MOST_TEXTS", 50)
    with pytest.raises(InputError, match="at most 50 distinct texts") as stop:
        build(corpus, tmp_path / "m")
    assert str(stop.value).endswith("; build it with --engine processes, ray or spark")
    finish(corpus, tmp_path / "m", whole)


def test_groups_say_what_they_are_not(tmp_path: Path) -> None:
    """A file of somebody else, and a folder, are no exchange files."""
    foreign = tmp_path / "keys"
    foreign.mkdir()
    (foreign / "a.parquet").write_bytes(b"PAR1 nothing PAR1")
    for path in (foreign / "a.parquet", foreign, foreign / "none.parquet"):
        with pytest.raises(EngineError, match=f"{path}: expected the whole file"):
            Groups(path)
