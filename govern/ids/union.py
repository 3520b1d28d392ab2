"""The texts of a manifest and of an addition as one numbered set.

Old texts keep their numbers; new ones get the next, in the order of their content hashes. Where
order matters (buckets, clusters) texts go by *rank*, the place of their content hash among all:
relative to each other, old texts never change their order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from govern.ids.store import Indices

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Union:
    """All texts.

    Attributes:
        n_old: How many the manifest had.
        numbers: int64 [texts of the addition], their numbers among all.
        fresh: bool [texts of the addition], the manifest did not have them.
        content: uint64 [texts, 4].
        rank: int64 [texts].
        by_rank: int64 [texts], the inverse of `rank`.
    """

    n_old: int
    numbers: Indices
    fresh: npt.NDArray[np.bool_]
    content: Words
    rank: Indices
    by_rank: Indices


def unite(old: Words, new: Words) -> Union:
    """Number the union of old texts and those of an addition.

    Args:
        old: uint64 [old texts, 4], content hashes, each once.
        new: uint64 [new texts, 4], content hashes, each once; some may be among the old.
    """
    both = np.concatenate([old, new])
    order = _by_content(both)
    ranked = both[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (ranked[1:] != ranked[:-1]).any(axis=1)
    # Stable order: where a new text equals an old one, the old one comes first.
    leaders = order[first]
    numbers_of_leaders = leaders.copy()
    is_fresh = leaders >= len(old)
    numbers_of_leaders[is_fresh] = len(old) + np.arange(int(is_fresh.sum()))
    number = np.empty(len(both), dtype=np.int64)
    number[order] = numbers_of_leaders[np.cumsum(first) - 1]
    rank = np.empty(len(leaders), dtype=np.int64)
    rank[numbers_of_leaders] = np.arange(len(leaders))
    content = np.empty((len(leaders), 4), dtype=np.uint64)
    content[numbers_of_leaders] = both[leaders]
    return Union(
        n_old=len(old),
        numbers=number[len(old) :],
        fresh=number[len(old) :] >= len(old),
        content=content,
        rank=rank,
        by_rank=numbers_of_leaders,
    )


def _by_content(content: Words) -> Indices:
    """Stable ascending order. 64 bits tell nearly all texts apart, so the rest is rarely read."""
    order = np.argsort(content[:, 0], kind="stable")
    ranked = content[order]
    alike = np.flatnonzero(ranked[1:, 0] == ranked[:-1, 0])
    if (ranked[alike + 1] != ranked[alike]).any():
        order = np.lexsort(tuple(content[:, word] for word in (3, 2, 1, 0)))
    return order
