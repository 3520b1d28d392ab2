"""Several ranks of one training on this machine: a server with torch loaded forks them."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from trained_world import TINY, train_tiny

from manifests import open_manifest
from manifests.errors import GovernError
from sinkmodel.recipes import TrainConfig
from sinkmodel.train import Progress

WAIT_S = 60.0
Action = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every rank is to train.

    Args:
        manifests: The manifest that each rank opens; one for all of them by default.
        act: What ranks do after a micro-batch, by rank and number: `interrupt` or `kill`.
    """

    manifest: Path
    out: Path
    config: TrainConfig = TINY
    resume: bool = False
    manifests: Mapping[int, Path] | None = None
    act: tuple[int, int, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a rank ended: its error as one line, what it sent, and its exit code."""

    code: int | None
    error: str | None
    sent: tuple[int, ...]


def run_ranks(job: Job, *, world: int = 2) -> list[Ended]:
    """Train in `world` processes; a rank that has not ended in time is an error."""
    context = _context()
    port = _free_port()
    notes = [job.out.parent / f"{job.out.name}-{rank}.json" for rank in range(world)]
    for note in notes:
        note.unlink(missing_ok=True)
    ranks = [
        context.Process(target=_rank, args=(job, rank, world, port, notes[rank]))
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    deadline = time.monotonic() + WAIT_S
    for process in ranks:
        process.join(max(deadline - time.monotonic(), 0.1))
    hanging = [process for process in ranks if process.is_alive()]
    for process in hanging:
        process.kill()
    assert not hanging, f"{len(hanging)} of {world} ranks still run after {WAIT_S} s"
    return [
        Ended(code=process.exitcode, **_read(note))
        for process, note in zip(ranks, notes, strict=True)
    ]


def _read(note: Path) -> dict[str, Any]:
    if not note.exists():
        return {"error": None, "sent": ()}
    found = json.loads(note.read_text())
    return {"error": found["error"], "sent": tuple(found["sent"])}


@functools.cache
def _context() -> ForkServerContext:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # The server is a fresh interpreter, and finds what it is to load by this alone.
    here = Path(__file__).resolve().parent
    paths = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rank_world"])
    return context


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _rank(job: Job, rank: int, world: int, port: int, note: Path) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    error = None
    sent = _counted()
    manifest = open_manifest((job.manifests or {}).get(rank, job.manifest))
    try:
        train_tiny(manifest, job.out, job.config, resume=job.resume, report=_action(job, rank))
    except GovernError as fault:
        error = str(fault)
    note.write_text(json.dumps({"error": error, "sent": sent}))
    os._exit(0 if error is None else 1)  # as a launcher's process ends: waiting for nobody


def _action(job: Job, rank: int) -> Action | None:
    if job.act is None or job.act[0] != rank:
        return None
    _, after, what = job.act
    number = {"interrupt": signal.SIGINT, "kill": signal.SIGKILL}[what]

    def act(progress: Progress) -> None:
        if progress.done == after:
            os.kill(os.getpid(), number)

    return act


def _counted() -> list[int]:
    """Bytes of every message that this rank sends; any other way to send is an error."""
    import torch.distributed as dist

    sizes: list[int] = []
    real = dist.all_reduce

    def all_reduce(tensor: Any, *arguments: Any, **named: Any) -> Any:
        sizes.append(tensor.nbytes)
        return real(tensor, *arguments, **named)

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("sent in another way than all_reduce")

    dist.all_reduce = all_reduce
    for name in ("broadcast", "all_gather", "gather", "scatter", "send", "isend", "all_to_all",
                 "reduce", "reduce_scatter", "all_gather_into_tensor", "all_to_all_single",
                 "broadcast_object_list", "all_gather_object"):  # fmt: skip
        setattr(dist, name, refuse)
    return sizes
