"""Tasks on Ray: plain core tasks, which Ray repeats when a worker or a machine dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from govern.engines import base
from govern.engines.address import ANSWER_WITHIN, require_listener, unreachable
from govern.engines.base import A, R
from govern.ids.readers.extras import required
from manifests.errors import EngineError

_TICK = 1.0  # seconds between two looks at a stage
_OBJECTS = 100 << 20  # bytes: arguments and results are small


@contextmanager
def connect(address: str | None, workers: int) -> Iterator[Ray]:
    """A Ray cluster: the one at `address` (`auto` or `host:port`), or a new one.

    Raises:
        MissingExtraError: Ray is not installed.
        EngineError: There is no cluster at the address, or none could be begun.
    """
    # Ray tells its makers of every cluster unless it is told not to; a user's own choice stands.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = required("ray", "ray", "--engine ray")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        options |= {
            "address": "local",  # else a cluster that somebody else left running here
            "num_cpus": workers,
            "include_dashboard": False,
            "object_store_memory": _OBJECTS,
        }
    else:
        _require_cluster(address)
        options["address"] = address
    stops = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        if address is not None:
            raise unreachable(address, str(error)) from error
        raise EngineError(
            "--engine ray",
            expected="a Ray cluster that begins on this machine",
            found=str(error),
            remedy="mend it, or name a cluster with --engine-address",
        ) from error
    if threading.current_thread() is threading.main_thread():
        # Ray would end the process where our own handler says how to go on.
        signal.signal(signal.SIGTERM, stops)
    try:
        yield Ray()
    finally:
        ray.shutdown()


def _require_cluster(address: str) -> None:
    """Ask in a process of its own, which can be ended: Ray itself waits for two minutes."""
    require_listener(address)
    asked = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR')"
    try:
        answer = subprocess.run(
            [sys.executable, "-c", asked, address],
            capture_output=True,
            text=True,
            timeout=ANSWER_WITHIN,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise unreachable(address, f"no answer within {ANSWER_WITHIN:.0f} s") from error
    if answer.returncode:
        said = answer.stderr.strip().splitlines() or ["nothing"]
        raise unreachable(address, said[-1])


class Ray:
    """An `Engine` of Ray tasks, in a process that is connected to a cluster.

    Args:
        stalled_after: Seconds in which some task of a stage must end.
    """

    def __init__(self, stalled_after: float = base.STALLED_AFTER) -> None:
        self._stalled_after = stalled_after

    def run(
        self,
        stage: str,
        function: Callable[[A], R],
        arguments: Sequence[A],
        finished: Callable[[int], None],
    ) -> list[R]:
        """Run a task for each argument: see `base.Engine`."""
        import ray

        remote = ray.remote(max_retries=base.MOST_DEATHS, num_cpus=1)(base.attempt)
        numbers = {
            remote.remote(call): number
            for number, call in enumerate(base.calls(stage, function, arguments))
        }
        values: dict[int, R] = {}
        waiting = list(numbers)
        watch = base.Watch(stage, self._stalled_after)
        try:
            while waiting:
                ended, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_TICK)
                for reference in ended:
                    values[numbers[reference]] = base.value_of(ray.get(reference))
                watch.note(len(ended))
                finished(len(ended))
        except ray.exceptions.RayTaskError as error:
            raise base.unloadable(stage, base.telling(error)) from error
        except ray.exceptions.RayError as error:
            raise base.died(stage, base.telling(error)) from error
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)
        return [values[number] for number in range(len(arguments))]
