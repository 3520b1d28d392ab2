"""The banks in parts: what each rank holds, and how all parts make one bank of a run.

A part is the tensors of one local bank that share their first axis, one row a block:

    weights   blocks int64 [n], weights [n, …]
    state     blocks int64 [n], steps int64 [n], exp_avg, exp_avg_sq float32 [n, …]

`blocks` are numbers over all ranks, ascending, so that what a range of them needs of a part is one
slice of it. Read from a file, that slice alone comes into memory: safetensors maps the file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from sinkmodel.allocation import IntArray
from sinkmodel.lazy_adam import BlockAdam
from sinkmodel.sink_mlp import SinkBanks

Part = Mapping[str, Tensor]
BLOCKS = "blocks"


def weight_parts(sinks: SinkBanks, blocks: IntArray) -> Iterator[Part]:
    """The banks of this rank; `blocks` are the numbers of its blocks over all ranks."""
    numbers = torch.from_numpy(blocks)
    begin = 0
    for bank in sinks.banks:
        yield {BLOCKS: numbers[begin : begin + len(bank)], "weights": bank.detach()}
        begin += len(bank)


def state_parts(optimizer: BlockAdam, blocks: IntArray) -> Iterator[Part]:
    """The optimizer state of the touched blocks of this rank's banks."""
    numbers = torch.from_numpy(blocks)
    for state in optimizer.bank_states():
        yield {**state, BLOCKS: numbers[state[BLOCKS]]}


@torch.no_grad()
def restore_parts(
    sinks: SinkBanks,
    optimizer: BlockAdam,
    blocks: IntArray,
    weights: Sequence[Part],
    states: Sequence[Part],
) -> None:
    """Take over what `weight_parts` and `state_parts` gave."""
    numbers = torch.from_numpy(blocks)
    for bank, part in zip(sinks.banks, weights, strict=True):
        bank.copy_(part["weights"])
    optimizer.load_bank_states(
        [{**state, BLOCKS: torch.searchsorted(numbers, state[BLOCKS])} for state in states]
    )


def merged_weights(parts: Iterable[Part], begin: int, size: int) -> Tensor:
    """Blocks `begin` to `begin + size` of all parts; zeros where nobody owns one."""
    slices = list(_slices(parts, begin, size))
    shape, dtype = slices[0]["weights"].shape[1:], slices[0]["weights"].dtype
    bank = torch.zeros(size, *shape, dtype=dtype)
    for piece in slices:
        bank[piece[BLOCKS] - begin] = piece["weights"].cpu()
    return bank


def merged_state(parts: Iterable[Part], begin: int, size: int) -> Part:
    """State of the touched ones of these blocks, by ascending block."""
    slices = list(_slices(parts, begin, size))
    order = torch.argsort(torch.cat([piece[BLOCKS] for piece in slices]))
    return {name: torch.cat([piece[name].cpu() for piece in slices])[order] for name in slices[0]}


def _slices(parts: Iterable[Part], begin: int, size: int) -> Iterator[Part]:
    for part in parts:
        blocks = part[BLOCKS]
        low, high = torch.searchsorted(blocks, torch.tensor([begin, begin + size])).tolist()
        yield {name: tensor[low:high] for name, tensor in part.items()}


def bank_ranges(num_blocks: int, blocks_per_bank: int) -> list[tuple[int, int]]:
    """First block and size of every bank of a run."""
    firsts = range(0, num_blocks, blocks_per_bank)
    return [(first, min(blocks_per_bank, num_blocks - first)) for first in firsts]


def flat(parts: Iterable[Iterable[Part]]) -> list[Part]:
    """The parts of several ranks as one list."""
    return list(itertools.chain.from_iterable(parts))
