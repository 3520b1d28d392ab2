"""Working files of a build: what is too large for memory, one file per stage result.

`ArrayFile` is a plain array on disk, appended to and then memory-mapped; `DocumentStore` holds the
documents' own columns (never their text) as Arrow IPC and gathers any rows of them.
"""

from __future__ import annotations

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
        if self._path.stat().st_size == 0:
            return np.zeros((0, self._width) if self._width else 0, dtype=self._dtype)
        flat = np.memmap(self._path, dtype=self._dtype, mode="r")
        return flat.reshape(shape)

    def close(self) -> None:
        """Close the file if it is still open."""
        self._file.close()


def new_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """A writable array on disk, zero-filled; in memory when it has no values."""
    if 0 in shape:
        return np.zeros(shape, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="w+", shape=shape)


class DocumentStore:
    """Columns of documents on disk, row i being document i."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pa.RecordBatchFileWriter | None = None
        self._ends: list[int] = [0]
        self._batches: list[pa.RecordBatch] = []
        self._map: pa.MemoryMappedFile | None = None

    def append(self, batch: pa.RecordBatch) -> None:
        """Add documents at the end."""
        if self._writer is None:
            self._writer = pa.ipc.new_file(self._path, batch.schema)
        if batch.num_rows:
            self._writer.write_batch(batch)
            self._ends.append(self._ends[-1] + batch.num_rows)

    def finish(self) -> None:
        """Close the file and map it for `take`."""
        assert self._writer is not None, "a corpus yields at least one batch, if an empty one"
        self._writer.close()
        self._map = pa.memory_map(str(self._path))
        reader = pa.ipc.open_file(self._map)
        self.schema = reader.schema
        self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]

    def take(self, rows: Indices, columns: list[str] | None = None) -> pa.Table:
        """The given rows in the given order; touches only the batches that hold them."""
        names = self.schema.names if columns is None else columns
        schema = pa.schema([self.schema.field(name) for name in names])
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        bounds = np.searchsorted(ascending, self._ends)
        parts = [
            batch.select(names).take(pa.array(ascending[bounds[i] : bounds[i + 1]] - self._ends[i]))
            for i, batch in enumerate(self._batches)
            if bounds[i + 1] > bounds[i]
        ]
        gathered = pa.Table.from_batches(parts, schema=schema).combine_chunks()
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return gathered.take(pa.array(back))

    def column(self, name: str) -> list[pa.Array]:
        """One column, batch by batch."""
        return [batch.column(name) for batch in self._batches]

    def __enter__(self) -> DocumentStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._batches = []
        if self._writer is not None and self._map is None:
            self._writer.close()
        if self._map is not None:
            self._map.close()
