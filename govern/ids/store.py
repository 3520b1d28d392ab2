"""Working files of a build: what is too large for memory, one file per stage result.

`ArrayFile` is a plain array on disk, appended to and then memory-mapped. `DocumentStore` gathers
any rows of the documents in the files of `parts`, and `ChunkedRows` of arrays that lie in them.
Whoever goes through a mapped file gives its pages back behind itself: they would count as memory of
this process until another one needs it.

A working array has lost its file's name by the time it is used: what a stage left takes no room on
the disk once nobody refers to it, and a build that is killed leaves none of it.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Indices = npt.NDArray[np.int64]


class ArrayFile:
    """An array that grows by rows on disk.

    Args:
        path: The file to write.
        dtype: Its values.
        width: Values per row; 0 for a one-dimensional array.
    """

    def __init__(self, path: Path, dtype: Any, width: int = 0) -> None:
        self._path = path
        self._dtype = np.dtype(dtype)
        self._width = width
        self._file = path.open("wb")

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Add rows at the end."""
        self._file.write(np.ascontiguousarray(rows, dtype=self._dtype).data)

    def finish(self) -> npt.NDArray[Any]:
        """Close the file and map it, read-only."""
        self._file.close()
        shape = (-1, self._width) if self._width else (-1,)
        if self._path.stat().st_size:
            flat: npt.NDArray[Any] = np.memmap(self._path, dtype=self._dtype, mode="r")
        else:  # which cannot be mapped
            flat = np.zeros(0, dtype=self._dtype)
        _forget_name(self._path)
        return flat.reshape(shape)

    def close(self) -> None:
        """Close the file if it is still open."""
        self._file.close()


def new_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """A writable array on disk, zero-filled; in memory when it has no values.

    Raises:
        OSError: The disk has no room for it. Asked for now, since a mapped file that meets a full
            disk later ends the process by a signal.
    """
    if 0 in shape:
        return np.zeros(shape, dtype=dtype)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
    array = np.memmap(path, dtype=dtype, mode="r+", shape=shape)
    _forget_name(path)
    return array


def _forget_name(path: Path) -> None:
    # Where a file that is open cannot be removed, the end of the build removes it.
    with contextlib.suppress(PermissionError):
        path.unlink()


def release(array: npt.NDArray[Any]) -> None:
    """Give back the memory of a contiguous piece of a mapped array.

    What is used again is mapped again. An array in memory stays as it is.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        _give_back(base, array.ctypes.data, array.nbytes)


def _give_back(mapped: mmap.mmap, address: int, size: int) -> None:
    """Give back the pages of `size` bytes at an address within a map."""
    if hasattr(mmap, "MADV_DONTNEED"):
        begin = address - pa.py_buffer(mapped).address
        first = begin - begin % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_DONTNEED, first, begin + size - first)


class ChunkedRows:
    """Rows of one width that lie in several arrays: indexed by row numbers, like one array.

    Args:
        chunks: The arrays.
        dtype: Their values.
        width: Values of a row.
        leave: Gives back the memory that a chunk takes, by its number.
    """

    def __init__(
        self,
        chunks: Sequence[npt.NDArray[Any]],
        dtype: Any,
        width: int,
        leave: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.chunks = tuple(chunks)
        self._leave = leave
        self._ends = np.cumsum([0, *map(len, chunks)])
        self._dtype = np.dtype(dtype)
        self.shape = (int(self._ends[-1]), width)

    def once(self) -> Iterator[npt.NDArray[Any]]:
        """The arrays in order, none of them in memory when the next one is given."""
        for number, chunk in enumerate(self.chunks):
            yield chunk
            self._leave(number)

    def __getitem__(self, rows: Indices) -> npt.NDArray[Any]:
        """The given rows in the given order."""
        result = np.empty((len(rows), self.shape[1]), dtype=self._dtype)
        for chunk, places, within in split_rows(rows, self._ends):
            result[places] = self.chunks[chunk][within]
            self._leave(chunk)
        return result

    def __len__(self) -> int:
        return self.shape[0]


def split_rows(rows: Indices, ends: Indices) -> Iterator[tuple[int, Indices, Indices]]:
    """Rows by the chunk that holds them.

    Args:
        rows: int64 [n], in any order.
        ends: Ascending; chunk i holds the rows from `ends[i]` up to `ends[i + 1]`.

    Yields:
        The chunk, places in `rows`, and the rows there counted within the chunk, ascending.
    """
    order = np.argsort(rows, kind="stable")
    ascending = rows[order]
    bounds = np.searchsorted(ascending, ends)
    for chunk in np.flatnonzero(np.diff(bounds)).tolist():
        part = slice(bounds[chunk], bounds[chunk + 1])
        yield chunk, order[part], ascending[part] - ends[chunk]


class DocumentStore:
    """Documents as Arrow IPC files, mapped: row i is document i through all files.

    Args:
        paths: The files; their batches have one schema.
        computed: Columns that are no columns of a document: `take` leaves them out.
    """

    def __init__(self, paths: Sequence[Path], computed: Collection[str]) -> None:
        self.batches: list[pa.RecordBatch] = []
        self._spans: list[tuple[mmap.mmap, int, int]] = []  # of each batch: file, address, size
        schema = pa.schema([])
        for mapped in map(_mapped, paths):
            reader = pa.ipc.open_file(pa.py_buffer(mapped))
            schema = reader.schema
            for number in range(reader.num_record_batches):
                self.batches.append(reader.get_batch(number))
                self._spans.append((mapped, *_span(self.batches[-1])))
        self.schema = pa.schema([field for field in schema if field.name not in computed])
        self._ends = np.cumsum([0, *(batch.num_rows for batch in self.batches)])

    def take(self, rows: Indices, columns: list[str] | None = None) -> pa.Table:
        """The given rows in the given order; touches only the batches that hold them."""
        names = self.schema.names if columns is None else columns
        schema = pa.schema([self.schema.field(name) for name in names])
        parts, places = [], [np.zeros(0, dtype=np.int64)]
        for number, where, within in split_rows(rows, self._ends):
            parts.append(self.batches[number].select(names).take(pa.array(within)))
            places.append(where)
            self.leave(number)
        gathered = pa.Table.from_batches(parts, schema=schema).combine_chunks()
        order = np.concatenate(places)
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return gathered.take(pa.array(back))

    def column(self, name: str) -> list[pa.Array]:
        """One column, batch by batch."""
        return [batch.column(name) for batch in self.batches]

    def once(self, *names: str) -> Iterator[tuple[pa.Array, ...]]:
        """Some columns, batch by batch, none of them in memory when the next one is given."""
        for number, batch in enumerate(self.batches):
            yield tuple(batch.column(name) for name in names)
            self.leave(number)

    def release(self) -> None:
        """Give back the memory that all batches take."""
        for number in range(len(self._spans)):
            self.leave(number)

    def leave(self, number: int) -> None:
        """Give back the memory that a batch takes."""
        _give_back(*self._spans[number])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __enter__(self) -> DocumentStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A map ends with the last array in it, which somebody may still hold.
        self.batches = []
        self._spans = []


def _span(batch: pa.RecordBatch) -> tuple[int, int]:
    """Where a batch lies: the address of its first buffer, and bytes up to the end of its last."""
    ends = [
        (buffer.address, buffer.address + buffer.size)
        for column in batch.columns
        for buffer in column.buffers()
        if buffer is not None and buffer.size
    ]
    begin = min(address for address, _ in ends)
    return begin, max(end for _, end in ends) - begin


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
