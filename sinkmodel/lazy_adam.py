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
        sizes = itertools.accumulate((len(bank) for bank in sinks.banks), initial=0)
        self._firsts = list(sizes)[:-1]
        self._state = _TouchedBlocks(sinks, directory)

    @torch.no_grad()
    def step(self, *, rate: float = 1.0) -> None:
        """Update the blocks that have gradients, then drop the gradients.

        All banks at once: what a step costs does not depend on how many banks its blocks lie in.

        Args:
            rate: The schedule's multiple of `lr`.

        Raises:
            TypeError: A bank's gradient is dense, which would touch every block.
        """
        touched = []
        for first, bank in zip(self._firsts, self.sinks.banks, strict=True):
            if bank.grad is not None:
                if not bank.grad.is_sparse:
                    raise TypeError("the gradient of a bank must be row-sparse")
                gradient = bank.grad.coalesce()
                touched.append((bank, gradient.indices()[0], first, gradient.values()))
        if not touched:
            return
        weights = self._updated(
            torch.cat([bank[rows] for bank, rows, _, _ in touched]).float(),
            torch.cat([values for _, _, _, values in touched]).float(),
            torch.cat([rows + first for _, rows, first, _ in touched]),
            rate,
        )
        parts = weights.split([len(rows) for _, rows, _, _ in touched])
        for (bank, rows, _, _), part in zip(touched, parts, strict=True):
            bank.grad = None
            bank[rows] = part.to(bank)

    def _updated(self, weights: Tensor, gradient: Tensor, blocks: Tensor, rate: float) -> Tensor:
        """New weights [U, …] float32 of the touched blocks; moves their state."""
        state = self._state
        if self.clip_norm is not None:
            gradient = _clipped(gradient, self.clip_norm)
        slots = state.slots(blocks)
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
        tensors = self._state.tensors()
        edges = torch.tensor([*self._firsts, self.sinks.num_blocks])
        cuts = torch.searchsorted(tensors["blocks"], edges).tolist()
        return [
            {name: tensor[low:high] for name, tensor in tensors.items()}
            for low, high in itertools.pairwise(cuts)
        ]

    def load_bank_states(self, banks: list[dict[str, Tensor]]) -> None:
        """The inverse of `bank_states`.

        Raises:
            CheckpointError: Another number of banks, or tensors that do not fit them.
        """
        if len(banks) != len(self._firsts):
            raise CheckpointError(
                "optimizer state of the sinks",
                expected=f"{len(self._firsts)} banks",
                found=f"{len(banks)}",
                remedy="resume with the state that was saved with this model",
            )
        for bank, first, tensors in zip(self.sinks.banks, self._firsts, banks, strict=True):
            _require_fit(bank, first, tensors)
        if banks:
            names = ("blocks", "steps", *_MOMENTS)
            self._state.load({name: torch.cat([part[name] for part in banks]) for name in names})


def _require_fit(bank: Tensor, first: int, tensors: dict[str, Tensor]) -> None:
    rows = (tensors["blocks"] - first).tolist()
    shape = (len(rows), *bank.shape[1:])
    fits = all(tuple(tensors[name].shape) == shape for name in _MOMENTS)
    inside = rows == sorted(set(rows) & set(range(len(bank))))
    if not fits or not inside:
        raise CheckpointError(
            "optimizer state of a bank",
            expected=f"ascending blocks of a bank of {len(bank)} from {first}, with moments "
            f"{list(shape)}",
            found=f"{len(rows)} blocks with moments {list(tensors['exp_avg'].shape)}",
            remedy="resume with the state that was saved with this model",
        )


class _TouchedBlocks:
    """Adam's state of the touched blocks, in slots in the order of first touch."""

    def __init__(self, sinks: SinkBanks, directory: Path | None) -> None:
        self._sinks = sinks
        self._slot_of_block: dict[int, int] = {}
        self.exp_avg, self.exp_avg_sq = self._zeros(0), self._zeros(0)
        if directory is not None and sinks.num_blocks:
            # Room for every block, of which the file takes what is touched: slots fill from the
            # front.
            shape = (sinks.num_blocks, *self.exp_avg.shape[1:])
            self.exp_avg, self.exp_avg_sq = (
                mapped(directory / name, shape, torch.float32) for name in _MOMENTS
            )
        self.steps = torch.zeros(len(self.exp_avg), dtype=torch.int64)

    def _zeros(self, slots: int) -> Tensor:
        sinks = self._sinks
        shape = (slots, sinks.layers, 3, sinks.block_size, sinks.hidden)
        device = sinks.banks[0].device if len(sinks.banks) else None
        return torch.zeros(shape, dtype=torch.float32, device=device)

    def slots(self, blocks: Tensor) -> Tensor:
        """The slot of each block; new blocks get new slots with zero moments."""
        known = self._slot_of_block
        slots = [known.setdefault(block, len(known)) for block in blocks.tolist()]
        missing = len(known) - len(self.exp_avg)
        if missing > 0:
            # Doubling keeps the copies linear in the touched blocks.
            most = self._sinks.num_blocks - len(self.exp_avg)
            missing = min(max(missing, len(self.exp_avg)), most)
            self.exp_avg = torch.cat([self.exp_avg, self._zeros(missing)])
            self.exp_avg_sq = torch.cat([self.exp_avg_sq, self._zeros(missing)])
            self.steps = torch.cat([self.steps, self.steps.new_zeros(missing)])
        return torch.tensor(slots, dtype=torch.int64)

    def tensors(self) -> dict[str, Tensor]:
        """The state sorted by block: equal states give equal tensors, whatever came first."""
        blocks = sorted(self._slot_of_block)
        slots = torch.tensor([self._slot_of_block[block] for block in blocks], dtype=torch.int64)
        return {
            "blocks": torch.tensor(blocks, dtype=torch.int64),
            "steps": self.steps[slots],
            "exp_avg": self.exp_avg[slots],
            "exp_avg_sq": self.exp_avg_sq[slots],
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Replace the state by what `tensors` gave."""
        self._slot_of_block = {}
        slots = self.slots(tensors["blocks"])
        self.exp_avg[slots], self.exp_avg_sq[slots] = (
            tensors[name].to(self.exp_avg.device) for name in _MOMENTS
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
