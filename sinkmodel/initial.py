"""Initial values of sinks, keyed by who owns them.

Tensor suffixes as in `sinkmodel.sink_mlp`: L layers, S block size, D hidden.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from sinkmodel.allocation import IntArray
from sinkmodel.keyed_hash import splitmix64

_INIT_DOMAIN = 0x53494E4B  # keeps initial values apart from other uses of the keyed hash


def initial_blocks(
    owners: IntArray, numbers: IntArray, *, seed: int, layers: int, block_size: int, hidden: int
) -> Tensor:
    """Initial values of blocks, each a function of (seed, owner, number) alone.

    Gate and up rows are uniform in ±sqrt(3 / D), so that a unit-variance input gives
    pre-activations of unit variance; element e of a block is the upper 24 bits of splitmix64 output
    e of the block's key. Down rows are zero: sinks that were never trained add exactly nothing.
    Integer arithmetic and one exact conversion, so equal bits on every machine.

    Args:
        owners: int64 [n], the owning sequence ID; 0 for pool blocks.
        numbers: int64 [n], the block's number within its owner's list; the block itself for the
            pool.
        seed: The run's seed.
        layers, block_size, hidden: Shape of a block.

    Returns:
        float32 [n, L, 3, S, D].
    """
    key = splitmix64(np.array([(seed ^ _INIT_DOMAIN) % 2**64], dtype=np.uint64))
    key = splitmix64(splitmix64(key ^ owners.astype(np.uint64)) ^ numbers.astype(np.uint64))
    elements = layers * 2 * block_size * hidden
    counter = np.arange(elements, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = splitmix64(key[:, None] + counter) >> np.uint64(40)
    uniform = (bits.astype(np.float32) + np.float32(0.5)) * np.float32(2**-23) - np.float32(1)
    rows = torch.from_numpy(uniform * np.float32(math.sqrt(3 / hidden)))
    blocks = torch.zeros(len(owners), layers, 3, block_size, hidden)
    blocks[:, :, :2] = rows.view(len(owners), layers, 2, block_size, hidden)
    return blocks
