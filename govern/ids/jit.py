"""Loops that are compiled once there is enough for them to do, and interpreted before.

Importing numba takes half a second and compiling every loop for the first time ten, so a small
input would wait for nothing but that. Each loop is one function, written so that Python and numba
give the same result: while its calls together have little to do, it runs as it stands.

numba keeps compiled code beside the source, or in the user's cache folder where the source cannot
be written (`NUMBA_CACHE_DIR` overrides both).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

# Array elements that a loop may work through before it is compiled: about 0.1 s in Python.
ENOUGH = 100_000

_helpers: list[Callable[..., Any]] = []
_lock = threading.RLock()


def compile_loop(body: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`body`, compiled at its first call; without the GIL; kept on disk where that is possible."""
    from numba import njit

    try:
        return njit(nogil=True, cache=True, **options)(body)
    except RuntimeError:  # numba found no folder that it may write
        return njit(nogil=True, **options)(body)


def inlined(body: Callable[..., Any]) -> Callable[..., Any]:
    """A function that loops call; part of each of them when they are compiled."""
    _helpers.append(body)
    return body


def compiled(
    work: Callable[..., int] | None = None,
) -> Callable[[Callable[..., Any]], Loop]:
    """Make a function over arrays a loop that is compiled when it is worth it.

    Args:
        work: From the loop's arguments to the elements that it will go through; by default the
            elements of all its arrays.
    """
    return lambda body: Loop(body, work or _elements)


class Tally:
    """Adds up work, until it is enough to be worth compiled code."""

    def __init__(self, enough: int) -> None:
        self._enough = enough
        self._done = 0

    def is_full(self, more: int) -> bool:
        """Whether it is enough with so much more."""
        self._done += more
        return self._done > self._enough


class Loop:
    """A function over arrays, compiled when its calls together had enough to do.

    Law: which calls were compiled never shows in a result.
    """

    def __init__(self, body: Callable[..., Any], work: Callable[..., int]) -> None:
        self.body = body
        self._work = work
        self._tally = Tally(ENOUGH)
        self._compiled: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        """Call it, compiled or not."""
        if self._compiled is None:
            if not self._tally.is_full(self._work(*arguments)):
                return self.interpret(*arguments)
            self.compile()
        assert self._compiled is not None
        return self._compiled(*arguments)

    def interpret(self, *arguments: Any) -> Any:
        """Call it in plain Python."""
        with np.errstate(over="ignore"):  # hashes wrap around
            return self.body(*arguments)

    def compile(self) -> None:
        """From now on every call is compiled, however little there is to do."""
        with _lock:
            if self._compiled is None:
                _register_helpers()
                self._compiled = compile_loop(self.body)


def _elements(*arguments: Any) -> int:
    return sum(a.size for a in arguments if isinstance(a, np.ndarray))


def _register_helpers() -> None:
    from numba.extending import register_jitable

    while _helpers:
        register_jitable(inline="always")(_helpers.pop())
