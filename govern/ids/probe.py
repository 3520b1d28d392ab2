"""Candidate pairs of an addition, without the candidate pairs that were there.

Only buckets that hold a new text can change. The band keys of the new texts are put in hash tables;
the stored signatures pass by once, and those that fall into one of these buckets are its members.
From the whole membership of a bucket follows, by the rule of `lsh`, which pairs with a new text are
candidates, and which old texts gave pairs there and do so no more. So

    candidates = candidates before - pairs of displaced texts that no band gives + added pairs

In a bucket a pair is given by its smaller text: either this *gives* its pairs with all larger
members, or none. So what became of an old pair needs the keys of two texts and, for each band,
whether the smaller one gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from govern.ids.jit import compiled
from govern.ids.lsh import Pairs, band_key, distinct, fill_band_keys, split_pairs
from govern.ids.minhash import Banding

Indices = npt.NDArray[np.int64]
Signatures = npt.NDArray[np.uint32]
Flags = npt.NDArray[np.bool_]
# (bucket << 32 | rank), ascending: who lies in which bucket.
Members = npt.NDArray[np.uint64]
_SHIFT = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_WORD = np.uint64(6)
_BIT = np.uint64(63)
_TILE = 256  # signatures that stay in the cache while all bands go over them
_PAIRS_AT_A_TIME = 1 << 18


@dataclass(frozen=True, kw_only=True)
class BucketRule:
    """The rule of `lsh`: all pairs up to `cap` members, else the smallest `pivots` with each."""

    banding: Banding
    cap: int
    pivots: int


@compiled()
def _fill(keys, slots, marks, top, buckets):  # type: ignore[no-untyped-def]
    """Hash tables of each band's keys; buckets[band, i] = band * n + the first i with its key.

    `marks` has a bit for `key >> top` of each key: most keys that are not there end at it.
    """
    bands, n = keys.shape
    mask = np.uint64(slots.shape[1] - 1)
    for band in range(bands):
        for i in range(n):
            key = keys[band, i]
            marks[band, key >> top + _WORD] |= np.uint64(1) << (key >> top & _BIT)
            at = key >> _SHIFT & mask
            while slots[band, at] >= 0 and keys[band, slots[band, at]] != key:
                at = (at + np.uint64(1)) & mask
            if slots[band, at] < 0:
                slots[band, at] = i
            buckets[band, i] = band * n + slots[band, at]


@compiled()
def _find(signatures, ranks, rows, keys, slots, marks, top, found):  # type: ignore[no-untyped-def]
    """Write (bucket << 32 | rank) for every band of every signature that falls into a bucket."""
    bands, n = keys.shape
    mask = np.uint64(slots.shape[1] - 1)
    count = 0
    for begin in range(0, len(signatures), _TILE):
        end = min(begin + _TILE, len(signatures))
        for band in range(bands):
            for i in range(begin, end):
                key = band_key(signatures, i, band, rows)
                mark = marks[band, key >> top + _WORD] >> (key >> top & _BIT)
                if not mark & np.uint64(1) or ranks[i] < 0:
                    continue
                at = key >> _SHIFT & mask
                while slots[band, at] >= 0 and keys[band, slots[band, at]] != key:
                    at = (at + np.uint64(1)) & mask
                if slots[band, at] >= 0:
                    bucket = np.uint64(band * n + slots[band, at])
                    found[count] = bucket << _SHIFT | np.uint64(ranks[i])
                    count += 1
    return count


@compiled()
def _touch(halves, keys, slots, marks, top, touched):  # type: ignore[no-untyped-def]
    """Mark signatures of which the upper half of a band's key is that of a bucket."""
    bands = len(keys)
    mask = np.uint64(slots.shape[1] - 1)
    for i in range(len(halves)):
        for band in range(bands):
            half = np.uint64(halves[i, band])
            mark = half << _SHIFT >> top
            if not marks[band, mark >> _WORD] >> (mark & _BIT) & np.uint64(1):
                continue
            at = half & mask
            while slots[band, at] >= 0 and keys[band, slots[band, at]] >> _SHIFT != half:
                at = (at + np.uint64(1)) & mask
            if slots[band, at] >= 0:
                touched[i] = True
                break


