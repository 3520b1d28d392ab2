"""A manifest as arrays: what an addition needs of the documents that are there.

Row i of `documents`, `signatures` and `shingles` is one document; `text` of `shingles` numbers the
distinct texts from 0. The first row of a text stands for it: it has the text's shingle set.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from govern.ids.store import Indices
from manifests.reader import Manifest

_BLOCK = 32_768


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Documents and texts of a manifest.

    Attributes:
        text_of: int64 [documents].
        standing: int64 [texts], the document that stands for each text.
        content: uint64 [texts, 4], SHA-256 of the normalised text as big-endian words.
        sequence_ids: int64 [documents].
        similarity: float32 [documents].
        is_representative: bool [documents].
        n_bytes: int64 [documents].
        names: Columns source and doc_id [documents].
    """

    text_of: Indices
    standing: Indices
    content: npt.NDArray[np.uint64]
    sequence_ids: Indices
    similarity: npt.NDArray[np.float32]
    is_representative: npt.NDArray[np.bool_]
    n_bytes: Indices
    names: pa.Table


@dataclass(frozen=True, kw_only=True)
class StoredLinks:
    """Verified pairs of texts.

    Attributes:
        a: int64, the number of the text with the smaller content hash.
        b: int64.
        jaccard: float64.
        row: int64, the row of each in `links`; left out where there is none yet.
    """

    a: Indices
    b: Indices
    jaccard: npt.NDArray[np.float64]
    row: Indices


def load_stored(manifest: Manifest) -> Stored:
    """Read what an addition needs: numbers and names, no signature and no shingle."""
    shingles = manifest.table("shingles", ["text", "content"])
    text_of = shingles["text"].to_numpy()
    standing = first_rows(text_of)
    content = _fixed_binary_rows(shingles["content"])[standing]
    documents = manifest.table(
        "documents",
        ["source", "doc_id", "n_bytes", "sequence_id", "is_representative", "similarity"],
    )
    return Stored(
        text_of=text_of,
        standing=standing,
        content=content.view(">u8").astype(np.uint64),
        sequence_ids=documents["sequence_id"].to_numpy(),
        similarity=documents["similarity"].to_numpy(),
        is_representative=documents["is_representative"].to_numpy(),
        n_bytes=documents["n_bytes"].to_numpy(),
        names=documents.select(["source", "doc_id"]),
    )


def load_links(manifest: Manifest, pool: ThreadPoolExecutor) -> StoredLinks:
    """The links between texts; those between copies of one text are left out."""

    def read(path: str) -> pa.Table:
        with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
            return file.read(columns=["text_a", "text_b", "jaccard"], use_threads=False)

    rows = pa.concat_tables(pool.map(read, manifest.files("links")))
    a, b = (pc.fill_null(rows[name], -1).to_numpy() for name in ("text_a", "text_b"))
    row = np.flatnonzero(a >= 0)
    jaccard = rows["jaccard"].to_numpy()
    return StoredLinks(a=a[row], b=b[row], jaccard=jaccard[row], row=row)


def first_rows(text_of: Indices) -> Indices:
    """The first row of each text, int64 [texts]."""
    first = np.zeros(int(text_of.max()) + 1 if len(text_of) else 0, dtype=np.int64)
    # Of several writes to one place NumPy keeps the last, so the rows are taken backwards.
    first[text_of[::-1]] = np.arange(len(text_of))[::-1]
    return first


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """Rows `first` up to `end` of a table, in one row group of one of its files."""

    path: str
    metadata: pq.FileMetaData
    number: int
    first: int
    end: int

    def read(self, column: str) -> pa.ChunkedArray:
        """One column. A mapped file is decoded without reading it into memory before."""
        with pq.ParquetFile(
            self.path, metadata=self.metadata, memory_map=True, pre_buffer=False
        ) as file:
            return file.read_row_group(self.number, columns=[column], use_threads=False).column(0)


def row_groups(manifest: Manifest, table: str) -> list[RowGroup]:
    """The row groups of a table, in row order."""
    groups, first = [], 0
    for path in manifest.files(table):
        metadata = pq.read_metadata(path)
        for number in range(metadata.num_row_groups):
            end = first + metadata.row_group(number).num_rows
            groups.append(
                RowGroup(path=path, metadata=metadata, number=number, first=first, end=end)
            )
            first = end
    return groups


def group_signatures(group: RowGroup) -> npt.NDArray[np.uint32]:
    """The signatures of a row group of `signatures`, uint32 [rows, num_perm]."""
    return _fixed_binary_rows(group.read("signature")).view("<u4")


def stored_signatures(manifest: Manifest, rows: Indices) -> npt.NDArray[np.uint32]:
    """The signatures of some ascending rows, uint32 [rows, num_perm]."""
    num_perm = int(manifest.parameters["num_perm"])
    found = np.zeros((len(rows), num_perm), dtype=np.uint32)
    for group in row_groups(manifest, "signatures"):
        here = slice(*np.searchsorted(rows, [group.first, group.end]))
        if here.start < here.stop:
            found[here] = group_signatures(group)[rows[here] - group.first]
    return found


def _fixed_binary_rows(column: pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    """uint8 [rows, width] of a fixed-size binary column without nulls."""
    width = column.type.byte_width
    parts = []
    for chunk in column.chunks:
        rows = np.frombuffer(chunk.buffers()[1], dtype=np.uint8).reshape(-1, width)
        parts.append(rows[chunk.offset : chunk.offset + len(chunk)])
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([np.zeros((0, width), dtype=np.uint8), *parts])
