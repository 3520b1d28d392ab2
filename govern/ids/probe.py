"""Candidate pairs of an addition, without the candidate pairs that were there.

Only buckets that hold a new text can change. The band keys of the new texts are put in hash tables;
the stored signatures pass by once, and those that fall into one of these buckets are its members.
From the whole membership of a bucket follows, by the rule of `lsh`, which pairs with a new text are
candidates, and which pairs of two old texts are none any more. So

    candidates of the union = (candidates before - lost) + added

and `lost` matters only where the pair was a link and no other band still gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from govern.ids.jit import compiled
from govern.ids.lsh import Pairs, band_key, distinct, fill_band_keys, split_pairs
from govern.ids.minhash import Banding

Indices = npt.NDArray[np.int64]
Signatures = npt.NDArray[np.uint32]
# Signatures with the rank of each one's text, or -1 for rows that are of no interest.
Blocks = Callable[[], Iterable[tuple[Signatures, Indices]]]
_SHIFT = np.uint64(32)


@dataclass(frozen=True, kw_only=True)
class BucketRule:
    """The rule of `lsh`: all pairs up to `cap` members, else the smallest `pivots` with each."""

    banding: Banding
    cap: int
    pivots: int


@compiled()
def _fill(keys, slots, buckets):  # type: ignore[no-untyped-def]
    """Hash tables of each band's keys; buckets[band, i] = band * n + the first i with its key."""
    bands, n = keys.shape
    mask = np.uint64(slots.shape[1] - 1)
    for band in range(bands):
        for i in range(n):
            at = (keys[band, i] ^ keys[band, i] >> _SHIFT) & mask
            while slots[band, at] >= 0 and keys[band, slots[band, at]] != keys[band, i]:
                at = (at + np.uint64(1)) & mask
            if slots[band, at] < 0:
                slots[band, at] = i
            buckets[band, i] = band * n + slots[band, at]


@compiled()
def _find(signatures, ranks, rows, keys, slots, found):  # type: ignore[no-untyped-def]
    """Write (bucket << 32 | rank) for every band of every signature that falls into a bucket."""
    bands, n = keys.shape
    mask = np.uint64(slots.shape[1] - 1)
    count = 0
    for i in range(len(signatures)):
        if ranks[i] < 0:
            continue
        for band in range(bands):
            key = band_key(signatures, i, band, rows)
            at = (key ^ key >> _SHIFT) & mask
            while slots[band, at] >= 0 and keys[band, slots[band, at]] != key:
                at = (at + np.uint64(1)) & mask
            if slots[band, at] >= 0:
                bucket = np.uint64(band * n + slots[band, at])
                found[count] = bucket << _SHIFT | np.uint64(ranks[i])
                count += 1
    return count


@compiled()
def _pairs_of_buckets(members, is_new, cap, pivots, added, lost):  # type: ignore[no-untyped-def]
    """Write added and lost pairs as (smaller << 32 | larger); with empty arrays only count."""
    low = np.uint64(0xFFFFFFFF)
    n_added, n_lost, begin, n = 0, 0, 0, len(members)
    while begin < n:
        end, n_old = begin, 0
        while end < n and members[end] >> _SHIFT == members[begin] >> _SHIFT:
            n_old += not is_new[members[end] & low]
            end += 1
        heads = end - begin if end - begin <= cap else pivots
        old_heads = n_old if n_old <= cap else pivots
        seen_old = 0
        for i in range(begin, end):
            a = members[i] & low
            is_head = i - begin < heads
            was_head = not is_new[a] and seen_old < old_heads
            seen_old += not is_new[a]
            if not is_head and seen_old >= old_heads and not was_head:
                break
            for j in range(i + 1, end):
                b = members[j] & low
                fresh = is_new[a] or is_new[b]
                if is_head and fresh:
                    if len(added):
                        added[n_added] = a << _SHIFT | b
                    n_added += 1
                elif was_head and not is_head and not fresh:
                    if len(lost):
                        lost[n_lost] = a << _SHIFT | b
                    n_lost += 1
        begin = end
    return n_added, n_lost