@compiled()
def _added_pairs(members, is_new, cap, pivots, displaced, added):  # type: ignore[no-untyped-def]
    """Write pairs with a new text as (smaller << 32 | larger); with an empty `added` only count.

    Marks the old texts that gave pairs in one of these buckets and do so no more.
    """
    written, begin, n = 0, 0, len(members)
    while begin < n:
        end, n_old = begin, 0
        while end < n and members[end] >> _SHIFT == members[begin] >> _SHIFT:
            n_old += not is_new[members[end] & _LOW]
            end += 1
        heads = end - begin if end - begin <= cap else pivots
        old_heads = n_old if n_old <= cap else pivots
        seen_old = 0
        for i in range(begin, end):
            a = members[i] & _LOW
            gives = i - begin < heads
            if not gives and seen_old >= old_heads:
                break
            if not is_new[a]:
                displaced[a] |= seen_old < old_heads and not gives
                seen_old += 1
            if not gives:
                continue
            for j in range(i + 1, end):
                b = members[j] & _LOW
                if is_new[a] or is_new[b]:
                    if len(added):
                        added[written] = a << _SHIFT | b
                    written += 1
        begin = end
    return written


class Probe:
    """The buckets of some signatures.

    Args:
        signatures: uint32 [n, num_perm].
        banding: How they are cut.
    """

    def __init__(self, signatures: Signatures, banding: Banding) -> None:
        n = len(signatures)
        self.banding = banding
        self.keys = band_keys_of(signatures, banding)
        size = max(4, (2 * n - 1).bit_length())
        self._slots = np.full((banding.bands, 1 << size), -1, dtype=np.int32)
        # Eight bits for each slot, 64 of them a word.
        self._marks = np.zeros((banding.bands, 1 << (size - 3)), dtype=np.uint64)
        self._top = np.uint64(64 - (size + 3))
        self.buckets = np.empty((banding.bands, n), dtype=np.int64)
        _fill(self.keys, self._slots, self._marks, self._top, self.buckets)

    def find_in(self, signatures: Signatures, ranks: Indices) -> npt.NDArray[np.uint64]:
        """Who of these lies in these buckets: (bucket << 32 | rank), in any order.

        Args:
            signatures: uint32 [n, num_perm].
            ranks: int64 [n], the rank of each one's text, or -1 for rows that are of no interest.
        """
        found = np.empty(len(signatures) * len(self.keys), dtype=np.uint64)
        tables = (self.keys, self._slots, self._marks, self._top)
        count = _find(signatures, ranks, self.banding.rows, *tables, found)
        return found[:count].copy()

    def touches(self, halves: npt.NDArray[np.uint32]) -> Flags:
        """Which signatures may lie in one of these buckets; nearly all others do not.

        Args:
            halves: uint32 [n, bands], the upper half of every band's key.
        """
        touched = np.zeros(len(halves), dtype=np.bool_)
        _touch(halves, self.keys, self._slots, self._marks, self._top, touched)
        return touched

    def find(self, blocks: Iterable[tuple[Signatures, Indices]]) -> Members:
        """Who of all blocks lies in these buckets."""
        return gathered(self.find_in(*block) for block in blocks)


def gathered(parts: Iterable[npt.NDArray[np.uint64]]) -> Members:
    """What `Probe.find_in` found in several blocks, as one."""
    members = np.concatenate([np.zeros(0, dtype=np.uint64), *parts])
    members.sort()
    return members


def band_keys_of(signatures: Signatures, banding: Banding) -> npt.NDArray[np.uint64]:
    """The band keys of signatures, uint64 [bands, n]."""
    keys = np.empty((banding.bands, len(signatures)), dtype=np.uint64)
    fill_band_keys(signatures, np.arange(len(signatures)), banding.rows, keys)
    return keys


