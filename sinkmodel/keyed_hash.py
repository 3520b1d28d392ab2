"""The documented keyed hash: splitmix64 over (seed, sequence ID, counter), in wrapping uint64.

Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (the
finaliser is Stafford's variant 13). All arithmetic is unsigned 64-bit and wraps by definition; no
signed overflow decides anything.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def splitmix64(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """One output of splitmix64 for each state, same shape."""
    z = state + _GAMMA
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def keyed_hash(seed: int, sequence_id: int, counter: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """splitmix64(splitmix64(splitmix64(seed) ^ ID) ^ counter), uint64 of the counter's shape."""
    key = splitmix64(np.array([seed % 2**64], dtype=np.uint64))
    key = splitmix64(key ^ np.uint64(sequence_id))
    return splitmix64(key ^ np.asarray(counter).astype(np.uint64))


def keyed_uniform(seed: int, sequence_id: int, counter: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Uniform in [0, 1) from the upper 53 bits of `keyed_hash`."""
    return (keyed_hash(seed, sequence_id, counter) >> np.uint64(11)).astype(np.float64) * 2.0**-53
