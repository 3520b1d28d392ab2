"""A manifest as arrays: what an addition needs of the documents that are there.

Row i of `documents`, `signatures` and `shingles` is one document; `text` of `shingles` numbers the
distinct texts from 0. The first row of a text stands for it: it has the text's shingle set.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    """Verified pairs of texts: `a` and `b` int64 text numbers, `jaccard` float64."""

    a: Indices
    b: Indices
    jaccard: npt.NDArray[np.float64]


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


def load_links(manifest: Manifest) -> StoredLinks:
    """The links between texts; those between copies of one text are left out."""
    rows = manifest.table("links", ["text_a", "text_b", "jaccard"])
    a, b = link_texts(rows)
    between_texts = a >= 0
    jaccard = rows["jaccard"].to_numpy()
    return StoredLinks(a=a[between_texts], b=b[between_texts], jaccard=jaccard[between_texts])


def link_texts(links: pa.Table) -> tuple[Indices, Indices]:
    """Columns text_a and text_b of some rows of `links`, -1 where they are null."""
    a, b = (pc.fill_null(links[name], -1).to_numpy() for name in ("text_a", "text_b"))
    return a, b


def first_rows(text_of: Indices) -> Indices:
    """The first row of each text, int64 [texts]."""
    first = np.zeros(int(text_of.max()) + 1 if len(text_of) else 0, dtype=np.int64)
    # Of several writes to one place NumPy keeps the last, so the rows are taken backwards.
    first[text_of[::-1]] = np.arange(len(text_of))[::-1]
    return first


def signature_blocks(
    manifest: Manifest,
) -> Iterator[tuple[int, npt.NDArray[np.uint32]]]:
    """The first row and the signatures, uint32 [n, num_perm], of one block after another."""
    num_perm = int(manifest.parameters["num_perm"])
    first = 0
    for path in manifest.files("signatures"):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BLOCK, columns=["signature"]):
                column = batch.column(0)
                values = np.frombuffer(column.buffers()[1], dtype="<u4").reshape(-1, num_perm)
                yield first, values[column.offset : column.offset + len(column)]
                first += len(column)


def stored_signatures(manifest: Manifest, rows: Indices) -> npt.NDArray[np.uint32]:
    """The signatures of some ascending rows, uint32 [rows, num_perm]."""
    num_perm = int(manifest.parameters["num_perm"])
    found = np.zeros((len(rows), num_perm), dtype=np.uint32)
    first = 0
    for path in manifest.files("signatures"):
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                end = first + file.metadata.row_group(group).num_rows
                here = np.arange(*np.searchsorted(rows, [first, end]))
                if len(here):
                    column = file.read_row_group(group, columns=["signature"]).column(0)
                    block = _fixed_binary_rows(column).view("<u4")
                    found[here] = block[rows[here] - first]
                first = end
    return found


def _fixed_binary_rows(column: pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    """uint8 [rows, width] of a fixed-size binary column without nulls."""
    width = column.type.byte_width
    parts = [np.zeros((0, width), dtype=np.uint8)]
    for chunk in column.chunks:
        rows = np.frombuffer(chunk.buffers()[1], dtype=np.uint8).reshape(-1, width)
        parts.append(rows[chunk.offset : chunk.offset + len(chunk)])
    return np.concatenate(parts)
