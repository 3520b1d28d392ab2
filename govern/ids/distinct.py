"""From the shingle hashes of documents to their shingle sets: sorted and distinct.

Done while a batch is sketched, when its hashes are still in the processor's cache.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from govern.ids.jit import compiled, inlined

_FEW = 24  # hashes of a bucket that are sorted by insertion


@inlined
def _sort_hashes(part, out, ends):  # type: ignore[no-untyped-def]
    """Write hashes sorted. They are spread evenly, so buckets by their top bits hold few each."""
    bits = 1
    while bits < 16 and (2 << bits) <= len(part):
        bits += 1
    shift = np.uint64(64 - bits)
    buckets = 1 << bits
    ends[: buckets + 1] = 0
    for value in part:
        ends[np.int64(value >> shift) + 1] += 1
    for bucket in range(buckets):
        ends[bucket + 1] += ends[bucket]
    for value in part:
        top = np.int64(value >> shift)
        out[ends[top]] = value
        ends[top] += 1
    begin = 0
    for bucket in range(buckets):
        end = ends[bucket]
        if end - begin > _FEW:
            out[begin:end] = np.sort(out[begin:end])
        else:
            for i in range(begin + 1, end):
                value = out[i]
                at = i
                while at > begin and out[at - 1] > value:
                    out[at] = out[at - 1]
                    at -= 1
                out[at] = value
        begin = end


@compiled()
def sort_sets(hashes, offsets, sets, ends):  # type: ignore[no-untyped-def]
    """Write the sorted distinct hashes of each document, one set after another.

    Args:
        hashes: uint64, the hashes of all documents.
        offsets: int64 [n + 1] into `hashes`.
        sets: uint64, as long as `hashes`, filled up to `ends[n]`.
        ends: int64 [n + 1] into `sets`, filled.
    """
    buckets = np.zeros((1 << 16) + 1, dtype=np.int64)
    ends[0] = 0
    for i in range(len(offsets) - 1):
        at = ends[i]
        length = offsets[i + 1] - offsets[i]
        part = sets[at : at + length]
        _sort_hashes(hashes[offsets[i] : offsets[i + 1]], part, buckets)
        size = 0
        for k in range(length):
            if k == 0 or part[k] != part[k - 1]:
                part[size] = part[k]
                size += 1
        ends[i + 1] = at + size


def distinct_hashes(
    hashes: npt.NDArray[np.uint64], offsets: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """The sets of documents, uint64, and where each begins, int64 [n + 1].

    Args:
        hashes: uint64, the hashes of all documents.
        offsets: int64 [n + 1], where each document's begin.
    """
    sets, ends = np.empty_like(hashes), np.empty_like(offsets)
    sort_sets(hashes, offsets, sets, ends)
    return sets[: ends[-1]], ends
