"""Ranks: the processes of one training, and the little that they tell each other.

    joined          become a rank of the group that a launcher describes, or a rank alone
    meet            does anyone want to stop, has anyone failed?
    add_gradients   sums of the shared gradients over all ranks
    together        work that ends well on every rank or is an error on every rank

Gradients of shared parameters and a few numbers are all that is sent: nothing here knows of sinks.
A rank alone sends nothing, so one process and several run the same code.

Any launcher will do that starts equal processes and sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR
and MASTER_PORT (torchrun, `accelerate launch`, Slurm), or has made the default process group
already (Ray Train).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from manifests.errors import GovernError, TrainingError

_BUCKET_BYTES = 32 << 20  # gradients sent at once: few messages, little memory for the copy
_DIGITS = 15  # hex digits of a digest that fit into a positive int64


def is_first_rank() -> bool:
    """Whether this process is the one that speaks to people; needs no process group yet."""
    return int(os.environ.get("RANK", "0")) == 0


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """One rank's view of the group.

    Args:
        rank: Of this process, from 0.
        world: How many there are.
        device: Of the tensors that are sent.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable

    @property
    def alone(self) -> bool:
        """Whether this is the only rank."""
        return self.world == 1

    @property
    def first(self) -> bool:
        """Whether this rank writes what is not sharded."""
        return self.rank == 0

    def sums(self, values: Sequence[float]) -> list[float]:
        """The sum over all ranks of each value, in float64.

        Raises:
            TrainingError: Another rank is gone, as in all methods here.
        """
        if self.alone:
            return list(values)
        return self._reduced(torch.tensor(values, dtype=torch.float64), dist.ReduceOp.SUM)

    def meet(self, *, stop: bool, failed: bool) -> tuple[bool, bool]:
        """Whether any rank wants to stop, and whether any has failed."""
        stops, failures = self.sums([stop, failed])
        return stops > 0, failures > 0

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every parameter the sum of its gradients over all ranks, in place.

        A rank without a gradient adds zeros. The order of the sum is fixed by shapes and ranks, so
        equal gradients give equal bits, and all ranks get the same bits.
        """
        if self.alone:
            return
        for bucket in _buckets(parameters):
            flat = torch.cat([_gradient(parameter).flatten() for parameter in bucket])
            with _answered():
                dist.all_reduce(flat)
            at = 0
            for parameter in bucket:
                parameter.grad = flat[at : at + parameter.numel()].view_as(parameter)
                at += parameter.numel()

    @contextmanager
    def together(self) -> Iterator[None]:
        """All ranks do this, and go on when all have: an error of one is an error of all."""
        own: Exception | None = None
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised again when the others know
            own = error
        failures = self.sums([own is not None])[0]
        if own is not None:
            raise own
        if failures:
            raise _another_failed()

    def require_same(self, what: str, digest: str) -> None:
        """Refuse to go on unless every rank has the same digest.

        Args:
            what: What it is a digest of.
            digest: Hex.

        Raises:
            TrainingError: The ranks differ.
        """
        if self.alone:
            return
        number = int(digest[:_DIGITS], 16)
        most, least = self._reduced(torch.tensor([number, -number]), dist.ReduceOp.MAX)
        if most != -least:
            raise TrainingError(
                what,
                expected=f"the same on all {self.world} ranks",
                found=f"{digest[:12]} on rank {self.rank} and another on some rank",
                remedy="give every rank the same manifest, corpus, options and versions",
            )

    def _reduced(self, values: Tensor, operation: Any) -> list[Any]:
        values = values.to(self.device)
        with _answered():
            dist.all_reduce(values, op=operation)
            return values.tolist()


@contextmanager
def joined(timeout_s: float) -> Iterator[Ranks]:
    """The group that the launcher describes; without a launcher, a rank alone.

    Args:
        timeout_s: Seconds to wait for another rank before it counts as gone. A rank that was killed
            is noticed at once by those that share a connection with it.

    Raises:
        TrainingError: The others cannot be reached.
    """
    if not dist.is_available():
        yield Ranks()
        return
    began = False
    if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _begin(timeout_s)
        began = True
    if not dist.is_initialized() or dist.get_world_size() == 1:
        yield Ranks()
        return
    on_gpu = torch.cuda.is_available() and "nccl" in dist.get_backend_config()
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    yield Ranks(rank=dist.get_rank(), world=dist.get_world_size(), device=device)
    if began:  # after an error others may be gone, and leaving would wait for them
        dist.destroy_process_group()


def _begin(timeout_s: float) -> None:
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"rank {os.environ.get('RANK', '?')} of {os.environ['WORLD_SIZE']}",
            expected="all other ranks at MASTER_ADDR:MASTER_PORT",
            found=(str(error).splitlines() or [type(error).__name__])[0],
            remedy="start all ranks with one launcher, for example torchrun --nproc-per-node 2",
        ) from error


def shared_digest(tensors: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 over names and bytes of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters in order, cut where a bucket is full or the type changes."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if bucket and (size >= _BUCKET_BYTES or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.nbytes
    if bucket:
        yield bucket


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


@contextmanager
def _answered() -> Iterator[None]:
    """Make a lost connection one line that says what to do."""
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            f"rank {dist.get_rank()} of {dist.get_world_size()}",
            expected="an answer from every rank",
            found=(str(error).splitlines() or [type(error).__name__])[0],
            remedy="see why another rank stopped; run the same command with --resume to go on from "
            "the last save",
        ) from error


def _another_failed() -> GovernError:
    return TrainingError(
        f"rank {dist.get_rank()} of {dist.get_world_size()}",
        expected="every rank to go on",
        found="an error on another rank",
        remedy="see its message",
    )
