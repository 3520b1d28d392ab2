"""Fourth stage: the exact Jaccard similarity of every candidate pair.

Shingle sets are sorted once for each text that occurs in a pair, into a file, and intersected by
merging. A pair whose sizes alone exclude the threshold is not merged: |A ∩ B| <= min, |A ∪ B| >=
max, so J <= min / max.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numba import njit

from govern.ids.ingest import Ingested, ordered_map
from govern.ids.lsh import Pairs, split_pairs
from govern.ids.store import new_array

_HASHES_PER_TASK = 1 << 21
_PAIRS_PER_TASK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Links:
    """Verified pairs of texts, ascending by (a, b) with a < b.

    Attributes:
        a: int64.
        b: int64.
        jaccard: float64, exact, at least the threshold.
    """

    a: npt.NDArray[np.int64]
    b: npt.NDArray[np.int64]
    jaccard: npt.NDArray[np.float64]


@njit(nogil=True, cache=True)
def _sort_sets(hashes, begins, ends, targets, sets, sizes):  # type: ignore[no-untyped-def]
    """sets[targets[i]:][:sizes[i]] = sorted distinct values of hashes[begins[i]:ends[i]]."""
    for i in range(len(begins)):
        part = np.sort(hashes[begins[i] : ends[i]])
        size = 0
        for k in range(len(part)):
            if k == 0 or part[k] != part[k - 1]:
                sets[targets[i] + size] = part[k]
                size += 1
        sizes[i] = size


@njit(nogil=True, cache=True)
def _jaccard(sets, begins, sizes, left, right, threshold, result):  # type: ignore[no-untyped-def]
    """result[p] = J(left[p], right[p]), or 0 where it is below the threshold."""
    for p in range(len(left)):
        size_a, size_b = sizes[left[p]], sizes[right[p]]
        result[p] = 0.0
        if min(size_a, size_b) < threshold * max(size_a, size_b):
            continue
        i, end_a = begins[left[p]], begins[left[p]] + size_a
        j, end_b = begins[right[p]], begins[right[p]] + size_b
        common = 0
        while i < end_a and j < end_b:
            one, other = sets[i], sets[j]
            common += one == other
            i += one <= other
            j += other <= one
        value = common / (size_a + size_b - common)
        if value >= threshold:
            result[p] = value


@dataclass(frozen=True, kw_only=True)
class ShingleSets:
    """Sorted distinct shingle hashes of some texts: set i is values[begins[i]:][:sizes[i]]."""

    values: npt.NDArray[np.uint64]
    begins: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]


def build_sets(
    ingested: Ingested, documents: npt.NDArray[np.int64], path: Path, pool: ThreadPoolExecutor
) -> ShingleSets:
    """The shingle sets of `documents`, in their order."""
    offsets = ingested.hash_offsets
    counts = offsets[documents + 1] - offsets[documents]
    begins = np.zeros(len(documents) + 1, dtype=np.int64)
    np.cumsum(counts, out=begins[1:])
    values = new_array(path, np.uint64, (int(begins[-1]),))
    sizes = np.zeros(len(documents), dtype=np.int64)
    # Read in file order, whatever the order of the texts.
    order = np.argsort(documents, kind="stable")
    cuts = np.searchsorted(
        np.cumsum(counts[order]), np.arange(0, int(begins[-1]), _HASHES_PER_TASK), side="right"
    )
    tasks = [part for part in np.split(order, np.unique(cuts)) if len(part)]

    def work(part: npt.NDArray[np.int64]) -> None:
        mine = np.zeros(len(part), dtype=np.int64)
        first = documents[part]
        _sort_sets(ingested.hashes, offsets[first], offsets[first + 1], begins[part], values, mine)
        sizes[part] = mine

    for _ in pool.map(work, tasks):
        pass
    return ShingleSets(values=values, begins=begins[:-1], sizes=sizes)


def verify(
    ingested: Ingested,
    document_of: npt.NDArray[np.int64],
    pairs: Pairs,
    threshold: float,
    path: Path,
    pool: ThreadPoolExecutor,
    workers: int,
    advance: Callable[[int], None],
) -> Links:
    """Keep the pairs whose exact Jaccard similarity is at least the threshold.

    Args:
        ingested: The corpus, for its shingle hashes.
        document_of: The document of each text.
        pairs: Candidate pairs, ascending.
        threshold: The least similarity of a link.
        path: A working file for the sorted sets.
        pool: Threads.
        workers: How many there are.
        advance: Called with the number of pairs that are done.
    """
    a, b = split_pairs(pairs)
    texts = np.unique(np.concatenate([a, b]))
    sets = build_sets(ingested, document_of[texts], path, pool)
    left, right = np.searchsorted(texts, a), np.searchsorted(texts, b)

    def work(begin: int) -> npt.NDArray[np.float64]:
        part = slice(begin, begin + _PAIRS_PER_TASK)
        result = np.empty(len(left[part]), dtype=np.float64)
        _jaccard(sets.values, sets.begins, sets.sizes, left[part], right[part], threshold, result)
        return result

    found = [np.zeros(0, dtype=np.float64)]
    for result in ordered_map(pool, work, range(0, len(pairs), _PAIRS_PER_TASK), workers):
        found.append(result)
        advance(len(result))
    jaccard = np.concatenate(found)
    linked = jaccard > 0
    return Links(a=a[linked], b=b[linked], jaccard=jaccard[linked])