class Probe:
    """The buckets of some signatures.

    Args:
        signatures: uint32 [n, num_perm].
        banding: How they are cut.
    """

    def __init__(self, signatures: Signatures, banding: Banding) -> None:
        n = len(signatures)
        self._rows = banding.rows
        self.keys = np.empty((banding.bands, n), dtype=np.uint64)
        fill_band_keys(signatures, np.arange(n), banding.rows, self.keys)
        capacity = 1 << max(4, (2 * n - 1).bit_length())
        self._slots = np.full((banding.bands, capacity), -1, dtype=np.int32)
        self.buckets = np.empty((banding.bands, n), dtype=np.int64)
        _fill(self.keys, self._slots, self.buckets)

    def find(self, blocks: Iterable[tuple[Signatures, Indices]]) -> npt.NDArray[np.uint64]:
        """Who lies in these buckets: (bucket << 32 | rank), ascending."""
        parts = [np.zeros(0, dtype=np.uint64)]
        for signatures, ranks in blocks:
            found = np.empty(len(signatures) * len(self.keys), dtype=np.uint64)
            count = _find(signatures, ranks, self._rows, self.keys, self._slots, found)
            parts.append(found[:count].copy())
        members = np.concatenate(parts)
        members.sort()
        return members


def changed_pairs(probe: Probe, blocks: Blocks, is_new: npt.NDArray[np.bool_], rule: BucketRule
                  ) -> tuple[Pairs, Pairs]:  # fmt: skip
    """Candidate pairs that an addition brings and takes away, of ranks, each once, ascending.

    Args:
        probe: The buckets of the new texts.
        blocks: The signatures of all texts, old and new.
        is_new: bool [texts], by rank.
        rule: The bucket rule.

    Returns:
        Pairs with a new text that are candidates, and pairs of two old texts that some bucket gave
        before and gives no more.
    """
    members = probe.find(blocks())
    nothing = np.zeros(0, dtype=np.uint64)
    counts = _pairs_of_buckets(members, is_new, rule.cap, rule.pivots, nothing, nothing)
    added, lost = (np.empty(count, dtype=np.uint64) for count in counts)
    _pairs_of_buckets(members, is_new, rule.cap, rule.pivots, added, lost)
    return distinct([added]), distinct([lost])


def still_candidates(
    pairs: Pairs, signatures_of: Callable[[Indices], Signatures], blocks: Blocks, rule: BucketRule
) -> npt.NDArray[np.bool_]:
    """Which pairs some band gives, by the rule over all texts; bool [pairs].

    Args:
        pairs: Pairs of ranks.
        signatures_of: The signatures of ascending ranks.
        blocks: The signatures of all texts.
        rule: The bucket rule.
    """
    if not len(pairs):
        return np.zeros(0, dtype=np.bool_)
    a, b = split_pairs(pairs)
    ranks, places = np.unique(np.concatenate([a, b]), return_inverse=True)
    probe = Probe(signatures_of(ranks), rule.banding)
    members = probe.find(blocks())
    left, right = places[: len(a)], places[len(a) :]
    result = np.zeros(len(pairs), dtype=np.bool_)
    for band, keys in enumerate(probe.keys):
        shared = np.flatnonzero(keys[left] == keys[right])
        bucket = probe.buckets[band, left[shared]].astype(np.uint64)
        begin = np.searchsorted(members, bucket << _SHIFT)
        size = np.searchsorted(members, (bucket + np.uint64(1)) << _SHIFT) - begin
        place = np.searchsorted(members, bucket << _SHIFT | a[shared].astype(np.uint64)) - begin
        result[shared] |= (size <= rule.cap) | (place < rule.pivots)
    return result
