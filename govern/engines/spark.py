"""Tasks on Spark: one partition a task, which Spark repeats when an executor dies."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from govern.engines import base
from govern.engines.address import ANSWER_WITHIN, CONNECT_WITHIN, require_listener, unreachable
from govern.engines.base import A, R
from govern.ids.readers.extras import required
from manifests.errors import EngineError, InputError

_TICK = 0.2  # seconds between two looks at a stage
_ENDS_WITHIN = 3.0  # seconds for Java, which has nothing to do any more


@contextmanager
def connect(address: str | None, workers: int) -> Iterator[Spark]:
    """A Spark cluster: the one at `address` (a master URL), or one on this machine.

    Raises:
        MissingExtraError: PySpark is not installed.
        InputError: The address is one of Spark Connect.
        EngineError: There is no cluster at the address, or none could be begun.
    """
    required("pyspark", "spark", "--engine spark")
    master = address or f"local[{workers},{base.MOST_DEATHS}]"
    if master.startswith("sc://"):
        raise InputError(
            f"--engine-address {address}",
            expected="a master such as spark://host:7077, yarn or k8s://https://host:port",
            found="Spark Connect, which has no tasks",
            remedy="give the master's own address",
        )
    asked = time.monotonic()
    require_listener(master)
    conf = _conf(master)
    gateway = _gateway(master, conf)
    try:
        wait = None
        if master.startswith("spark://"):
            # Java may have taken long to begin, but a cluster that is there wants some seconds too.
            wait = max(CONNECT_WITHIN, ANSWER_WITHIN - (time.monotonic() - asked))
        context = _context(master, gateway, conf, wait)
        try:
            yield Spark(context)
        finally:
            context.stop()
    finally:
        _end(gateway)


def _conf(master: str) -> Any:
    from pyspark import SparkConf

    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "OFF",
        "spark.task.maxFailures": str(base.MOST_DEATHS),
        "spark.python.worker.reuse": "true",
    }
    if master.startswith("local"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        settings |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    conf = SparkConf().setMaster(master).setAppName("govern ids")
    for name, value in settings.items():
        if not conf.contains(name):
            conf.set(name, value)
    return conf


def _gateway(master: str, conf: Any) -> Any:
    """Java with Spark in it; without the lines with which both greet."""
    from pyspark.java_gateway import launch_gateway

    try:
        return launch_gateway(conf, {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL})
    except Exception as error:  # PySpark's errors have no common root but this
        raise _unusable(master, error) from error


def _context(master: str, gateway: Any, conf: Any, wait: float | None) -> Any:
    """A SparkContext; in a thread of its own, since Spark asks a silent master for a minute.

    Args:
        master: The master's URL.
        gateway: Java.
        conf: A SparkConf.
        wait: Seconds for the master's answer; None to leave it to Spark.
    """
    from pyspark import SparkContext

    found: list[Any] = []

    def begin() -> None:
        try:
            found.append(SparkContext(gateway=gateway, conf=conf))
        except Exception as error:  # noqa: BLE001  Java's errors have no common root but this
            found.append(error)

    thread = threading.Thread(target=begin, daemon=True)
    thread.start()
    thread.join(wait)
    if not found:
        raise unreachable(master, f"no answer within {ANSWER_WITHIN:.0f} s")
    if isinstance(found[0], Exception):
        raise _unusable(master, found[0]) from found[0]
    return found[0]


def _unusable(master: str, error: Exception) -> EngineError:
    return EngineError(
        f"--engine spark at {master}",
        expected="a Spark cluster that can be used",
        found=base.telling(error),
        remedy="see that Java 17 or later is installed and the master is right",
    )


def _end(gateway: Any) -> None:
    """End Java, which would stay as long as this process."""
    from pyspark import SparkContext

    SparkContext._gateway = SparkContext._jvm = None
    gateway.shutdown()
    if gateway.proc is not None:  # else somebody else began it
        gateway.proc.stdin.close()
        try:
            gateway.proc.wait(_ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            gateway.proc.kill()
            gateway.proc.wait()


class Together:
    """Adds up lists in an accumulator, in the form that Spark wants."""

    def zero(self, _: list[base.Outcome]) -> list[base.Outcome]:
        """Nothing."""
        return []

    def addInPlace(self, one: list[base.Outcome], other: list[base.Outcome]) -> list[base.Outcome]:  # noqa: N802
        """Both."""
        return one + other


class Spark:
    """An `Engine` of Spark tasks.

    Args:
        context: The SparkContext.
        stalled_after: Seconds in which some task of a stage must end.
    """

    def __init__(self, context: Any, stalled_after: float = base.STALLED_AFTER) -> None:
        self._context = context
        self._stalled_after = stalled_after
        self._stages = 0

    def run(
        self,
        stage: str,
        function: Callable[[A], R],
        arguments: Sequence[A],
        finished: Callable[[int], None],
    ) -> list[R]:
        """Run a task for each argument: see `base.Engine`."""
        from pyspark import InheritableThread

        if not arguments:
            return []
        self._stages += 1
        group = f"govern-{os.getpid()}-{self._stages}"
        found: list[Any] = []
        faults = self._context.accumulator([], Together())

        def noted(call: base.Call) -> base.Outcome:
            outcome = base.attempt(call)
            if outcome.fault is not None:
                faults.add([outcome])
            return outcome

        def collect() -> None:
            try:
                self._context.setJobGroup(group, stage, interruptOnCancel=True)
                tasks = base.calls(stage, function, arguments)
                found.append(self._context.parallelize(tasks, len(tasks)).map(noted).collect())
            except Exception as error:  # noqa: BLE001  Java's errors have no common root but this
                found.append(error)

        thread = InheritableThread(target=collect, daemon=True)
        thread.start()
        watch = base.Watch(stage, self._stalled_after)
        done = 0
        try:
            while thread.is_alive():
                thread.join(_TICK)
                now = max(done, self._finished(group))
                watch.note(now - done)
                finished(now - done)
                done = now
                # Results come when all tasks have ended; a fault is not waited for.
                for outcome in faults.value:
                    base.value_of(outcome)
        except BaseException:
            self._context.cancelJobGroup(group)
            raise
        if isinstance(found[0], Exception):
            fault = base.unloadable if "PythonException" in str(found[0]) else base.died
            raise fault(stage, base.telling(found[0])) from found[0]
        finished(len(arguments) - done)
        return [base.value_of(outcome) for outcome in found[0]]

    def _finished(self, group: str) -> int:
        """How many tasks of a job have ended, as far as Spark still knows."""
        tracker = self._context.statusTracker()
        count = 0
        for job in tracker.getJobIdsForGroup(group):
            info = tracker.getJobInfo(job)
            for number in info.stageIds if info else ():
                stage = tracker.getStageInfo(number)
                count += stage.numCompletedTasks if stage else 0
        return count
