"""How tests of engines lose, cut short and refuse things; importable by workers."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from engine_world import Inline, build, tree_bytes, used

from govern.ids import tasks
from govern.ids.exchange import Groups
from manifests.errors import GovernError

FULL = OSError(errno.ENOSPC, "No space left on device")


@dataclass(frozen=True)
class Sabotaged:
    """A stage's function, one task of which is disturbed on its worker."""

    function: Callable[[Any], Any]
    number: int
    change: Callable[[pytest.MonkeyPatch], None]

    def __call__(self, argument: Any) -> Any:
        with pytest.MonkeyPatch.context() as patched:
            if argument.number == self.number:
                self.change(patched)
            return self.function(argument)


class Disturbed:
    """An engine of which one stage is disturbed.

    Args:
        engine: Runs the tasks.
        stage: The stage.
        before, after: What happens to files before and behind it.
        lost: How many of its tasks are lost: some engines have lost those of a dead worker, and
            ended well.
        task: The number of a task, and what is changed on its worker before it runs.
    """

    def __init__(
        self,
        engine: Any,
        stage: str,
        *,
        before: Callable[[], object] = lambda: None,
        after: Callable[[], object] = lambda: None,
        lost: int = 0,
        task: tuple[int, Callable[[pytest.MonkeyPatch], None]] | None = None,
    ) -> None:
        self._engine, self._stage = engine, stage
        self._before, self._after, self._lost, self._task = before, after, lost, task

    def run(self, stage: str, function: Any, arguments: Any, finished: Any) -> list[Any]:
        if stage != self._stage:
            return list(self._engine.run(stage, function, arguments, finished))
        self._before()
        if self._task is not None:
            function = Sabotaged(function, *self._task)
        arguments = arguments[: len(arguments) - self._lost]
        values = list(self._engine.run(stage, function, arguments, finished))
        self._after()
        return values


def fault_of(corpus: Path, out: Path, engine: Any = None) -> str:
    """What a build by tasks says when it stops; always one line."""
    with used(engine or Inline()), pytest.raises(GovernError) as stop:
        build(corpus, out, "processes")
    said = str(stop.value)
    assert "\n" not in said
    return said


def finish(corpus: Path, out: Path, whole: Path, engine: Any = None) -> None:
    """Go on with a build; it must come to the undisturbed bytes."""
    with used(engine or Inline()):
        build(corpus, out, "processes", resume=True)
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


def drops_a_key(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(tasks, "by_bucket", once_at(1, tasks.by_bucket, without_last))


def misses_a_key(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(Groups, "read", once_at(2, Groups.read, without_last))


def drops_a_pair(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(tasks, "_pairs_of_range", once_at(1, tasks._pairs_of_range, without_last))


def leaves_a_group_out(patched: pytest.MonkeyPatch) -> None:
    _write_second_never(patched, pq.ParquetWriter, "write_table")


def leaves_a_batch_out(patched: pytest.MonkeyPatch) -> None:
    _write_second_never(patched, pa.ipc.RecordBatchFileWriter, "write_batch")


def _write_second_never(patched: pytest.MonkeyPatch, target: Any, name: str) -> None:
    calls = 0
    write = getattr(target, name)

    def sometimes(*args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls != 2:
            write(*args, **kwargs)

    patched.setattr(target, name, sometimes)


def has_no_room(patched: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise FULL

    patched.setattr(pq.ParquetWriter, "write_table", full)
    patched.setattr(pa.ipc.RecordBatchFileWriter, "write_batch", full)


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def scratch(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A file system of that size; what is given makes it another one. Skips who may not mount."""

    def mount(options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        return not subprocess.run(command, capture_output=True, check=False).returncode

    folder.mkdir()
    if not shutil.which("mount") or not mount(f"size={size}"):
        pytest.skip("may not mount")

    def resize(to: str) -> None:
        assert mount(f"remount,size={to}")

    try:
        yield resize
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
