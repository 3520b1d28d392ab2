"""Names and IDs of documents by one of their columns, from memory: for a process that asks often.

A column like `owner` has its values everywhere in `documents`, so that SQL decodes all of it for
every question. Here that is done once; a question then costs what its answer costs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import InputError
from manifests.reader import Manifest

_NAMES = ("sequence_id", "source", "doc_id")


class NamesBy:
    """Documents of a manifest by the values of a column.

    Holds about 30 bytes and the document ID for each document, and the distinct values.

    Args:
        manifest: The manifest, read once.
        column: A column of `documents` with text, integers or truth values.

    Raises:
        InputError: There is no such column, or it is of another type.
        ManifestError: Files are gone or cannot be read.
    """

    def __init__(self, manifest: Manifest, column: str) -> None:
        self._manifest = manifest
        values = _column(manifest, column).combine_chunks().dictionary_encode()
        codes = pc.fill_null(values.indices, -1).to_numpy()
        self._values: pa.Array = values.dictionary
        # Rows by value, each value's in row order; rows without one come first.
        self._rows: npt.NDArray[np.int64] = np.argsort(codes, kind="stable")
        self._begin = np.searchsorted(codes[self._rows], np.arange(len(self._values) + 1))
        documents = manifest.table("documents", list(_NAMES))
        self._names = pa.table(
            {
                "sequence_id": documents["sequence_id"].combine_chunks(),
                "source": documents["source"].combine_chunks().dictionary_encode(),
                # One array of 64-bit offsets: rows of a chunked column are slow to take.
                "doc_id": documents["doc_id"].cast(pa.large_string()).combine_chunks(),
            }
        )
        self._schema = documents.schema

    def find(self, value: Any) -> pa.Table:
        """The documents with this value: sequence_id, source, doc_id, sorted by them.

        Raises:
            ManifestError: The manifest's files changed since.
        """
        self._manifest.require_files("documents")
        code = pc.index(self._values, pa.scalar(value, self._values.type)).as_py()
        rows = self._rows[slice(*self._begin[code : code + 2])] if code >= 0 else self._rows[:0]
        found = self._names.take(pa.array(rows)).cast(self._schema)
        return found.sort_by([(name, "ascending") for name in _NAMES])


def _column(manifest: Manifest, column: str) -> pa.ChunkedArray:
    import pyarrow.parquet as pq

    manifest.require_files("documents")
    schema = pq.read_schema(manifest.files("documents")[0])
    kinds = (pa.types.is_string, pa.types.is_integer, pa.types.is_boolean)
    if column not in schema.names or not any(is_a(schema.field(column).type) for is_a in kinds):
        raise InputError(
            f"column {column!r}",
            expected="a column of documents with text, integers or truth values",
            found=str(schema.field(column).type) if column in schema.names else "no such column",
            remedy='`govern manifest query MANIFEST "DESCRIBE documents"` lists them',
        )
    return manifest.table("documents", [column])[column]
