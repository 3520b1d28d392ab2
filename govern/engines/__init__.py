"""Who runs the tasks of a stage: processes of this machine, Ray, or Spark.

    base       what an engine is: `Engine.run`; how the fault of a task comes back
    processes  processes of this machine
    ray        a Ray cluster, or one of this machine
    spark      a Spark cluster, or one of this machine
    address    whether anybody listens there

An engine brings scheduling, placement and a second try after a death, and nothing else: what a task
does, and what becomes of its files, is `govern.ids`' own (`tasks`, `exchange`, `staged`).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from manifests.errors import InputError

if TYPE_CHECKING:
    from govern.engines.base import Engine

# `local` is threads of this process, which pass arrays to each other: it needs no tasks.
LOCAL = "local"
ENGINES = (LOCAL, "processes", "ray", "spark")
_CLUSTERS = ("ray", "spark")


@contextmanager
def open_engine(name: str, address: str | None, workers: int) -> Iterator[Engine | None]:
    """An engine, ready to run tasks; None for `local`.

    Args:
        name: One of `ENGINES`.
        address: A cluster that is there; by default one is begun on this machine.
        workers: Processes on this machine, where there is no address.

    Raises:
        InputError: No such engine, or one that takes no address.
        MissingExtraError: Its library is not installed.
        EngineError: Nobody answers at the address, or it cannot be begun.
    """
    if name not in ENGINES:
        raise InputError(
            f"--engine {name}",
            expected=f"one of {', '.join(ENGINES)}",
            found="another name",
            remedy="choose one of these",
        )
    if address is not None and name not in _CLUSTERS:
        raise InputError(
            f"--engine-address {address}",
            expected="an engine that has one (--engine ray or spark)",
            found=f"--engine {name}",
            remedy="leave the address out, or name the engine",
        )
    if name == LOCAL:
        yield None
        return
    module = importlib.import_module(f"govern.engines.{name}")
    with module.connect(address, workers) as engine:
        yield engine