def added_pairs(
    probe: Probe, members: Members, is_new: Flags, rule: BucketRule, displaced: Flags
) -> Iterator[Pairs]:
    """The candidate pairs with a new text of one band after another, of ranks, ascending.

    Args:
        probe: The buckets of the new texts.
        members: Who lies in them, of all texts, old and new.
        is_new: bool [texts], by rank.
        rule: The bucket rule.
        displaced: bool [texts], by rank; set where an old text gave pairs and does so no more.
    """
    bands, n = probe.keys.shape
    bounds = np.searchsorted(
        members, np.arange(bands + 1, dtype=np.uint64) * np.uint64(n) << _SHIFT
    )
    for band in range(bands):
        some = members[bounds[band] : bounds[band + 1]]
        nothing = np.zeros(0, dtype=np.uint64)
        pairs = np.empty(
            _added_pairs(some, is_new, rule.cap, rule.pivots, displaced, nothing), dtype=np.uint64
        )
        _added_pairs(some, is_new, rule.cap, rule.pivots, displaced, pairs)
        pairs.sort()
        yield pairs


def still_candidates(
    pairs: Pairs,
    signatures_of: Callable[[Indices], Signatures],
    probe: Probe,
    members: Members,
    find: Callable[[Probe], Members],
    rule: BucketRule,
) -> Flags:
    """Which pairs some band gives, by the rule over all texts; bool [pairs].

    Where all buckets that matter are those of `probe`, the stored signatures are not read again.

    Args:
        pairs: Pairs of ranks, ascending.
        signatures_of: The signatures of ascending ranks.
        probe: Buckets whose members are known ...
        members: ... and those members.
        find: Finds the members of other buckets among all texts.
        rule: The bucket rule.
    """
    result = np.zeros(len(pairs), dtype=np.bool_)
    open_ = np.zeros(len(pairs), dtype=np.bool_)
    gives = _Gives(probe, members, rule)
    for begin in range(0, len(pairs), _PAIRS_AT_A_TIME):
        part = slice(begin, begin + _PAIRS_AT_A_TIME)
        result[part], open_[part] = gives.of_pairs(pairs[part], signatures_of)
    doubtful = np.flatnonzero(open_ & ~result)
    if len(doubtful):
        heads = distinct([pairs[doubtful] >> _SHIFT]).astype(np.int64)
        other = Probe(signatures_of(heads), rule.banding)
        gives = _Gives(other, find(other), rule)
        for begin in range(0, len(doubtful), _PAIRS_AT_A_TIME):
            some = doubtful[begin : begin + _PAIRS_AT_A_TIME]
            result[some], _ = gives.of_pairs(pairs[some], signatures_of)
    return result


@dataclass(frozen=True)
class _Gives:
    """Who gives pairs in the buckets of a probe."""

    probe: Probe
    members: Members
    rule: BucketRule

    def of_pairs(
        self, pairs: Pairs, signatures_of: Callable[[Indices], Signatures]
    ) -> tuple[Flags, Flags]:
        """Whether a bucket of the probe gives each pair, and whether another bucket might."""
        a, b = split_pairs(pairs)
        ranks, places = np.unique(np.concatenate([a, b]), return_inverse=True)
        signatures = signatures_of(ranks)
        keys = band_keys_of(signatures, self.rule.banding)
        left, right = places[: len(a)], places[len(a) :]
        heads = distinct([left.astype(np.uint64)]).astype(np.int64)
        of_head = np.searchsorted(heads, left)
        known, gives = self._of_texts(signatures[heads], ranks[heads])
        given, other = np.zeros((2, len(pairs)), dtype=np.bool_)
        for band in range(len(keys)):
            shared = keys[band, left] == keys[band, right]
            given |= shared & gives[of_head, band]
            other |= shared & ~known[of_head, band]
        return given, other

    def _of_texts(self, signatures: Signatures, ranks: Indices) -> tuple[Flags, Flags]:
        """Whether the probe has the text's bucket, and whether the text gives pairs there.

        Both bool [texts, bands].
        """
        bands, n = self.probe.keys.shape
        known, gives = np.zeros((2, len(ranks), bands), dtype=np.bool_)
        mine = self.probe.find([(signatures, ranks)])
        bucket = mine >> _SHIFT
        begin = np.searchsorted(self.members, bucket << _SHIFT)
        size = np.searchsorted(self.members, (bucket + np.uint64(1)) << _SHIFT) - begin
        place = np.searchsorted(self.members, mine) - begin
        text = np.searchsorted(ranks, (mine & _LOW).astype(np.int64))
        band = (bucket // np.uint64(n)).astype(np.int64)
        known[text, band] = True
        gives[text, band] = (size <= self.rule.cap) | (place < self.rule.pivots)
        return known, gives
