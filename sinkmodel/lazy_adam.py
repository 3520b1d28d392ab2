"""BlockAdam: AdamW that knows only the blocks that were ever touched.

A block's moments and its step count move only in steps whose batch used the block, so they are a
function of its own gradients alone; memory and time grow with the touched blocks, not the banks.

Bit-exactness across batches: which other blocks a step touches decides how the arrays are cut
into vectors and threads. Therefore every kernel here rounds once (no fused multiply-add, which a
vector body and its scalar tail may round differently), and every sum runs over one block.

Tensor suffixes: U touched blocks of a step; "…" the axes [layers, 3, block_size, hidden].
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from torch import Tensor

from manifests.errors import CheckpointError
from sinkmodel.sink_mlp import SinkBanks, mapped

_MOMENTS = ("exp_avg", "exp_avg_sq")


class BlockAdam:
    """Adam with decoupled weight decay (Loshchilov, Hutter, arXiv 1711.05101) by block.

    Args:
        sinks: The banks; their gradients must be row-sparse, as `SinkBanks.gather` makes them.
        lr: Learning rate at `rate=1`.
        betas, eps: Of Adam (Kingma, Ba, arXiv 1412.6980, algorithm 1).
        weight_decay: Share of a weight that one step at learning rate 1 takes; only in steps that
            touch the block.
        clip_norm: Bound on the gradient's norm of each block; None does not clip. By block, so
            that one sequence's step never depends on another's gradient.
        directory: Keep the moments in files here, mapped into memory; by default in memory.
    """

    def __init__(
        self,
        sinks: SinkBanks,
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        clip_norm: float | None = 1.0,
        directory: Path | None = None,
    ) -> None:
        self.sinks = sinks
        self.lr = lr
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        firsts = itertools.accumulate((len(bank) for bank in sinks.banks), initial=0)
        self._states = [
            _TouchedBlocks(bank, first, directory)
            for bank, first in zip(sinks.banks, firsts, strict=False)
        ]

    @torch.no_grad()
    def step(self, *, rate: float = 1.0) -> None:
        """Update the blocks that have gradients, then drop the gradients.

        Args:
            rate: The schedule's multiple of `lr`.

        Raises:
            TypeError: A bank's gradient is dense, which would touch every block.
        """
        for bank, state in zip(self.sinks.banks, self._states, strict=True):
            if bank.grad is None:
                continue
            if not bank.grad.is_sparse:
                raise TypeError("the gradient of a bank must be row-sparse")
            gradient = bank.grad.coalesce()
            bank.grad = None
            rows = gradient.indices()[0]
            if len(rows):
                values = gradient.values().float()
                bank[rows] = self._updated(bank[rows].float(), values, state, rows, rate).to(bank)

    def _updated(
        self, weights: Tensor, gradient: Tensor, state: _TouchedBlocks, rows: Tensor, rate: float
    ) -> Tensor:
        """New weights [U, …] float32 of the touched rows; moves their state."""
        if self.clip_norm is not None:
            gradient = _clipped(gradient, self.clip_norm)
        slots = state.slots(rows)
        state.steps[slots] += 1
        beta1, beta2 = self.betas
        first = state.exp_avg[slots] * beta1 + gradient * (1 - beta1)
        second = state.exp_avg_sq[slots] * beta2 + gradient * gradient * (1 - beta2)
        state.exp_avg[slots], state.exp_avg_sq[slots] = first, second
        # Powers in Python: torch's vectorised power may differ in the last bit with the position.
        steps = state.steps[slots].tolist()
        correction1 = _by_block([1 - beta1**step for step in steps], weights)
        correction2 = _by_block([(1 - beta2**step) ** 0.5 for step in steps], weights)
        lr = self.lr * rate
        change = first / correction1 / (second.sqrt() / correction2 + self.eps)
        return weights * (1 - lr * self.weight_decay) - change * lr

    def bank_states(self) -> list[dict[str, Tensor]]:
        """For every bank the state of its touched blocks, as named tensors.

        Returns:
            `blocks` int64 [n] (indices over all banks, ascending), `steps` int64 [n], `exp_avg` and
            `exp_avg_sq` float32 [n, …].
        """
        return [state.tensors() for state in self._states]

    def load_bank_states(self, banks: list[dict[str, Tensor]]) -> None:
        """The inverse of `bank_states`.

        Raises:
            CheckpointError: Another number of banks, or tensors that do not fit them.
        """
        if len(banks) != len(self._states):
            raise CheckpointError(
                "optimizer state of the sinks",
                expected=f"{len(self._states)} banks",
                found=f"{len(banks)}",
                remedy="resume with the state that was saved with this model",
            )
        for state, tensors in zip(self._states, banks, strict=True):
            state.load(tensors)


class _TouchedBlocks:
    """Adam's state of the touched blocks of one bank, in slots in the order of first touch."""

    def __init__(self, bank: Tensor, first_block: int, directory: Path | None) -> None:
        self._bank = bank
        self._first_block = first_block
        self._slot_of_row: dict[int, int] = {}
        self.exp_avg, self.exp_avg_sq = self._zeros(0), self._zeros(0)
        if directory is not None:
            # Room for every block, of which the file takes what is touched: slots fill from the
            # front.
            self.exp_avg, self.exp_avg_sq = (
                mapped(directory / f"{name}-{first_block}", bank.shape, torch.float32)
                for name in _MOMENTS
            )
        self.steps = torch.zeros(len(self.exp_avg), dtype=torch.int64)

    def _zeros(self, slots: int) -> Tensor:
        shape = (slots, *self._bank.shape[1:])
        return torch.zeros(shape, dtype=torch.float32, device=self._bank.device)

    def slots(self, rows: Tensor) -> Tensor:
        """The slot of each row; new rows get new slots with zero moments."""
        known = self._slot_of_row
        slots = [known.setdefault(row, len(known)) for row in rows.tolist()]
        missing = len(known) - len(self.exp_avg)
        if missing > 0:
            # Doubling keeps the copies linear in the touched blocks.
            missing = min(max(missing, len(self.exp_avg)), len(self._bank) - len(self.exp_avg))
            self.exp_avg = torch.cat([self.exp_avg, self._zeros(missing)])
            self.exp_avg_sq = torch.cat([self.exp_avg_sq, self._zeros(missing)])
            self.steps = torch.cat([self.steps, self.steps.new_zeros(missing)])
        return torch.tensor(slots, dtype=torch.int64)

    def tensors(self) -> dict[str, Tensor]:
        """The state sorted by row: equal states give equal tensors, whatever came first."""
        rows = sorted(self._slot_of_row)
        slots = torch.tensor([self._slot_of_row[row] for row in rows], dtype=torch.int64)
        return {
            "blocks": torch.tensor(rows, dtype=torch.int64) + self._first_block,
            "steps": self.steps[slots],
            "exp_avg": self.exp_avg[slots],
            "exp_avg_sq": self.exp_avg_sq[slots],
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Replace the state by what `tensors` gave."""
        rows = (tensors["blocks"] - self._first_block).tolist()
        shape = (len(rows), *self._bank.shape[1:])
        fits = all(tuple(tensors[name].shape) == shape for name in _MOMENTS)
        inside = rows == sorted(set(rows) & set(range(len(self._bank))))
        if not fits or not inside:
            raise CheckpointError(
                "optimizer state of a bank",
                expected=f"ascending blocks of a bank of {len(self._bank)} from "
                f"{self._first_block}, with moments {list(shape)}",
                found=f"{len(rows)} blocks with moments {list(tensors['exp_avg'].shape)}",
                remedy="resume with the state that was saved with this model",
            )
        self._slot_of_row = {}
        slots = self.slots(tensors["blocks"] - self._first_block)
        self.exp_avg[slots], self.exp_avg_sq[slots] = (
            tensors[name].to(self._bank.device) for name in _MOMENTS
        )
        self.steps[slots] = tensors["steps"].cpu()


def _clipped(gradient: Tensor, bound: float) -> Tensor:
    """Each block [U, …] scaled to a norm of at most `bound`."""
    # One by one: a reduction over many blocks at once may add in another order.
    norms = torch.stack([torch.linalg.vector_norm(block) for block in gradient])
    scale = (bound / norms).clamp(max=1.0)
    return gradient * scale.view(-1, *[1] * (gradient.ndim - 1))


def _by_block(values: list[float], like: Tensor) -> Tensor:
    """One number a block, shaped to multiply [U, …]."""
    return torch.tensor(values, dtype=torch.float32, device=like.device).view(
        -1, *[1] * (like.ndim - 1)
    )
