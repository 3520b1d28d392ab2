"""Which rank owns an ID: its blocks, their optimizer state and all text that trains them.

    owners     sequence ID -> rank, a fixed rule
    shard_of   the blocks and the sink map of one rank, numbered from 0
    deal       a micro-batch of all ranks -> what one rank computes of it

The rule, for R ranks:

    private, strict   splitmix64(ID ^ 0x4F574E455221) mod R
    pooled            (part of the pool that the ID draws from) mod R
    shared            nobody: its text goes wherever there is least to do

It depends on the ID alone, so no sequence moves another; strict text stays out of all else.
A micro-batch is a set of chunks: how they are laid out in rows changes nothing but the order of
floating-point sums, because attention stays within a document. So each rank packs its own chunks
anew, the shared gradient is the sum over ranks, and the losses are those of one process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sinkmodel.allocation import SCHEMA, IntArray, SinkMap
from sinkmodel.data import Chunk, MicroBatch, pack
from sinkmodel.keyed_hash import splitmix64
from sinkmodel.pool import pool_part

ANYONE = -1
"""The owner of text that trains no sinks."""

_DOMAIN = np.uint64(0x4F574E455221)


def owners(
    sequence_ids: IntArray,
    policies: Sequence[str] | npt.NDArray[np.object_],
    *,
    world: int,
    pool_parts: int = 1,
) -> IntArray:
    """The owning rank of each ID by the rule above, or `ANYONE`.

    Args:
        sequence_ids: int64 [n].
        policies: Of each ID.
        world: How many ranks there are.
        pool_parts: As in `sinkmodel.pool.draw_pool`.
    """
    ids = np.asarray(sequence_ids, dtype=np.int64)
    policy = np.asarray(policies, dtype=object)
    own = (splitmix64(ids.astype(np.uint64) ^ _DOMAIN) % np.uint64(world)).astype(np.int64)
    rank = np.where(policy == "pooled", pool_part(ids, pool_parts) % world, own)
    return np.where(policy == "shared", ANYONE, rank)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What one rank holds of the banks.

    Args:
        blocks: int64 [n], for each of its blocks the number over all ranks; ascending.
        sink_map: Its IDs, and those without blocks, with blocks numbered 0 to n - 1.
    """

    blocks: IntArray
    sink_map: SinkMap


def shard_of(sink_map: SinkMap, *, rank: int, world: int, pool_parts: int = 1) -> Shard:
    """The shard of one rank; a rank alone has the map as it is."""
    if world == 1:
        return Shard(blocks=np.arange(sink_map.num_blocks), sink_map=sink_map)
    owner = owners(sink_map.sequence_ids, sink_map.policies, world=world, pool_parts=pool_parts)
    rows = sink_map.table.filter(pa.array((owner == rank) | (owner == ANYONE))).combine_chunks()
    lists = SinkMap(rows).lists
    blocks, local = np.unique(lists.blocks, return_inverse=True)
    column = pa.ListArray.from_arrays(lists.offsets.astype(np.int32), local.astype(np.int32))
    index = SCHEMA.get_field_index("blocks")
    return Shard(blocks=blocks, sink_map=SinkMap(rows.set_column(index, "blocks", column)))


def deal(
    batch: MicroBatch, owner_of: IntArray, *, rank: int, world: int, length: int
) -> MicroBatch | None:
    """One rank's part of a micro-batch, packed anew; None if it has none.

    Args:
        batch: Of all ranks.
        owner_of: int64 [documents], as `owners` gives it.
        rank, world: Whose part, of how many. A rank alone gets the micro-batch as it is.
        length: Tokens a row.
    """
    if world == 1:
        return batch
    chunks = [chunk for row in batch.rows for chunk in row]
    hands = [int(owner_of[chunk.document]) for chunk in chunks]
    tokens = [0] * world
    for chunk, hand in zip(chunks, hands, strict=True):
        if hand != ANYONE:
            tokens[hand] += chunk.end - chunk.begin
    mine: list[tuple[float, Chunk]] = []
    for chunk, hand in zip(chunks, hands, strict=True):
        if hand == ANYONE:
            hand = tokens.index(min(tokens))
            tokens[hand] += chunk.end - chunk.begin
        if hand == rank:
            mine.append((batch.time, chunk))
    rows = tuple(row for _, row in pack(iter(mine), length))
    return MicroBatch(batch.stream, batch.time, rows) if rows else None
