"""The shingle sets of texts: sorted distinct 64-bit shingle hashes, in a working file.

Set i is `values[begins[i]:][:sizes[i]]`. They are intersected by `verify` and stored in the table
`shingles`, so that an addition can verify pairs with old texts without reading their text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from govern.ids.ingest import Ingested, ordered_map
from govern.ids.jit import compiled, inlined
from govern.ids.store import ArrayFile, Indices, new_array, split_rows
from govern.ids.stored import RowGroup, row_groups
from manifests.reader import Manifest

_FEW = 24  # hashes of a bucket that are sorted by insertion


@dataclass(frozen=True, kw_only=True)
class ShingleSets:
    """`values` uint64; `begins` and `sizes` int64 [sets]."""

    values: npt.NDArray[np.uint64]
    begins: Indices
    sizes: Indices


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
def _sort_sets(hashes, begins, ends, targets, sets, sizes):  # type: ignore[no-untyped-def]
    """sets[targets[i]:][:sizes[i]] = sorted distinct values of hashes[begins[i]:ends[i]]."""
    buckets = np.zeros((1 << 16) + 1, dtype=np.int64)
    for i in range(len(begins)):
        length = ends[i] - begins[i]
        part = sets[targets[i] : targets[i] + length]
        _sort_hashes(hashes[begins[i] : ends[i]], part, buckets)
        size = 0
        for k in range(length):
            if k == 0 or part[k] != part[k - 1]:
                part[size] = part[k]
                size += 1
        sizes[i] = size


@compiled()
def _gather(values, begins, sizes, chosen, out):  # type: ignore[no-untyped-def]
    """Write the chosen sets one after another."""
    at = 0
    for i in chosen:
        out[at : at + sizes[i]] = values[begins[i] : begins[i] + sizes[i]]
        at += sizes[i]


def build_sets(
    ingested: Ingested, documents: Indices, path: Path, pool: ThreadPoolExecutor
) -> ShingleSets:
    """The shingle sets of `documents`, in their order."""
    counts = np.concatenate(
        [np.zeros(0, dtype=np.int64), *(np.diff(offsets) for _, offsets in ingested.hashes)]
    )[documents]
    begins = np.zeros(len(documents) + 1, dtype=np.int64)
    np.cumsum(counts, out=begins[1:])
    values = new_array(path, np.uint64, (int(begins[-1]),))
    sizes = np.zeros(len(documents), dtype=np.int64)
    ends = np.cumsum([0, *(len(offsets) - 1 for _, offsets in ingested.hashes)])

    def work(task: tuple[int, Indices, Indices]) -> None:
        batch, part, rows = task
        hashes, offsets = ingested.hashes[batch]
        mine = np.zeros(len(part), dtype=np.int64)
        _sort_sets(hashes, offsets[rows], offsets[rows + 1], begins[part], values, mine)
        sizes[part] = mine

    # Read in file order, whatever the order of the texts.
    for _ in pool.map(work, split_rows(documents, ends)):
        pass
    return ShingleSets(values=values, begins=begins[:-1], sizes=sizes)


def encode_sets(sets: ShingleSets, chosen: Indices, present: npt.NDArray[np.bool_]) -> pa.Array:
    """The column `shingles` of some rows: the chosen set where `present`, else null.

    Args:
        sets: All sets.
        chosen: int64 [rows], the set of each row.
        present: bool [rows].
    """
    sizes = np.where(present, sets.sizes[chosen], 0)
    offsets = np.zeros(len(chosen) + 1, dtype=np.int64)
    np.cumsum(8 * sizes, out=offsets[1:])
    data = np.empty(int(offsets[-1]) // 8, dtype=np.uint64)
    _gather(sets.values, sets.begins, sets.sizes, chosen[present], data)
    validity = pa.py_buffer(np.packbits(present, bitorder="little"))
    return pa.Array.from_buffers(
        pa.large_binary(),
        len(chosen),
        [validity, pa.py_buffer(offsets), pa.py_buffer(data.astype("<u8", copy=False))],
    )


def chosen_sets(sets: ShingleSets, chosen: Indices) -> ShingleSets:
    """Some of the sets, without copying them."""
    return ShingleSets(values=sets.values, begins=sets.begins[chosen], sizes=sets.sizes[chosen])


def collect_sets(
    path: Path, count: int, parts: Iterable[tuple[Indices, ShingleSets]]
) -> ShingleSets:
    """Copy sets from several places into one working file.

    Args:
        path: The file.
        count: How many sets there will be.
        parts: Places in the result, and the sets that belong there; together every place once.
    """
    begins, sizes = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    file = ArrayFile(path, np.uint64)
    at = 0
    try:
        for places, sets in parts:
            data = np.empty(int(sets.sizes.sum()), dtype=np.uint64)
            _gather(sets.values, sets.begins, sets.sizes, np.arange(len(places)), data)
            file.append(data)
            begins[places] = at + np.cumsum(sets.sizes) - sets.sizes
            sizes[places] = sets.sizes
            at += len(data)
        return ShingleSets(values=file.finish(), begins=begins, sizes=sizes)
    finally:
        file.close()


def stored_sets(
    manifest: Manifest, rows: Indices, pool: ThreadPoolExecutor | None = None, workers: int = 1
) -> Iterator[tuple[Indices, ShingleSets]]:
    """The stored sets of some rows of `shingles`, reading only the row groups that hold them.

    Args:
        manifest: The manifest.
        rows: Ascending rows, each the first of its text.
        pool: Threads that read; without them the caller's reads.
        workers: How many there are.

    Yields:
        Positions in `rows`, and their sets.
    """

    def wanted() -> Iterator[tuple[RowGroup, Indices]]:
        for group in row_groups(manifest, "shingles"):
            here = np.arange(*np.searchsorted(rows, [group.first, group.end]))
            if len(here):
                yield group, here

    def read(one: tuple[RowGroup, Indices]) -> tuple[Indices, ShingleSets]:
        group, here = one
        column = group.read("shingles").combine_chunks()
        return here, _decode(column, rows[here] - group.first)

    return ordered_map(pool, read, wanted(), workers) if pool else map(read, wanted())


def all_sets(manifest: Manifest) -> Iterator[tuple[int, ShingleSets]]:
    """Every stored set, a row group at a time: its first row, and a set for each of its rows.

    Only the first row of a text has a set; that of any other row is empty.
    """
    for group in row_groups(manifest, "shingles"):
        column = group.read("shingles").combine_chunks()
        yield group.first, _decode(column, np.arange(len(column)))


def _decode(column: pa.Array, rows: Indices) -> ShingleSets:
    _, offsets_buffer, data = column.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int64)[column.offset :] // 8
    return ShingleSets(
        # A column of nulls alone has no data at all.
        values=np.frombuffer(data or b"", dtype="<u8").astype(np.uint64, copy=False),
        begins=offsets[rows],
        sizes=offsets[rows + 1] - offsets[rows],
    )
