"""Kill a process for real: the child ends at once, nothing unwinds.

`run_killed_at(n, work)` forks, counts every operation that changes the disk, and ends the child
before the n-th with `os._exit`, which runs no handler and flushes no buffer. `run_killed_after`
sends SIGKILL at a moment of time, wherever the child is then.
"""

from __future__ import annotations

import builtins
import functools
import os
import signal
import time
import traceback
from collections.abc import Callable
from typing import Any

# What pathlib, shutil and tempfile do ends in these. Not `fsync`: a killed process leaves what it
# wrote to the kernel, synced or not, so a kill before it shows nothing that the next one does not.
OPERATIONS = (
    "replace", "rename", "link", "unlink", "mkdir", "rmdir", "pwrite", "ftruncate",
    "posix_fallocate", "fchmod", "chmod", "utime",
)  # fmt: skip
KILLED, FAILED = 9, 3


def run_killed_at(point: int, work: Callable[[], object]) -> bool:
    """Run `work` in a child that dies before its operation number `point`; True if it died so."""

    def armed() -> None:
        _arm(point)
        work()

    code = ended(forked(armed))
    assert code in (0, KILLED), f"the work failed by itself at point {point}"
    return code == KILLED


def run_killed_after(seconds: float, work: Callable[[], object]) -> bool:
    """Run `work` in a child that is killed so many seconds after its start; True if it died so."""
    child = forked(work)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    code = ended(child)
    assert code in (0, -signal.SIGKILL), f"the work failed by itself within {seconds} s"
    return code == -signal.SIGKILL


def forked(work: Callable[[], object]) -> int:
    """Run `work` in a child; its pid. All that the parent has loaded and compiled is warm there."""
    child = os.fork()
    if child == 0:
        code = FAILED
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001  whatever it is, only its parent may go on with pytest
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    """Wait for a child; its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _arm(point: int) -> None:
    count = 0

    def wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == point:
                os._exit(KILLED)
            return original(*args, **kwargs)

        return operation

    for name in filter(functools.partial(hasattr, os), OPERATIONS):
        setattr(os, name, wrapped(getattr(os, name)))
    plain = builtins.open

    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        if set(mode) & set("wxa+"):
            count += 1
            if count == point:
                # A file that was opened for writing and never written: the torn state itself.
                plain(file, mode, *args, **kwargs)
                os._exit(KILLED)
        return plain(file, mode, *args, **kwargs)

    builtins.open = opened  # type: ignore[assignment]
    import io

    io.open = opened  # type: ignore[assignment]
