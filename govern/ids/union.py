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
    order, first = _by_content(both)
    # Equal ones go by place: where a new text equals an old one, the old one leads.
    leaders = order[first]
    numbers_of_leaders = leaders.copy()
    is_fresh = leaders >= len(old)
    numbers_of_leaders[is_fresh] = len(old) + np.arange(int(is_fresh.sum()))
    number = np.empty(len(both), dtype=np.int64)
    number[order] = numbers_of_leaders[np.cumsum(first) - 1]
    rank = np.empty(len(leaders), dtype=np.int64)
    rank[numbers_of_leaders] = np.arange(len(leaders))
    return Union(
        n_old=len(old),
        numbers=number[len(old) :],
        fresh=number[len(old) :] >= len(old),
        content=np.concatenate([old, both[leaders[is_fresh]]]),
        rank=rank,
        by_rank=numbers_of_leaders,
    )


def _by_content(content: Words) -> tuple[Indices, npt.NDArray[np.bool_]]:
    """The ascending order of contents, equal ones by place, and which are the first of equals."""
    order = np.argsort(content[:, 0])
    leading = content[order, 0]
    alike = leading[1:] == leading[:-1]
    first = np.ones(len(order), dtype=bool)
    if alike.any():
        # 64 bits tell nearly all texts apart, so only few are sorted by all their bits.
        tied = np.zeros(len(order), dtype=bool)
        tied[1:] |= alike
        tied[:-1] |= alike
        some = np.sort(order[tied])
        some = some[np.lexsort(tuple(content[some, word] for word in (3, 2, 1, 0)))]
        order[tied] = some
        first[np.flatnonzero(tied)[1:]] = (content[some[1:]] != content[some[:-1]]).any(axis=1)
    return order, first
