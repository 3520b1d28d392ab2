"""Ctrl-C and SIGTERM while training: a request, granted between two micro-batches.

Whatever is saved must be the state after a whole micro-batch, so a signal interrupts none.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether somebody wants the training to stop."""

    def __init__(self) -> None:
        self.asked = False


@contextmanager
def stop_requests(*, insisting: bool) -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request while the body runs.

    Signal handlers belong to the main thread; elsewhere (in a launcher's thread) nothing changes.

    Args:
        insisting: A second signal is a KeyboardInterrupt at once. Not for several ranks, whose
            launcher passes on what the terminal has sent them already.
    """
    request = StopRequest()

    def ask(_number: int, _frame: FrameType | None) -> None:
        if request.asked and insisting:
            raise KeyboardInterrupt
        request.asked = True

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, ask) for number in numbers]
    try:
        yield request
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
