"""Sink banks and the gathered forward: only the sinks of the sequences in the batch are computed.

    route          sequence IDs of a batch -> Routing, once for all layers
    SinkBanks      the banks; `gather` copies the active blocks, with row-sparse gradients
    gathered_sinks one layer's sinks, added to the shared neurons' output
    reference_sink_mlp   the same by the definition: every neuron of every bank, masked per token

Tensor suffixes: B rows, T tokens of a row, N = B * T, D hidden, L layers, S block size,
G sequences of a bucket, P padded tokens of a bucket (or of all buckets), W sink neurons of a
sequence (padded within a bucket), Q block slots of all buckets.

Sequences of similar size are padded to one *bucket* and multiplied by one `bmm`. A sequence alone
in its batch is alone in its bucket, unpadded, and its blocks are copied in its own order before
they are used: its numbers depend neither on where its blocks lie nor on how large the banks are.

Source: the architecture of MemSinks (arXiv 2507.09937, section 4) and NULLs (arXiv 2606.13873),
with blocks for neurons and without their dense masks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sinkmodel.allocation import BlockLists, IntArray, SinkMap
from sinkmodel.initial import initial_blocks

Activation = Callable[[Tensor], Tensor]

# A bucket may hold so many times the multiplications that its sequences need: more padding but
# fewer kernels. On a CPU 1 to 2 are alike and 3 is worse, see docs/benchmarks/model.md.
_PADDING = 1.5
_INIT_CHUNK = 1 << 22  # elements generated at a time


@dataclass(frozen=True)
class Bucket:
    """Sequences that one `bmm` computes: how many, their padded tokens and padded blocks."""

    groups: int
    tokens: int
    blocks: int


@dataclass(frozen=True)
class Routing:
    """Where the sinks of a batch come from and where their output goes.

    Args:
        buckets: In order of their padded tokens and slots.
        tokens: int64 [P], the flat token at each padded place of all buckets (0 at padding).
        places: int64 [N], the padded place of each flat token (0 where it has no sinks).
        active: bool [N, 1], whether a token has sinks.
        rows: For every bank that is used: its index, and the rows to copy from it.
        slots: int64 [Q], for each block slot of all buckets the row in the copied blocks of all
            banks one after another; one past the end is a block of zeros. None if the copied
            blocks are the slots already.
    """

    buckets: tuple[Bucket, ...]
    tokens: Tensor
    places: Tensor
    active: Tensor
    rows: tuple[tuple[int, Tensor], ...]
    slots: Tensor | None


# Neither is for `torch.compile`: which blocks a batch needs is known by looking at it. All layers
# after them are one graph.
_NOT_COMPILED = "sinks are found and copied once a batch, before the layers"


@torch.compiler.disable(reason=_NOT_COMPILED)
def route(sequence_ids_BT: Tensor, sink_map: SinkMap, *, blocks_per_bank: int) -> Routing | None:
    """Find the blocks of every token's sequence.

    Args:
        sequence_ids_BT: int64; 0 is no sequence. Read on the CPU, whatever its device.
        sink_map: Sequence ID to blocks.
        blocks_per_bank: Block b lies in bank `b // blocks_per_bank`.

    Returns:
        The routing on the device of `sequence_ids_BT`, or None if no token has sinks.

    Raises:
        CheckpointError: An ID is unknown or forgotten.
    """
    ids_N = sequence_ids_BT.detach().cpu().numpy().reshape(-1)
    ids, group_N, counts = np.unique(ids_N, return_inverse=True, return_counts=True)
    lists = sink_map.lookup(ids)
    blocks = np.diff(lists.offsets)
    if not blocks.any():
        return None
    order_N = np.argsort(group_N, kind="stable")
    starts = np.cumsum(counts) - counts
    buckets, token_parts, slot_parts = [], [], []
    for groups in _bucketed(counts, blocks):
        bucket = Bucket(len(groups), int(counts[groups].max()), int(blocks[groups].max()))
        buckets.append(bucket)
        tokens_GP = np.full((bucket.groups, bucket.tokens), -1, dtype=np.int64)
        slots_GP = np.full((bucket.groups, bucket.blocks), -1, dtype=np.int64)
        for row, g in enumerate(groups):
            tokens_GP[row, : counts[g]] = order_N[starts[g] : starts[g] + counts[g]]
            slots_GP[row, : blocks[g]] = _list(lists, g)
        token_parts.append(tokens_GP.reshape(-1))
        slot_parts.append(slots_GP.reshape(-1))
    return _routing(
        tuple(buckets),
        np.concatenate(token_parts),
        np.concatenate(slot_parts),
        len(ids_N),
        blocks_per_bank,
        sequence_ids_BT.device,
    )


def _list(lists: BlockLists, k: int) -> IntArray:
    return lists.blocks[lists.offsets[k] : lists.offsets[k + 1]]


def _bucketed(tokens: IntArray, blocks: IntArray) -> Iterator[list[int]]:
    """Groups that have blocks, largest first, cut where padding would exceed `_PADDING`."""
    order = sorted(np.flatnonzero(blocks).tolist(), key=lambda g: (-tokens[g], -blocks[g], g))
    bucket: list[int] = []
    needed = 0
    for group in order:
        wider = [*bucket, group]
        padded = len(wider) * int(tokens[wider].max()) * int(blocks[wider].max())
        if bucket and padded > _PADDING * (needed + int(tokens[group] * blocks[group])):
            yield bucket
            wider, needed = [group], 0
        bucket = wider
        needed += int(tokens[group] * blocks[group])
    yield bucket


def _routing(
    buckets: tuple[Bucket, ...],
    token_P: IntArray,
    block_Q: IntArray,
    tokens: int,
    blocks_per_bank: int,
    device: torch.device,
) -> Routing:
    """Index tensors from padded tokens and block slots, where -1 is padding."""
    real_P = np.flatnonzero(token_P >= 0)
    place_N = np.zeros(tokens, dtype=np.int64)
    active_N1 = np.zeros((tokens, 1), dtype=bool)
    place_N[token_P[real_P]] = real_P
    active_N1[token_P[real_P]] = True

    real_Q = np.flatnonzero(block_Q >= 0)
    bank_of = block_Q[real_Q] // blocks_per_bank
    by_bank = np.argsort(bank_of, kind="stable")
    slot_Q = np.full(len(block_Q), len(real_Q), dtype=np.int64)
    slot_Q[real_Q[by_bank]] = np.arange(len(real_Q))
    # No padding either: one padded slot at the end would look like the next number.
    in_order = len(real_Q) == len(block_Q) and bool((slot_Q == np.arange(len(slot_Q))).all())

    def tensor(array: Any) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    rows = tuple(
        (int(bank), tensor(block_Q[real_Q][bank_of == bank] % blocks_per_bank))
        for bank in np.unique(bank_of)
    )
    return Routing(
        buckets=buckets,
        tokens=tensor(np.maximum(token_P, 0)),
        places=tensor(place_N),
        active=tensor(active_N1),
        rows=rows,
        slots=None if in_order else tensor(slot_Q),
    )


def mapped(path: Path, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor of zeros that is a new file: pages that nobody writes take no room on disk."""
    size = math.prod(shape)
    return torch.from_file(str(path), shared=True, size=size, dtype=dtype).view(*shape)


