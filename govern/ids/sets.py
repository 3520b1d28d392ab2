"""The shingle sets of texts: sorted distinct 64-bit shingle hashes, in a working file.

Set i is `values[begins[i]:][:sizes[i]]`. They are intersected by `verify` and stored in the table
`shingles`, so that an addition can verify pairs with old texts without reading their text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from govern.ids.ingest import Ingested, ordered_map
from govern.ids.jit import compiled
from govern.ids.store import ArrayFile, Indices, release, split_rows
from manifests.errors import ManifestError
from manifests.plain_pages import Page, pages_of
from manifests.reader import Manifest

_PAGES_AT_A_TIME = 16
_Found = TypeVar("_Found")
Hashes = Sequence[tuple[npt.NDArray[np.uint64], Indices]]


@dataclass(frozen=True, kw_only=True)
class ShingleSets:
    """`values` uint64; `begins` and `sizes` int64 [sets]."""

    values: npt.NDArray[np.uint64]
    begins: Indices
    sizes: Indices


# Values of a file of sets that are in memory at a time while sets are gathered from all over it.
_STRETCH = 1 << 25


@compiled()
def _gather(values, begins, sizes, chosen, places, out):  # type: ignore[no-untyped-def]
    """Write each chosen set to its place."""
    for k in range(len(chosen)):
        i, at = chosen[k], places[k]
        out[at : at + sizes[i]] = values[begins[i] : begins[i] + sizes[i]]


def gather(sets: ShingleSets, chosen: Indices) -> npt.NDArray[np.uint64]:
    """The values of the chosen sets, one set after another.

    They are read in the order in which they lie, so that little of a mapped file is in memory.
    """
    sizes = sets.sizes[chosen]
    places = np.cumsum(sizes) - sizes
    out = np.empty(int(sizes.sum()), dtype=np.uint64)
    begins = sets.begins[chosen]
    order = np.argsort(begins, kind="stable")
    bounds = np.searchsorted(begins[order], np.arange(0, len(sets.values), _STRETCH))
    for some in np.split(order, bounds[1:]):
        if len(some):
            _gather(sets.values, sets.begins, sets.sizes, chosen[some], places[some], out)
            end = int(begins[some[-1]] + sizes[some[-1]])
            release(sets.values[int(begins[some[0]]) : end])
    return out


def build_sets(ingested: Ingested, documents: Indices, path: Path) -> ShingleSets:
    """The shingle sets of `documents`, in their order; copied in file order, whatever that is."""
    parts = sets_within(ingested.hashes, documents, ingested.documents.leave)
    return collect_sets(path, len(documents), parts)


def sets_within(
    hashes: Hashes, rows: Indices, leave: Callable[[int], None] = lambda _: None
) -> Iterator[tuple[Indices, ShingleSets]]:
    """The sets of some documents, where they lie.

    Args:
        hashes: As `Ingested.hashes`.
        rows: int64, documents by their number through all batches, in any order.
        leave: Called with the number of a batch that is done with.

    Yields:
        Places in `rows`, and their sets.
    """
    ends = np.cumsum([0, *(len(offsets) - 1 for _, offsets in hashes)])
    for batch, places, within in split_rows(rows, ends):
        values, offsets = hashes[batch]
        begins = offsets[within]
        yield places, ShingleSets(values=values, begins=begins, sizes=offsets[within + 1] - begins)
        leave(batch)


def encode_sets(
    sets: ShingleSets, chosen: Indices, present: npt.NDArray[np.bool_]
) -> dict[str, pa.Array]:
    """Columns `n_shingles` and `shingles` of some rows: the chosen set where `present`, else none.

    Args:
        sets: All sets.
        chosen: int64 [rows], the set of each row.
        present: bool [rows].
    """
    sizes = np.where(present, sets.sizes[chosen], 0)
    offsets = np.zeros(len(chosen) + 1, dtype=np.int64)
    np.cumsum(8 * sizes, out=offsets[1:])
    data = gather(sets, chosen[present])
    validity = pa.py_buffer(np.packbits(present, bitorder="little"))
    buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(data.astype("<u8", copy=False))]
    return {
        "n_shingles": pa.array(sizes, pa.int32()),
        "shingles": pa.Array.from_buffers(pa.large_binary(), len(chosen), buffers),
    }


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
    with closing(ArrayFile(path, np.uint64)) as file:
        begins, sizes = _packed(count, parts, file.append)
        return ShingleSets(values=file.finish(), begins=begins, sizes=sizes)


def held_sets(count: int, parts: Iterable[tuple[Indices, ShingleSets]]) -> ShingleSets:
    """`collect_sets`, in memory."""
    data = [np.zeros(0, dtype=np.uint64)]
    begins, sizes = _packed(count, parts, data.append)
    return ShingleSets(values=np.concatenate(data), begins=begins, sizes=sizes)


def _packed(
    count: int,
    parts: Iterable[tuple[Indices, ShingleSets]],
    keep: Callable[[npt.NDArray[np.uint64]], None],
) -> tuple[Indices, Indices]:
    """Hand sets on, one after another; where each place's begins there, and its size."""
    begins, sizes = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    at = 0
    for places, sets in parts:
        within = np.cumsum(sets.sizes) - sets.sizes
        data = sets.values
        if len(data) != sets.sizes.sum() or not np.array_equal(within, sets.begins):
            data = gather(sets, np.arange(len(places)))
        keep(data)
        begins[places] = at + within
        sizes[places] = sets.sizes
        at += len(data)
    return begins, sizes


