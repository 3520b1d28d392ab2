"""Third stage: pairs of texts that share a band of their signatures.

Texts with an equal band lie in one bucket. A bucket up to `BUCKET_CAP` gives all its pairs; a
larger one gives the pairs of its `PIVOTS` smallest texts with every member. All pairs, because
verifying only star edges loses components; a cap, because a bucket of a million templates must not
become 10^12 pairs. Adding a text never adds a pair of two old ones: the pivots of a bucket can
only become smaller, and a bucket can only pass from all pairs to pivots. It can take one away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from govern.ids.ingest import ordered_map
from govern.ids.jit import compiled, inlined
from govern.ids.minhash import Banding
from govern.ids.settle import Settled
from govern.ids.store import ArrayFile, ChunkedRows, new_array, release

BUCKET_CAP = 128
PIVOTS = 16
_SAMPLES = 256  # of each piece, to find where it ends

Pairs = npt.NDArray[np.uint64]
_Number = TypeVar("_Number", np.int64, np.uint64)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_SHIFT = np.uint64(32)


@inlined
def band_key(signatures, i, band, rows):  # type: ignore[no-untyped-def]
    """The 64-bit hash of one band of signature i; the band's number is part of it."""
    key = np.uint64(band + 1)
    for at in range(band * rows, (band + 1) * rows):
        key = (key ^ np.uint64(signatures[i, at])) * _MIX
        key ^= key >> _SHIFT
    return key


@compiled()
def fill_band_keys(signatures, texts, rows, keys):  # type: ignore[no-untyped-def]
    """keys[band, texts[i]] = the key of each band of signature i, where texts[i] >= 0."""
    for i in range(len(signatures)):
        if texts[i] < 0:
            continue
        for band in range(len(keys)):
            keys[band, texts[i]] = band_key(signatures, i, band, rows)


@compiled()
def _fill_halves(signatures, rows, halves):  # type: ignore[no-untyped-def]
    for i in range(len(signatures)):
        for band in range(halves.shape[1]):
            halves[i, band] = band_key(signatures, i, band, rows) >> _SHIFT


def band_halves(signatures: npt.NDArray[np.uint32], banding: Banding) -> npt.NDArray[np.uint32]:
    """The upper half of every band's key of signatures, uint32 [n, bands]."""
    halves = np.empty((len(signatures), banding.bands), dtype=np.uint32)
    _fill_halves(signatures, banding.rows, halves)
    return halves


@compiled()
def _bucket_pairs(members, cap, pivots, pairs):  # type: ignore[no-untyped-def]
    """Write each bucket's pairs as (smaller << 32 | larger); with an empty `pairs` only count.

    `members` are (bucket << 32 | text), ascending.
    """
    low = np.uint64(0xFFFFFFFF)
    written = 0
    begin = 0
    n = len(members)
    while begin < n:
        end = begin + 1
        while end < n and members[end] >> _SHIFT == members[begin] >> _SHIFT:
            end += 1
        heads = end - begin if end - begin <= cap else pivots
        if len(pairs):
            for i in range(begin, begin + heads):
                for j in range(i + 1, end):
                    pairs[written] = members[i] << _SHIFT | members[j] & low
                    written += 1
        else:
            written += heads * (end - begin) - heads * (heads + 1) // 2
        begin = end
    return written