class _CopyRows(torch.autograd.Function):
    """`bank[rows]` whose gradient is a row-sparse tensor: its cost does not know the bank's size.

    `nn.functional.embedding(sparse=True)` does this for two axes only, and a sparse gradient
    cannot be reshaped back to five.
    """

    @staticmethod
    def forward(ctx: Any, bank: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.bank_shape = bank.shape
        return bank.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        sparse = torch.sparse_coo_tensor(
            rows[None], gradients[0], ctx.bank_shape, check_invariants=False
        )
        return sparse, None


class SinkBanks(nn.Module):
    """The sink neurons of all layers: banks `[blocks, L, 3, S, D]` of gate, up and down rows.

    A block of all layers is one contiguous range of its bank, so that what an ID owns can be zeroed
    as bytes. State-dict keys are `banks.N`.

    Args:
        bank_sizes: Blocks of each bank.
        layers, block_size, hidden: Shape of a block.
    """

    def __init__(
        self, bank_sizes: Sequence[int], *, layers: int, block_size: int, hidden: int
    ) -> None:
        super().__init__()
        self.layers, self.block_size, self.hidden = layers, block_size, hidden
        self.banks = nn.ParameterList(
            nn.Parameter(torch.zeros(size, layers, 3, block_size, hidden)) for size in bank_sizes
        )

    @property
    def blocks_per_bank(self) -> int:
        """Blocks of a full bank; 1 where there is no bank."""
        return int(self.banks[0].shape[0]) if len(self.banks) else 1

    @property
    def num_blocks(self) -> int:
        """Blocks in all banks."""
        return sum(int(bank.shape[0]) for bank in self.banks)

    def keep_on_disk(self, directory: Path) -> None:
        """Let the banks be files of this directory, mapped into memory: call before `initialise`.

        A step reads and writes the pages of its own blocks; the operating system keeps in memory
        what there is room for. The files are scratch, and hold nothing that a save does not.
        """
        directory.mkdir(parents=True)
        for index, bank in enumerate(self.banks):
            bank.data = mapped(directory / f"weights-{index:05d}", bank.shape, bank.dtype)

    @torch.compiler.disable(reason=_NOT_COMPILED)
    def gather(self, routing: Routing) -> list[list[Tensor]]:
        """Copy the active blocks.

        Returns:
            For each layer and bucket the weights [G, 3, W, D]: gate, up and down rows.
        """
        parts = [_CopyRows.apply(self.banks[bank], rows) for bank, rows in routing.rows]
        if routing.slots is not None:
            zeros = parts[0].new_zeros(1, *parts[0].shape[1:])
            blocks = torch.cat([*parts, zeros]).index_select(0, routing.slots)
        else:
            blocks = parts[0] if len(parts) == 1 else torch.cat(parts)
        by_layer: list[list[Tensor]] = [[] for _ in range(self.layers)]
        sizes = [bucket.groups * bucket.blocks for bucket in routing.buckets]
        for bucket, slots in zip(routing.buckets, blocks.split(sizes), strict=True):
            shape = (bucket.groups, bucket.blocks, self.layers, 3, self.block_size, self.hidden)
            # [G, blocks, L, 3, S, D] -> [L, G, 3, blocks, S, D]: one copy for all layers.
            weights = slots.view(shape).permute(2, 0, 3, 1, 4, 5).flatten(3, 4).contiguous()
            for layer, weights_G3WD in enumerate(weights.unbind()):
                by_layer[layer].append(weights_G3WD)
        return by_layer

    @torch.no_grad()
    def initialise(self, sink_map: SinkMap, *, seed: int, blocks: IntArray | None = None) -> None:
        """Give every block its initial value; see `initial_blocks`.

        A private block is keyed by its owner and its number within the owner's list, a pool block
        by its own index; blocks of forgotten IDs, and those that nobody owns, are zero.

        Args:
            sink_map: Fits the banks.
            seed: The run's seed.
            blocks: int64 [num_blocks], the number of each block in the whole run where these banks
                are a part of it; keys the pool.
        """
        if blocks is None:
            blocks = np.arange(self.num_blocks)
        owner = np.zeros(self.num_blocks, dtype=np.int64)
        number = np.full(self.num_blocks, -1, dtype=np.int64)
        lists = sink_map.lists
        counts = np.diff(lists.offsets)
        pooled = np.repeat(sink_map.policies == "pooled", counts)
        within = np.arange(len(lists.blocks)) - np.repeat(lists.offsets[:-1], counts)
        owner[lists.blocks] = np.where(pooled, 0, np.repeat(sink_map.sequence_ids, counts))
        number[lists.blocks] = np.where(pooled, blocks[lists.blocks], within)
        number[lists.blocks[~np.repeat(sink_map.active, counts)]] = -1
        begin = 0
        for bank in self.banks:
            has_owner = number[begin : begin + len(bank)] >= 0
            bank[torch.from_numpy(~has_owner).to(bank.device)] = 0
            used = np.flatnonzero(has_owner)
            step = max(1, _INIT_CHUNK // math.prod(bank.shape[1:]))
            for at in range(0, len(used), step):
                rows = used[at : at + step]
                values = initial_blocks(
                    owner[begin + rows],
                    number[begin + rows],
                    seed=seed,
                    layers=self.layers,
                    block_size=self.block_size,
                    hidden=self.hidden,
                )
                bank[torch.from_numpy(rows).to(bank.device)] = values.to(bank)
            begin += len(bank)


def gathered_sinks(
    x_BTD: Tensor,
    shared_BTD: Tensor,
    weights: Sequence[Tensor],
    routing: Routing,
    activation: Activation,
) -> Tensor:
    """Add one layer's sinks to the output of its shared neurons.

    Args:
        x_BTD: Input of the MLP.
        shared_BTD: Output of the shared neurons.
        weights: For each bucket [G, 3, W, D], of `SinkBanks.gather`.
        routing: Of `route`, for the same batch.
        activation: The gate's nonlinearity.

    Returns:
        [B, T, D]; tokens without sinks have exactly the bits of `shared_BTD`.
    """
    hidden = x_BTD.shape[-1]
    x_PD = x_BTD.reshape(-1, hidden).index_select(0, routing.tokens)
    sizes = [bucket.groups * bucket.tokens for bucket in routing.buckets]
    outputs = []
    for bucket, weights_G3WD, part_PD in zip(
        routing.buckets, weights, x_PD.split(sizes), strict=True
    ):
        x_GPD = part_PD.view(bucket.groups, bucket.tokens, hidden)
        both_GPW = torch.bmm(x_GPD, weights_G3WD[:, :2].flatten(1, 2).transpose(1, 2))
        gate_GPW, up_GPW = both_GPW.chunk(2, dim=-1)
        y_GPD = torch.bmm(activation(gate_GPW) * up_GPW, weights_G3WD[:, 2])
        outputs.append(y_GPD.flatten(0, 1))
    y_ND = torch.cat(outputs).index_select(0, routing.places)
    y_BTD = y_ND.view_as(shared_BTD)
    # Not `shared + 0`: adding zero would turn -0.0 into 0.0 and spread a NaN of another token.
    active_BT1 = routing.active.view(*shared_BTD.shape[:-1], 1)
    return torch.where(active_BT1, shared_BTD + y_BTD, shared_BTD)


def reference_sink_mlp(
    x_BTD: Tensor,
    shared_BTD: Tensor,
    sequence_ids_BT: Tensor,
    banks: Sequence[Tensor],
    sink_map: SinkMap,
    *,
    layer: int,
    activation: Activation,
) -> Tensor:
    """What `gathered_sinks` must equal: all sinks of all banks, masked per token.

    Costs a dense MLP over the whole pool; for tests and benchmarks.

    Args:
        x_BTD, shared_BTD, activation: As in `gathered_sinks`.
        sequence_ids_BT: int64.
        banks: Tensors [blocks, L, 3, S, D].
        sink_map: Sequence ID to blocks.
        layer: Which layer.
    """
    block_size = banks[0].shape[3]
    mask_BTW = block_mask(sequence_ids_BT, sink_map, sum(len(bank) for bank in banks))
    mask_BTW = mask_BTW.repeat_interleave(block_size, dim=-1).to(x_BTD)
    gate_WD, up_WD, down_WD = (
        torch.cat([bank[:, layer, row].flatten(0, 1) for bank in banks]) for row in range(3)
    )
    inner_BTW = activation(x_BTD @ gate_WD.T) * (x_BTD @ up_WD.T) * mask_BTW
    return shared_BTD + inner_BTW @ down_WD


def block_mask(sequence_ids_BT: Tensor, sink_map: SinkMap, num_blocks: int) -> Tensor:
    """bool [B, T, num_blocks]: whether a token's sequence has the block."""
    lists = sink_map.lookup(sequence_ids_BT.detach().cpu().numpy().reshape(-1))
    mask = np.zeros((sequence_ids_BT.numel(), num_blocks), dtype=bool)
    mask[np.repeat(np.arange(len(mask)), np.diff(lists.offsets)), lists.blocks] = True
    return (
        torch.from_numpy(mask).view(*sequence_ids_BT.shape, num_blocks).to(sequence_ids_BT.device)
    )
