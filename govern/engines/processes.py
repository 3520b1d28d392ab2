"""Tasks on processes of this machine.

For a machine of many cores: the threads of `--engine local` share one interpreter, and reading JSON
holds it. A process that dies takes its pool with it; the tasks that had not ended go to a new one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for_end
from typing import Any

from govern.engines import base
from govern.engines.base import A, R

_TICK = 1.0  # seconds between two looks at a stage


@contextmanager
def connect(address: str | None, workers: int) -> Iterator[Processes]:  # noqa: ARG001  has none
    """Processes of this machine; they begin with the first stage."""
    engine = Processes(workers)
    try:
        yield engine
    finally:
        engine.stop()


class Processes:
    """An `Engine` of processes.

    Args:
        workers: How many.
        stalled_after: Seconds in which some task of a stage must end.
    """

    def __init__(self, workers: int, stalled_after: float = base.STALLED_AFTER) -> None:
        self._workers = workers
        self._stalled_after = stalled_after
        self._pool: ProcessPoolExecutor | None = None

    def run(
        self,
        stage: str,
        function: Callable[[A], R],
        arguments: Sequence[A],
        finished: Callable[[int], None],
    ) -> list[R]:
        """Run a task for each argument: see `base.Engine`."""
        waiting = dict(enumerate(base.calls(stage, function, arguments)))
        values: dict[int, R] = {}
        watch = base.Watch(stage, self._stalled_after)
        deaths = 0
        while waiting:
            before = len(waiting)
            try:
                for number, outcome in self._outcomes(waiting, watch):
                    values[number] = base.value_of(outcome)
                    del waiting[number]
                    finished(1)
            except BrokenProcessPool as error:
                self.stop()
                deaths = 1 if len(waiting) < before else deaths + 1
                if deaths == base.MOST_DEATHS:
                    raise base.died(stage, f"{deaths} deaths one after another") from error
            except BaseException:
                self.stop()
                raise
        return [values[number] for number in range(len(arguments))]

    def _outcomes(
        self, waiting: dict[int, base.Call], watch: base.Watch
    ) -> Iterator[tuple[int, base.Outcome]]:
        """What comes of tasks, as they end."""
        pool = self._open()
        running: dict[Future[base.Outcome], int] = {
            pool.submit(base.attempt, call): number for number, call in waiting.items()
        }
        while running:
            ended, _ = wait(running, timeout=_TICK, return_when=FIRST_COMPLETED)
            watch.note(len(ended))
            # Those that died last: what others have done by then is not to be done again.
            for future in sorted(ended, key=lambda one: one.exception() is not None):
                yield running.pop(future), future.result()

    def _open(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Not forked: this process has threads, whose locks a fork would copy as they are.
            self._pool = ProcessPoolExecutor(
                self._workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_prepare,
            )
        return self._pool

    def stop(self) -> None:
        """End the processes, whatever they do."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        processes: list[Any] = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def _prepare() -> None:
    """A worker leaves interruptions to the driver, and does not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait_for_end([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
