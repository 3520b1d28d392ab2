"""Kill a process at its n-th file operation, for real: the child ends at once, nothing unwinds.

`run_killed_at(n, work)` forks, counts every operation that changes the disk, and ends the child
before the n-th with `os._exit`, which runs no handler and flushes no buffer.
"""

from __future__ import annotations

import builtins
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

OPERATIONS = [
    (os, "replace"), (os, "rename"), (os, "link"), (os, "unlink"), (os, "mkdir"), (os, "fsync"),
    (os, "pwrite"), (os, "ftruncate"), (os, "fchmod"),
    (shutil, "copyfile"), (shutil, "copymode"), (shutil, "rmtree"),
    (Path, "unlink"), (Path, "mkdir"), (Path, "rename"), (Path, "replace"),
]  # fmt: skip
KILLED, FAILED = 9, 3


def run_killed_at(point: int, work: Callable[[], object]) -> bool:
    """Run `work` in a child that dies before its operation number `point`; True if it died so."""
    child = os.fork()
    if child == 0:
        try:
            _arm(point)
            work()
        except BaseException as error:  # noqa: BLE001  a child must never return into pytest
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(FAILED)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED), f"the work failed by itself at point {point}"
    return code == KILLED


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

    for owner, name in OPERATIONS:
        setattr(owner, name, wrapped(getattr(owner, name)))
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
