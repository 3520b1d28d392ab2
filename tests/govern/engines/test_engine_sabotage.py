"""What is lost, cut short or refused on the way stops a build, which says the stage and the file.

Then its remedy is done, and the build that goes on gives the undisturbed bytes.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from engine_world import BANDS, Inline, build, staged, tree_bytes, used
from kill_points import ended, forked

from govern.ids import tasks
from govern.ids.exchange import Groups
from manifests.errors import EngineError, GovernError, InputError

FULL = OSError(errno.ENOSPC, "No space left on device")


class Disturbed(Inline):
    """An engine of which something happens to files behind a stage, or to the tasks before it."""

    def __init__(self, stage: str, *, after: Callable[[], None] | None = None, lost: int = 0):
        super().__init__()
        self._stage, self._after, self._lost = stage, after, lost

    def run(self, stage: str, function: Any, arguments: Any, finished: Any) -> list[Any]:
        if stage == self._stage:
            # Some engines have lost the tasks of a dead worker, and ended well.
            arguments = arguments[: len(arguments) - self._lost]
        values = super().run(stage, function, arguments, finished)
        if stage == self._stage and self._after is not None:
            self._after()
        return values


def fault_of(corpus: Path, out: Path, engine: Inline | None = None) -> str:
    """What a build by tasks says when it stops; always one line."""
    with used(engine or Inline()), pytest.raises(GovernError) as stop:
        build(corpus, out, "processes")
    said = str(stop.value)
    assert "\n" not in said
    return said


def finish(corpus: Path, out: Path, whole: Path) -> None:
    staged(corpus, out, resume=True)
    assert tree_bytes(out) == tree_bytes(whole)


def once_at(number: int, original: Callable[..., Any], change: Callable[[Any], Any]) -> Any:
    """The function, whose result is changed at its call of that number."""
    calls = 0

    def patched(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        result = original(*args, **kwargs)
        return change(result) if calls == number else result

    return patched


def without_last(result: Any) -> Any:
    """Columns, or columns and bounds, without their last row."""
    if isinstance(result, dict):
        return {name: values[:-1] for name, values in result.items()}
    if len(result) == 2:
        return tuple(values[:-1] for values in result)
    keys, owners, bounds = result
    shorter = bounds.copy()
    shorter[-1] -= 1
    return keys[:-1], owners[:-1], shorter


@pytest.mark.parametrize(
    ("target", "name", "file", "expected"),
    [
        (tasks, "by_bucket", "keys/00001.parquet", "rows, found"),
        (Groups, "read", "pairs/00000.parquet", "keys to have been read, found"),
        (tasks, "_pairs_of_range", "links", "pairs to have been read, found"),
    ],
)
def test_a_task_that_drops_a_row(
    tmp_path: Path,
    corpus: Path,
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: Any,
    name: str,
    file: str,
    expected: str,
) -> None:
    out = tmp_path / "m"
    number = 1 if name == "_pairs_of_range" else 2
    with monkeypatch.context() as patched:
        patched.setattr(target, name, once_at(number, getattr(target, name), without_last))
        said = fault_of(corpus, out)
    lost = out / ".work/stages" / file
    assert said.startswith(f"stage {file.split('/')[0]}, {lost}: expected "), said
    assert expected in said
    if lost.is_dir():
        for one in lost.iterdir():
            one.unlink()
    else:
        lost.unlink()
    finish(corpus, out, whole)


def test_a_group_that_is_not_written(
    tmp_path: Path, corpus: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker counts what it wrote before anybody can read it."""
    calls = 0
    write = pq.ParquetWriter.write_table

    def sometimes(*args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls != 3:
            write(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(pq.ParquetWriter, "write_table", sometimes)
        said = fault_of(corpus, tmp_path / "m")
    assert said.startswith(f"stage keys, {tmp_path}/m/.work/stages/keys/00000.parquet: expected ")
    assert not list((tmp_path / "m").glob(".work/stages/keys/*.parquet"))
    finish(corpus, tmp_path / "m", whole)


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
    said = fault_of(corpus, tmp_path / "m", Disturbed(stage, lost=1))
    assert said.startswith(f"stage {stage}, "), said
    assert file in said
    assert "one file system that all machines have at this path" in said
    finish(corpus, tmp_path / "m", whole)


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def scratch(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)


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
    stage: str,
    file: str,
    change: Callable[[Path], None],
) -> None:
    path = tmp_path / "m/.work/stages" / file
    said = fault_of(corpus, tmp_path / "m", Disturbed(stage, after=lambda: change(path)))
    assert said.startswith(f"stage {stage}, {path}: expected the whole file"), said
    assert said.endswith("remove this file and run it again with --resume")
    path.unlink()
    finish(corpus, tmp_path / "m", whole)


def test_a_damaged_part(tmp_path: Path, corpus: Path, whole: Path) -> None:
    part = tmp_path / "m/.work/parts/00001-00000"
    said = fault_of(
        corpus,
        tmp_path / "m",
        Disturbed("reading", after=lambda: shorten(part / "documents.arrow")),
    )
    assert said.startswith(f"working files {part}: expected "), said
    for one in part.parent.glob("00001-*"):
        one.rename(tmp_path / one.name)
    finish(corpus, tmp_path / "m", whole)


@pytest.mark.parametrize("call", [1, 4 * BANDS - 1, 4 * BANDS + 1])
def test_a_full_disk_on_a_worker(
    tmp_path: Path, corpus: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    calls = 0
    write = pq.ParquetWriter.write_table

    def full(*args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise FULL
        write(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(pq.ParquetWriter, "write_table", full)
        said = fault_of(corpus, tmp_path / "m")
    # A group for each band in three files of keys; then a file of pairs for each band.
    stage = "keys" if call <= 3 * BANDS else "pairs" if call <= 4 * BANDS else "links"
    assert said.startswith(f"stage {stage}, {tmp_path}/m/.work/stages/{stage}/"), said
    assert "found [Errno 28] No space left on device" in said
    assert "--resume" in said
    finish(corpus, tmp_path / "m", whole)


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
        assert said.startswith(("stage reading, ", "stage keys, ")), said

    assert ended(forked(limited)) == 0
    finish(corpus, out, whole)


def test_a_task_of_a_build_that_is_over(tmp_path: Path, corpus: Path, whole: Path) -> None:
    """A worker that was cut off comes back when another driver goes on there."""
    fence = tmp_path / "m/.work/driver"
    engine = Disturbed("reading", after=lambda: fence.write_text("another"))
    said = fault_of(corpus, tmp_path / "m", engine)
    assert f"working file {fence}: expected the mark of the build" in said
    assert "found that of another build" in said
    finish(corpus, tmp_path / "m", whole)


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
