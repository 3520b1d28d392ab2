"""What an engine is, and what crosses between it and its workers.

A task is a module-level function with one small argument (paths, numbers) that reads files and
publishes files. It may be begun twice, at the same time even, and gives the same files. So an
engine may repeat whatever died. What *failed* is not repeated: its fault comes back as a value,
because a full disk or a missing file does not heal by a fourth try.
"""

from __future__ import annotations

import re
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol, TypeVar

from manifests.errors import EngineError, GovernError

# Seconds in which at least one task of a stage must end. The longest task reads some gigabytes.
STALLED_AFTER = 1800.0
# How often a task may die with its worker before the build gives up.
MOST_DEATHS = 8

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PYTHON_ERROR = re.compile(r"[A-Z]\w*(Error|Exception): ")

A = TypeVar("A")
R = TypeVar("R")


class Engine(Protocol):
    """Runs the tasks of a stage."""

    def run(
        self,
        stage: str,
        function: Callable[[A], R],
        arguments: Sequence[A],
        finished: Callable[[int], None],
    ) -> list[R]:
        """Run a task for each argument, and return their results in order.

        Args:
            stage: How an error names it.
            function: A function that workers can import.
            arguments: What it is called with; small, since they travel.
            finished: Called with the number of tasks that have ended since the last call.

        Raises:
            GovernError: That of the first task which failed.
            EngineError: A task failed otherwise, died too often, or none ended for
                `STALLED_AFTER` seconds. Tasks that still run are stopped.
        """


@dataclass(frozen=True)
class Call:
    """A task on its way to a worker; `release` is that of the code which sends it."""

    stage: str
    function: Callable[[Any], Any]
    argument: Any
    release: str


@dataclass(frozen=True)
class Outcome:
    """What came of a task: its value, or its fault and where in the code that was."""

    value: Any = None
    fault: GovernError | None = None
    trace: str = ""


def release() -> str:
    """The release of this code."""
    return version("memsinks-govern")


def calls(stage: str, function: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Call]:
    """The tasks of a stage."""
    now = release()
    return [Call(stage, function, argument, now) for argument in arguments]


def attempt(call: Call) -> Outcome:
    """Run a task, on a worker."""
    try:
        _require_release(call)
        return Outcome(value=call.function(call.argument))
    except GovernError as error:
        return Outcome(fault=error, trace=traceback.format_exc())
    except OSError as error:
        return Outcome(fault=_refused(call.stage, error), trace=traceback.format_exc())
    except Exception as error:  # noqa: BLE001  whatever it is, the driver has to name the stage
        return Outcome(fault=_broken(call.stage, error), trace=traceback.format_exc())


def value_of(outcome: Outcome) -> Any:
    """The value of a task.

    Raises:
        GovernError: The task's fault; its cause has the worker's traceback.
    """
    if outcome.fault is not None:
        raise outcome.fault from RuntimeError(f"on a worker:\n{outcome.trace}")
    return outcome.value


class Watch:
    """Gives up on a stage in which no task ends any more."""

    def __init__(self, stage: str, limit: float) -> None:
        self._stage = stage
        self._limit = limit
        self._since = time.monotonic()

    def note(self, finished: int) -> None:
        """So many tasks have ended since the last call.

        Raises:
            EngineError: None for too long.
        """
        now = time.monotonic()
        if finished:
            self._since = now
        elif now - self._since > self._limit:
            raise EngineError(
                f"stage {self._stage}",
                expected=f"a task that ends within {self._limit:.0f} s",
                found="none",
                remedy="look whether the cluster has free workers, then run it again with --resume",
            )


def died(stage: str, found: str) -> EngineError:
    """The fault of a stage whose workers die again and again."""
    return EngineError(
        f"stage {stage}",
        expected="workers that live until their task has ended",
        found=found,
        remedy="look for a lack of memory on the workers, then run it again with --resume",
    )


def unloadable(stage: str, found: str) -> EngineError:
    """The fault of a stage whose tasks fail before a line of them runs."""
    return EngineError(
        f"stage {stage}",
        expected="workers that can load its tasks",
        found=found,
        remedy="install the same environment on every machine",
    )


def telling(error: Exception) -> str:
    """The line of an engine's error that says what happened, of the many around it."""
    lines = [_COLOUR.sub("", line).strip(": ") for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith("An error occurred while")]
    python = [line for line in lines if _PYTHON_ERROR.match(line)]
    return (python[-1:] or lines[:1] or [type(error).__name__])[0]


def _require_release(call: Call) -> None:
    mine = release()
    if mine != call.release:
        raise EngineError(
            f"worker on {socket.gethostname()}",
            expected=f"memsinks-govern {call.release}, as the driver has it",
            found=mine,
            remedy="install the same release on every machine",
        )


def _refused(stage: str, error: OSError) -> EngineError:
    return EngineError(
        f"stage {stage}, {error.filename or 'a working file'}",
        expected=f"reading and writing to work on {socket.gethostname()}",
        found=str(error),
        remedy="mend it (room, permissions, one file system for all machines), then run it again "
        "with --resume",
    )


def _broken(stage: str, error: Exception) -> EngineError:
    return EngineError(
        f"stage {stage}",
        expected=f"its task on {socket.gethostname()} to run to its end",
        found=f"{type(error).__name__}: {error}",
        remedy="run it again with --resume; --debug shows where it was",
    )