def band_keys(
    signatures: ChunkedRows, settled: Settled, banding: Banding, path: Path
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Band keys of every text, in one pass over the signatures.

    Texts stay in the order of their documents, so that the file is written from front to back.

    Returns:
        uint64 [bands, texts] on disk, and which text each column belongs to, int64 [texts].
    """
    keys = new_array(path, np.uint64, (banding.bands, len(settled.document_of)))
    stands = np.full(len(settled.text_of), -1, dtype=np.int64)
    stands[settled.document_of] = np.arange(len(settled.document_of))
    begin, at = 0, 0
    for chunk in signatures.once():
        block = keys_of(chunk, stands[begin : begin + len(chunk)] >= 0, banding)
        keys[:, at : at + block.shape[1]] = block
        begin += len(chunk)
        at += block.shape[1]
    return keys, stands[stands >= 0]


def keys_of(
    signatures: npt.NDArray[np.uint32], chosen: npt.NDArray[np.bool_], banding: Banding
) -> npt.NDArray[np.uint64]:
    """The band keys of the chosen signatures, in their order, uint64 [bands, chosen]."""
    places = np.where(chosen, np.cumsum(chosen) - 1, -1)
    block = np.empty((banding.bands, int(chosen.sum())), dtype=np.uint64)
    fill_band_keys(signatures, places, banding.rows, block)
    return block


def pairs_of_band(keys: npt.NDArray[np.uint64], texts: npt.NDArray[np.int64]) -> Pairs:
    """The candidate pairs of one band, uint64 (smaller text << 32 | larger), by bucket.

    Args:
        keys: uint64 [texts].
        texts: int64 [texts], the text of each key.
    """
    # Texts alone in their bucket are most of them: only buckets of two and more go on.
    chosen = _in_company(np.asarray(keys))
    order = chosen[np.argsort(keys[chosen])]
    ranked = keys[order]
    same = np.zeros(len(order) + 1, dtype=bool)
    same[1:-1] = ranked[1:] == ranked[:-1]
    crowded = same[1:] | same[:-1]
    bucket = np.cumsum(~same[:-1][crowded], dtype=np.uint64)
    members = bucket << _SHIFT | texts[order[crowded]].astype(np.uint64)
    members.sort()
    count = _bucket_pairs(members, BUCKET_CAP, PIVOTS, np.zeros(0, dtype=np.uint64))
    pairs = np.empty(count, dtype=np.uint64)
    if count:
        _bucket_pairs(members, BUCKET_CAP, PIVOTS, pairs)
    return pairs


def _in_company(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Places of all keys that occur twice or more, and of a few others; int64.

    Keys lose their low bits to their place, so that one sort of integers tells, which takes half
    the time of `argsort` and grows less with the keys.
    """
    places = np.arange(len(keys), dtype=np.uint64)
    bits = np.uint64(max(1, len(keys)).bit_length())
    low = (np.uint64(1) << bits) - np.uint64(1)
    packed = keys & ~low | places
    packed.sort()
    same = np.zeros(len(keys) + 1, dtype=bool)
    high = packed >> bits
    same[1:-1] = high[1:] == high[:-1]
    return (packed[same[1:] | same[:-1]] & low).astype(np.int64)


def spill_pairs(
    keys: npt.NDArray[np.uint64],
    texts: npt.NDArray[np.int64],
    directory: Path,
    pool: ThreadPoolExecutor,
    workers: int,
    advance: Callable[[int], None],
) -> list[Pairs]:
    """The candidate pairs of each band, ascending, in a working file for each band."""

    def work(band: int) -> Pairs:
        pairs = pairs_of_band(keys[band], texts)
        pairs.sort()
        file = ArrayFile(directory / f"pairs-{band}.u64", np.uint64)
        file.append(pairs)
        release(keys[band])
        return file.finish()

    runs = []
    for run in ordered_map(pool, work, range(len(keys)), workers):
        runs.append(run)
        advance(1)
    return runs


def merge_pairs(
    runs: list[Pairs], held: int, pool: ThreadPoolExecutor | None = None
) -> Iterator[Pairs]:
    """The pairs of all bands, each once, ascending, in pieces.

    Args:
        runs: The pairs of each band, ascending.
        held: About how many pairs (with those that several bands have) a piece may hold.
        pool: Threads, one of which merges the next piece meanwhile; without them the caller's does.
    """
    total = sum(map(len, runs))
    cuts = np.zeros(0, dtype=np.uint64)
    if total > held:
        # Quantiles of a sample: pieces of nearly equal size, whatever the pairs are.
        step = max(1, total // (_SAMPLES * (total // held + 1)))
        sample = np.sort(np.concatenate([run[::step] for run in runs]))
        cuts = np.unique(sample[:: max(1, len(sample) // (total // held + 1))][1:])
    places = [[0, *np.searchsorted(run, cuts).tolist(), len(run)] for run in runs]
    for run in runs:
        release(run)

    def work(piece: int) -> Pairs:
        parts = [run[at[piece] : at[piece + 1]] for run, at in zip(runs, places, strict=True)]
        pairs = distinct(parts)
        for part in parts:
            release(part)
        return pairs

    numbers = range(len(cuts) + 1)
    yield from filter(len, ordered_map(pool, work, numbers, 1) if pool else map(work, numbers))


def distinct(parts: Sequence[npt.NDArray[_Number]]) -> npt.NDArray[_Number]:
    """Every number once, ascending. Sorting, because np.unique hashes and is many times slower."""
    pairs = np.concatenate(parts)
    pairs.sort()
    return pairs[np.concatenate([[True], pairs[1:] != pairs[:-1]])] if len(pairs) else pairs


def join_pairs(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> Pairs:
    """Pairs of numbers below 2^32, of any integer type."""
    return a.astype(np.uint64) << _SHIFT | b.astype(np.uint64)


def split_pairs(pairs: Pairs) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The two texts of each pair, int64."""
    return (
        (pairs >> _SHIFT).astype(np.int64),
        (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64),
    )
