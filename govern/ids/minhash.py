"""MinHash as datasketch 2.0 computes it with scheme `affine32`, and the LSH bands over it.

Permutation j of a 32-bit token hash h is a_j * fmix32(h) + b_j mod 2^32; the signature is the
minimum of each over all tokens (Broder 1997). Coefficients come from MT19937 as NumPy's
`RandomState(seed)` seeds it: first every a = ((u32 & 0x7fffffff) << 1) | 1, then every b = u32.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from manifests.errors import InputError

SCHEME = "affine32"


@dataclass(frozen=True, kw_only=True)
class Permutations:
    """Coefficients `a` and `b`, uint32 [num_perm]."""

    a: npt.NDArray[np.uint32]
    b: npt.NDArray[np.uint32]


@functools.lru_cache(maxsize=4)
def permutations(num_perm: int, seed: int) -> Permutations:
    """The coefficients of `num_perm` permutations, equal to datasketch's for the same seed."""
    random = np.random.RandomState(seed)
    a = random.randint(0, 1 << 32, size=num_perm, dtype=np.uint32)
    b = random.randint(0, 1 << 32, size=num_perm, dtype=np.uint32)
    return Permutations(a=(a & np.uint32(0x7FFFFFFF)) << np.uint32(1) | np.uint32(1), b=b)


@dataclass(frozen=True, kw_only=True)
class Banding:
    """How a signature is cut: `bands` bands of `rows` values; equal bands make a candidate."""

    bands: int
    rows: int

    def recall(self, jaccard: float) -> float:
        """Chance that two documents of this similarity share a band: 1 - (1 - J^rows)^bands."""
        return float(1 - (1 - jaccard**self.rows) ** self.bands)


def choose_banding(threshold: float, num_perm: int, recall: float = 0.999) -> Banding:
    """The banding with the longest rows, so the fewest candidates, that reaches the recall.

    Args:
        threshold: The Jaccard similarity at which the recall is wanted.
        num_perm: Values of a signature.
        recall: The wanted chance to find a pair exactly at the threshold.

    Raises:
        InputError: No banding reaches it: the threshold is too low for so few permutations.
    """
    for rows in range(num_perm, 0, -1):
        banding = Banding(bands=num_perm // rows, rows=rows)
        if banding.recall(threshold) >= recall:
            return banding
    raise InputError(
        f"threshold {threshold}",
        expected=f"one at which {num_perm} permutations find {recall:.1%} of the pairs",
        found=f"a best recall of {Banding(bands=num_perm, rows=1).recall(threshold):.1%}",
        remedy="raise the threshold",
    )