def stored_sets(
    manifest: Manifest, rows: Indices, pool: ThreadPoolExecutor | None = None, workers: int = 1
) -> Iterator[tuple[Indices, ShingleSets]]:
    """The stored sets of some rows of `shingles`; of a file only their own bytes are touched.

    Args:
        manifest: The manifest.
        rows: Ascending rows, each the first of its text.
        pool: Threads that read; without them the caller's reads.
        workers: How many there are.

    Yields:
        Positions in `rows`, and their sets.
    """

    def wanted() -> Iterator[tuple[int, list[_Asked]]]:
        at = 0
        some: list[_Asked] = []
        for page, sizes in _set_pages(manifest):
            end = int(np.searchsorted(rows, page.end))
            begin = at + sum(len(asked.rows) for asked in some)
            if begin < end:
                some.append(_Asked(page, sizes, rows[begin:end] - page.first))
            if len(some) == _PAGES_AT_A_TIME:
                yield at, some
                at, some = end, []
        if some:
            yield at, some

    def read(one: tuple[int, list[_Asked]]) -> tuple[Indices, ShingleSets]:
        at, some = one
        sets = _copied(manifest, some)
        return np.arange(at, at + len(sets.sizes)), sets

    return ordered_map(pool, read, wanted(), workers) if pool else map(read, wanted())


def each_stored_set(
    manifest: Manifest, examine: Callable[[int, ShingleSets], _Found], workers: int
) -> Iterator[_Found]:
    """What `examine` finds in every stored set, some pages at a time.

    Args:
        manifest: The manifest.
        examine: Is given the first row of the pages, and a set for each of their rows; only the
            first row of a text has a set, that of any other row is empty. Runs on threads.
        workers: How many threads.

    Yields:
        What it returns, in row order.
    """

    def pages() -> Iterator[list[_Asked]]:
        each = (_Asked(page, sizes, np.arange(len(sizes))) for page, sizes in _set_pages(manifest))
        while some := list(islice(each, _PAGES_AT_A_TIME)):
            yield some

    def read(some: list[_Asked]) -> _Found:
        return examine(some[0].page.first, _copied(manifest, some))

    with ThreadPoolExecutor(workers) as pool:
        yield from ordered_map(pool, read, pages(), workers)


@dataclass(frozen=True)
class _Asked:
    """A page of the column `shingles`, the sizes of its rows, and which of them are wanted."""

    page: Page
    sizes: npt.NDArray[np.int32]
    rows: Indices


def _set_pages(manifest: Manifest) -> Iterator[tuple[Page, npt.NDArray[np.int32]]]:
    sizes = manifest.table("shingles", ["n_shingles"])["n_shingles"].to_numpy()
    for page in pages_of(manifest, "shingles", "shingles"):
        yield page, sizes[page.first : page.end]


@compiled()
def _copy_sets(page, sizes, rows, out):  # type: ignore[no-untyped-def]
    """Write the bytes of the sets of ascending rows of a page; False if it does not hold them.

    A set is its length in four bytes, and its hashes; a row of size 0 has no value.
    """
    at, taken, written = np.int64(0), 0, np.int64(0)
    for row in range(len(sizes)):
        if taken == len(rows):
            break
        length = 8 * np.int64(sizes[row])
        if rows[taken] == row:
            taken += 1
            if length > 0:
                begin = at + 4
                if length > len(page) - begin:
                    return False
                stated = np.int64(0)
                for byte in range(4):
                    stated |= np.int64(page[at + byte]) << (8 * byte)
                if stated != length:
                    return False
                out[written : written + length] = page[begin : begin + length]
                written += length
        if length > 0:
            at += 4 + length
    return taken == len(rows)


def _copied(manifest: Manifest, some: list[_Asked]) -> ShingleSets:
    sizes = np.concatenate([one.sizes[one.rows] for one in some]).astype(np.int64)
    ends = np.cumsum(sizes)
    values = np.empty(int(ends[-1]) if (sizes >= 0).all() else 0, dtype="<u8")
    at = 0
    for one in some:
        end = at + 8 * int(one.sizes[one.rows].sum(dtype=np.int64))
        if not _copy_sets(one.page.values, one.sizes, one.rows, values.view(np.uint8)[at:end]):
            raise ManifestError(
                f"column shingles of manifest {manifest.path}",
                expected="sets of the sizes that n_shingles says",
                found=f"others from row {one.page.first} on",
                remedy="rebuild the manifest with `govern ids build`, or restore it from a backup",
            )
        at = end
    return ShingleSets(
        values=values.astype(np.uint64, copy=False), begins=ends - sizes, sizes=sizes
    )
