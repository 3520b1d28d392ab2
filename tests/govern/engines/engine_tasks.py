"""Tasks that succeed, fail, die and sleep; importable by workers."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from manifests.errors import InputError


@dataclass(frozen=True)
class Work:
    """What a task is to do."""

    number: int
    folder: str = ""


WORK = [Work(number) for number in range(5)]


def fails_as_user(work: Work) -> int:
    raise InputError(f"corpus file {work.number}", expected="a", found="b", remedy="do c")


def fails_as_code(work: Work) -> int:
    return 1 // (work.number - work.number)


def fails_as_disk(work: Work) -> int:
    return len(Path(f"/nowhere/{work.number}").read_bytes())


def squares(work: Work) -> int:
    return work.number**2


def dies_once(work: Work) -> int:
    """The first try of every third task is killed."""
    mark = Path(work.folder) / str(work.number)
    if work.number % 3 == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return work.number


def always_dies(_: Work) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def sleeps(work: Work) -> int:
    time.sleep(60)
    return work.number


def first_fails(work: Work) -> int:
    return sleeps(work) if work.number else fails_as_user(work)
