"""Last stage: the manifest's tables of new documents, from the arrays of the stages before.

Rows are sorted by content (sequence ID, then document key), so equal corpora give equal bytes.
Tables are written in parts, and only the part being written is in memory. A build writes every
table this way; an addition appends its new documents (`amend`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from govern.ids.corpus import kept_type
from govern.ids.ingest import Ingested, fixed_binary
from govern.ids.lsh import band_halves
from govern.ids.minhash import Banding
from govern.ids.sets import ShingleSets, encode_sets
from govern.ids.settle import Settled
from manifests import schema
from manifests.index import FileEntry
from manifests.writer import TableWriter

_PART = 1 << 18
Files = tuple[FileEntry, ...]
Indices = npt.NDArray[np.int64]
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
        keys = np.asarray(self.ingested.keys)
        ids = self.sequence_ids[self.settled.text_of[documents]]
        return documents[np.lexsort((keys[documents, 1], keys[documents, 0], ids))]

    def names(self, rows: Indices) -> pa.Table:
        """Columns source and doc_id of documents."""
        return self.ingested.documents.take(rows, ["source", "doc_id"])


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
    order = assigned.sorted_documents()
    return {
        "documents": _write_documents(directory, assigned, order, target, advance),
        "signatures": _write_signatures(directory, assigned, order),
        "shingles": _write_shingles(directory, assigned, order),
    }


def _write_documents(
    directory: Path,
    assigned: Assigned,
    order: Indices,
    target: pa.Schema,
    advance: Callable[[int], None],
) -> Files:
    writer = TableWriter(directory, "documents", target)
    stands = assigned.fresh & assigned.represents
    for begin in range(0, len(order), _PART):
        rows = order[begin : begin + _PART]
        texts = assigned.settled.text_of[rows]
        part = assigned.ingested.documents.take(rows)
        computed = {
            "sequence_id": pa.array(assigned.sequence_ids[texts]),
            "is_representative": pa.array(
                stands[texts] & (assigned.settled.document_of[texts] == rows)
            ),
            "similarity": pa.array(assigned.similarity[texts].astype(np.float32)),
            "snapshot": pa.array(np.full(len(rows), assigned.snapshot, dtype=np.int32)),
        }
        for name, values in computed.items():
            part = part.append_column(name, values)
        writer.write(part.select(target.names))
        advance(len(rows))
    return writer.close()


def _write_signatures(directory: Path, assigned: Assigned, order: Indices) -> Files:
    num_perm = assigned.ingested.signatures.shape[1]
    target = schema.signatures_schema(num_perm, assigned.banding.bands)
    writer = TableWriter(directory, "signatures", target)
    # A signature is 4 * num_perm bytes: smaller parts than the other tables'.
    for begin in range(0, len(order), _PART // 4):
        rows = order[begin : begin + _PART // 4]
        part = assigned.names(rows)
        signatures = assigned.ingested.signatures[rows]
        halves = band_halves(signatures, assigned.banding)
        for name, values in (("signature", signatures), ("bands", halves)):
            field = target.field(name)
            part = part.append_column(field, fixed_binary(values.astype("<u4"), field.type))
        writer.write(part)
    return writer.close()


def _write_shingles(directory: Path, assigned: Assigned, order: Indices) -> Files:
    writer = TableWriter(directory, "shingles", schema.SHINGLES)
    for begin in range(0, len(order), _PART // 32):
        rows = order[begin : begin + _PART // 32]
        texts = assigned.settled.text_of[rows]
        # The document that stands for a new text has its smallest key, so it is its first row.
        first = assigned.fresh[texts] & (assigned.settled.document_of[texts] == rows)
        content = np.asarray(assigned.ingested.content)[rows].astype(">u8")
        named = assigned.names(rows)
        writer.write(
            pa.table(
                {
                    "source": named["source"],
                    "doc_id": named["doc_id"],
                    "text": pa.array(assigned.numbers[texts]),
                    "content": fixed_binary(content, schema.SHA256),
                    **encode_sets(assigned.sets, texts, first),
                }
            )
        )
    return writer.close()


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
    writer = TableWriter(directory, "links", schema.LINKS)
    for rows in parts:
        left, right = names(rows.a), names(rows.b)
        texts = {
            side: pa.array(values, mask=values < 0)
            for side, values in (("text_a", rows.text_a), ("text_b", rows.text_b))
        }
        writer.write(
            pa.table(
                {
                    "source_a": left["source"],
                    "doc_id_a": left["doc_id"],
                    "source_b": right["source"],
                    "doc_id_b": right["doc_id"],
                    "jaccard": pa.array(rows.jaccard),
                    **texts,
                }
            )
        )
    return writer.close()


def parts_of(rows: int) -> Iterator[slice]:
    """Slices that a table of so many rows is written by."""
    for begin in range(0, rows, _PART):
        yield slice(begin, min(begin + _PART, rows))


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
