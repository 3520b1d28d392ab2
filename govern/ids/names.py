"""The names of documents in one piece: looked up by the million, in any order.

Links name two documents each, anywhere in the corpus. A look into the batches that hold them would
cost as many looks as there are batches, for every piece of every table.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from govern.ids.shingle import text_buffers
from govern.ids.store import ArrayFile, Indices, release


class Names:
    """Source and ID of every document, IDs in a working file.

    Args:
        columns: Columns source and doc_id, batch by batch.
        directory: The folder for the working files.
    """

    def __init__(self, columns: Iterable[tuple[pa.Array, pa.Array]], directory: Path) -> None:
        codes: dict[str, int] = {}
        parts, end = [np.zeros(0, dtype=np.int32)], 0
        with (
            closing(ArrayFile(directory / "ids.u8", np.uint8)) as texts,
            closing(ArrayFile(directory / "ids.i64", np.int64)) as bounds,
        ):
            bounds.append(np.zeros(1, dtype=np.int64))
            for source, doc_id in columns:
                parts.append(encode(source, codes))
                data, offsets = text_buffers(doc_id)
                texts.append(data)
                bounds.append(offsets[1:] + end)
                end += len(data)
            self._data, self._bounds = texts.finish(), bounds.finish()
        # The number of each document's source, int32 [documents].
        self.codes: npt.NDArray[np.int32] = np.concatenate(parts)
        self._sources = pa.array(list(codes), pa.string())
        buffers = [None, pa.py_buffer(self._bounds), pa.py_buffer(self._data)]
        self._ids = pa.Array.from_buffers(pa.large_string(), len(self.codes), buffers)

    def take(self, rows: Indices) -> pa.Table:
        """Columns source and doc_id of some documents, in the given order."""
        found = pa.table(
            {
                "source": self._sources.take(pa.array(self.codes[rows])),
                "doc_id": self._ids.take(pa.array(rows)).cast(pa.string()),
            }
        )
        release(self._data)
        release(self._bounds)
        return found


def encode(column: pa.Array, codes: dict[str, int]) -> npt.NDArray[np.int32]:
    """The number of each text, int32 [rows]; texts that are new are added to `codes`."""
    encoded = column.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    local = np.array([codes.setdefault(name, len(codes)) for name in names], dtype=np.int32)
    numbers: npt.NDArray[np.int32] = local[encoded.indices.to_numpy()]
    return numbers
