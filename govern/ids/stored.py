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

from govern.ids.store import ChunkedRows, Indices, split_rows
from manifests.plain_pages import fixed_rows, pages_of
from manifests.reader import Manifest

Numbers = npt.NDArray[np.int32]


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
    """Verified pairs of texts, row i being row i of `links`; -1 in a row between copies of a text.

    Attributes:
        a: int32, the number of the text with the smaller content hash.
        b: int32.
    """

    a: Numbers
    b: Numbers


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
    """The links. Of tens of millions only the numbers are held, four bytes each."""
    ends = np.cumsum([0, *(entry.rows for entry in manifest.index.tables["links"])])
    a, b = (np.empty(int(ends[-1]), dtype=np.int32) for _ in range(2))

    def read(number: int) -> None:
        rows = _read_columns(manifest.files("links")[number], ["text_a", "text_b"])
        here = slice(ends[number], ends[number + 1])
        for name, target in (("text_a", a), ("text_b", b)):
            target[here] = pc.fill_null(rows[name], -1).to_numpy()

    list(pool.map(read, range(len(ends) - 1)))
    return StoredLinks(a=a, b=b)


def link_similarities(
    manifest: Manifest, rows: Indices, pool: ThreadPoolExecutor
) -> npt.NDArray[np.float64]:
    """The Jaccard similarity of some rows of `links`, in any order; float64 [rows]."""
    ends = np.cumsum([0, *(entry.rows for entry in manifest.index.tables["links"])])
    found = np.empty(len(rows), dtype=np.float64)

    def read(part: tuple[int, Indices, Indices]) -> None:
        file, places, within = part
        column = _read_columns(manifest.files("links")[file], ["jaccard"])["jaccard"]
        found[places] = column.to_numpy()[within]

    list(pool.map(read, split_rows(rows, ends)))
    return found


def _read_columns(path: str, columns: list[str]) -> pa.Table:
    with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
        return file.read(columns=columns, use_threads=False)


def first_rows(text_of: Indices) -> Indices:
    """The first row of each text, int64 [texts]."""
    first = np.zeros(int(text_of.max()) + 1 if len(text_of) else 0, dtype=np.int64)
    # Of several writes to one place NumPy keeps the last, so the rows are taken backwards.
    first[text_of[::-1]] = np.arange(len(text_of))[::-1]
    return first


def signature_rows(manifest: Manifest) -> ChunkedRows:
    """The signatures where they lie: uint32 [documents, num_perm], indexed by row."""
    pages = pages_of(manifest, "signatures", "signature")
    num_perm = int(manifest.parameters["num_perm"])
    return ChunkedRows([fixed_rows(page, "<u4") for page in pages], np.uint32, num_perm)


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
