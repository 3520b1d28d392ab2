"""The common pool of blocks: which of them each `pooled` sequence ID draws, and from which part.

No torch here, as in `sinkmodel.allocation`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from manifests.errors import CheckpointError
from sinkmodel.keyed_hash import splitmix64

IntArray = npt.NDArray[np.int64]

_PART_DOMAIN = np.uint64(0x504152545321)  # keeps the choice of a part apart from the draws


def pool_part(sequence_ids: IntArray, parts: int) -> IntArray:
    """The part of the pool that each ID draws from: `splitmix64(ID ^ 0x504152545321) mod parts`."""
    hashed = splitmix64(np.asarray(sequence_ids).astype(np.uint64) ^ _PART_DOMAIN)
    return (hashed % np.uint64(parts)).astype(np.int64)


def draw_pool(
    sequence_ids: IntArray, *, pool_blocks: int, draws: int, seed: int, parts: int = 1
) -> IntArray:
    """The pool blocks of each ID: a keyed hash, no repeats within an ID, no ID favoured.

    Draw j = 0, 1, … of an ID is `(h >> 32) * size >> 32` with
    `h = mix(mix(mix(seed) ^ id) ^ j)` and `mix` = `sinkmodel.keyed_hash.splitmix64`; a draw that
    the ID has already is skipped, until it has `draws` blocks. Blocks are in the order drawn. With
    one part, `size` is the pool; else it is a part, and the blocks are those of the ID's own part.

    Args:
        sequence_ids: int64 [n], all positive.
        pool_blocks: Size of the pool, below 2^31.
        draws: Blocks per ID.
        seed: Any 64-bit integer.
        parts: Equal parts of the pool; no ID draws from two, so that each may have another owner.

    Returns:
        int64 [n, draws].

    Raises:
        CheckpointError: An ID is 0 or negative, or a part is smaller than `draws`.
    """
    if not len(sequence_ids):
        return np.zeros((0, draws), dtype=np.int64)
    if (sequence_ids <= 0).any():
        raise bad_id(int(sequence_ids.min()))
    size = pool_blocks // parts
    if not 0 < draws <= size < 2**31:
        blocks = f"pool_blocks={pool_blocks}" + (f" / pool_parts={parts}" if parts > 1 else "")
        raise CheckpointError(
            "sink pool",
            expected=f"between 1 and {blocks} draws per pooled sequence",
            found=f"pool_draws={draws}",
            remedy="set pool_blocks and pool_draws for the pooled sequences",
        )
    key = splitmix64(np.array([seed % 2**64], dtype=np.uint64))
    key = splitmix64(key ^ sequence_ids.astype(np.uint64))
    chosen = np.full((len(sequence_ids), draws), -1, dtype=np.int64)
    have = np.zeros(len(sequence_ids), dtype=np.int64)
    pending = np.arange(len(sequence_ids))
    j = np.uint64(0)
    while len(pending):
        high = splitmix64(key[pending] ^ j) >> np.uint64(32)
        block = (high * np.uint64(size) >> np.uint64(32)).astype(np.int64)
        fresh = ~(chosen[pending] == block[:, None]).any(axis=1)
        rows = pending[fresh]
        chosen[rows, have[rows]] = block[fresh]
        have[rows] += 1
        pending = pending[have[pending] < draws]
        j += np.uint64(1)
    return chosen + pool_part(sequence_ids, parts)[:, None] * size


def bad_id(sequence_id: int) -> CheckpointError:
    """The fault of an ID that is not positive."""
    return CheckpointError(
        f"sequence ID {sequence_id}",
        expected="a positive ID (0 means no sequence)",
        found="an ID that cannot own sinks",
        remedy="leave text without a sequence out of the allocation",
    )
