"""Last stage: the manifest's tables of new documents, from the arrays of the stages before.

Rows are sorted by content (sequence ID, then document key), so equal corpora give equal bytes.
Tables are written in parts, and only the part of each that is being written is in memory. A build
writes every table this way, several at once; an addition appends its new documents (`amend`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from govern.ids.corpus import kept_type
from govern.ids.ingest import Ingested, fixed_binary
from govern.ids.lsh import band_halves
from govern.ids.minhash import Banding
from govern.ids.order import ascending
from govern.ids.sets import ShingleSets, encode_sets
from govern.ids.settle import Settled
from govern.ids.store import Indices, release
from manifests import schema
from manifests.index import FileEntry
from manifests.writer import TableWriter

# Rows that are gathered at a time, and bytes of them where rows are large.
_PART = 1 << 18
_PART_BYTES = 128 << 20
Files = tuple[FileEntry, ...]
# (source, doc_id) of documents by their number.
Names = Callable[[Indices], pa.Table]


@dataclass(frozen=True, kw_only=True)
class Assigned:
    """New documents and what was decided about their texts.

    Attributes:
        ingested: The documents.
        settled: Which of them are documents, and their texts.
        sets: The shingle set of each text.
        banding: How signatures are cut.
        numbers: int64 [texts], the number of each text in the manifest.
        fresh: bool [texts], the manifest did not have this text before.
        sequence_ids: int64 [texts].
        similarity: float64 [texts], to the representative.
        represents: bool [texts], the text represents its sequence.
        snapshot: The snapshot that these documents come with.
    """

    ingested: Ingested
    settled: Settled
    sets: ShingleSets
    banding: Banding
    numbers: Indices
    fresh: npt.NDArray[np.bool_]
    sequence_ids: Indices
    similarity: npt.NDArray[np.float64]
    represents: npt.NDArray[np.bool_]
    snapshot: int

    def sorted_documents(self) -> Indices:
        """Documents by (sequence ID, key)."""
        documents = np.flatnonzero(self.settled.text_of >= 0)
        keys = np.asarray(self.ingested.keys)[documents]
        release(self.ingested.keys)
        return documents[ascending(self.sequence_ids[self.settled.text_of[documents]], *keys.T)]

    def names(self, rows: Indices) -> pa.Table:
        """Columns source and doc_id of documents."""
        return self.ingested.names.take(rows)


class Stream(NamedTuple):
    """The schema of a table, and its rows from first to last."""

    schema: pa.Schema
    parts: Iterable[pa.Table]


@dataclass(frozen=True, kw_only=True)
class LinkRows:
    """Rows of `links`: document numbers, similarity, and text numbers (-1 between copies)."""

    a: Indices
    b: Indices
    jaccard: npt.NDArray[np.float64]
    text_a: Indices
    text_b: Indices


def documents_schema(ingested: Ingested) -> pa.Schema:
    """The schema of `documents` with the kept columns behind the firm ones."""
    stored = ingested.documents.schema.names
    kept = [name for name in stored if name not in schema.DOCUMENTS.names]
    result = schema.DOCUMENTS
    for name, kinds in zip(kept, ingested.kinds, strict=True):
        result = result.append(pa.field(name, kept_type(kinds)))
    return result


def write_streams(
    directory: Path, streams: Mapping[str, Stream], pool: ThreadPoolExecutor | None = None
) -> dict[str, Files]:
    """Write tables, side by side where there are threads; the bytes do not depend on it.

    Args:
        directory: The manifest's directory.
        streams: The rows of each table; the largest table first, so that none is waited for alone.
        pool: Threads.
    """
    stop = Event()

    def write(name: str) -> Files:
        target, parts = streams[name]
        writer = TableWriter(directory, name, target)
        for rows in parts:
            if stop.is_set():
                return ()
            writer.write(rows)
        return writer.close()

    if pool is None:
        return {name: write(name) for name in streams}
    tasks = {name: pool.submit(write, name) for name in streams}
    try:
        wait(tasks.values(), return_when=FIRST_EXCEPTION)
    finally:
        # When one fails, or somebody interrupts, the others end after the part that they are at.
        stop.set()
    return {name: task.result() for name, task in tasks.items()}


def write_documents(
    directory: Path,
    assigned: Assigned,
    target: pa.Schema,
    advance: Callable[[int], None],
) -> dict[str, Files]:
    """Write the tables that have one row per document: documents, signatures, shingles.

    Args:
        directory: The manifest's directory.
        assigned: The documents.
        target: The schema of `documents`.
        advance: Called with the number of documents that are written.
    """
    return write_streams(directory, document_streams(assigned, target, advance))


def document_streams(
    assigned: Assigned, target: pa.Schema, advance: Callable[[int], None]
) -> dict[str, Stream]:
    """The rows of the tables that have one row per document, as `write_documents` writes them."""
    order = assigned.sorted_documents()
    num_perm = assigned.ingested.signatures.shape[1]
    signatures = schema.signatures_schema(num_perm, assigned.banding.bands)
    return {
        "shingles": Stream(schema.SHINGLES, _shingles(assigned, order)),
        "documents": Stream(target, _documents(assigned, order, target, advance)),
        "signatures": Stream(signatures, _signatures(assigned, order, signatures)),
    }


def _documents(
    assigned: Assigned, order: Indices, target: pa.Schema, advance: Callable[[int], None]
) -> Iterator[pa.Table]:
    stands = assigned.fresh & assigned.represents
    for part in parts_of(len(order)):
        rows = order[part]
        texts = assigned.settled.text_of[rows]
        columns = assigned.ingested.documents.take(rows)
        computed = {
            "sequence_id": pa.array(assigned.sequence_ids[texts]),
            "is_representative": pa.array(
                stands[texts] & (assigned.settled.document_of[texts] == rows)
            ),
            "similarity": pa.array(assigned.similarity[texts].astype(np.float32)),
            "snapshot": pa.array(np.full(len(rows), assigned.snapshot, dtype=np.int32)),
        }
        for name, values in computed.items():
            columns = columns.append_column(name, values)
        yield columns.select(target.names)
        advance(len(rows))


def _signatures(assigned: Assigned, order: Indices, target: pa.Schema) -> Iterator[pa.Table]:
    stored = assigned.ingested.signatures
    for part in parts_of(len(order), 4 * stored.shape[1]):
        rows = order[part]
        columns = assigned.names(rows)
        signatures = stored[rows]
        halves = band_halves(signatures, assigned.banding)
        for name, values in (("signature", signatures), ("bands", halves)):
            field, data = target.field(name), values.astype("<u4", copy=False)
            columns = columns.append_column(field, fixed_binary(data, field.type))
        yield columns


def _shingles(assigned: Assigned, order: Indices) -> Iterator[pa.Table]:
    mean = 8 * int(assigned.sets.sizes.sum()) // max(1, len(order))
    for part in parts_of(len(order), mean):
        rows = order[part]
        texts = assigned.settled.text_of[rows]
        # The document that stands for a new text has its smallest key, so it is its first row.
        first = assigned.fresh[texts] & (assigned.settled.document_of[texts] == rows)
        content = np.asarray(assigned.ingested.content)[rows].astype(">u8")
        release(assigned.ingested.content)
        named = assigned.names(rows)
        yield pa.table(
            {
                "source": named["source"],
                "doc_id": named["doc_id"],
                "text": pa.array(assigned.numbers[texts]),
                "content": fixed_binary(content, schema.SHA256),
                **encode_sets(assigned.sets, texts, first),
            }
        )


def copy_links(assigned: Assigned) -> tuple[Indices, Indices]:
    """Every copy with the new document that stands for its text: (copies, their standing ones).

    Copies of a text that the manifest had before are left out: an old document stands for it.
    """
    settled = assigned.settled
    documents = np.flatnonzero(settled.text_of >= 0)
    texts = settled.text_of[documents]
    stands = settled.document_of[texts]
    copies = assigned.fresh[texts] & (stands != documents)
    return documents[copies], stands[copies]


def write_links(directory: Path, parts: Iterable[LinkRows], names: Names) -> Files:
    """Write verified pairs of texts, and exact copies with the document of their text.

    Args:
        directory: The manifest's directory.
        parts: The links in the order in which they are written.
        names: Looks up documents by their number.
    """
    return write_streams(directory, {"links": link_stream(parts, names)})["links"]


def link_stream(parts: Iterable[LinkRows], names: Names) -> Stream:
    """The rows of `links`, as `write_links` writes them."""
    return Stream(schema.LINKS, (_named_links(rows, names) for rows in parts))


def _named_links(rows: LinkRows, names: Names) -> pa.Table:
    left, right = names(rows.a), names(rows.b)
    texts = {
        side: pa.array(values, mask=values < 0)
        for side, values in (("text_a", rows.text_a), ("text_b", rows.text_b))
    }
    return pa.table(
        {
            "source_a": left["source"],
            "doc_id_a": left["doc_id"],
            "source_b": right["source"],
            "doc_id_b": right["doc_id"],
            "jaccard": pa.array(rows.jaccard),
            **texts,
        }
    )


def parts_of(rows: int, row_bytes: int = 0) -> Iterator[slice]:
    """Slices that a table of so many rows is written by.

    Args:
        rows: How many there are.
        row_bytes: Bytes of one, if it is a large one.
    """
    step = min(_PART, max(1, _PART_BYTES // max(1, row_bytes)))
    for begin in range(0, rows, step):
        yield slice(begin, min(begin + step, rows))


def copy_parts(
    originals: Indices, copies: Indices, ranks: Indices, keys: npt.NDArray[np.uint64]
) -> Iterator[LinkRows]:
    """Links between a document and a copy of its text.

    Args:
        originals: int64 [copies], the document that stands for the text.
        copies: int64 [copies], the other one.
        ranks: int64 [copies], the place of the text among all; rows are sorted by it, then by key.
        keys: uint64 [copies, 2], keys of the copies.
    """
    order = np.lexsort((keys[:, 1], keys[:, 0], ranks))
    for part in parts_of(len(order)):
        some = order[part]
        nothing = np.full(len(some), -1, dtype=np.int64)
        yield LinkRows(
            a=originals[some],
            b=copies[some],
            jaccard=np.ones(len(some)),
            text_a=nothing,
            text_b=nothing,
        )


def sorted_rejects(rejects: list[pa.Table]) -> pa.Table:
    """Rejects of all stages in the order in which they are stored."""
    return (
        pa.concat_tables(rejects)
        .sort_by([("uri", "ascending"), ("row", "ascending"), ("reason", "ascending")])
        .cast(schema.REJECTS)
    )
