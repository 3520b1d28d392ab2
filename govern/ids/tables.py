"""Last stage: the manifest's tables from the arrays of the stages before.

Rows are sorted by content (sequence ID, then document key), so equal corpora give equal bytes.
Tables are written in parts, and only the part being written is in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from govern.ids.assign import reserved
from govern.ids.cluster import Clusters
from govern.ids.corpus import kept_type
from govern.ids.ingest import Ingested, fixed_binary
from govern.ids.settle import Settled
from govern.ids.verify import Links
from manifests import schema
from manifests.index import FileEntry
from manifests.writer import TableWriter, write_table

_PART = 1 << 18
Files = tuple[FileEntry, ...]


@dataclass(frozen=True, kw_only=True)
class Assigned:
    """Everything that was decided about a corpus: the input of `write_tables`."""

    ingested: Ingested
    settled: Settled
    links: Links
    clusters: Clusters
    sequence_ids: npt.NDArray[np.int64]  # [texts]
    reserve: float
    snapshot: int

    def sorted_documents(self) -> npt.NDArray[np.int64]:
        """Documents by (sequence ID, key)."""
        documents = np.flatnonzero(self.settled.text_of >= 0)
        keys = np.asarray(self.ingested.keys)
        ids = self.sequence_ids[self.settled.text_of[documents]]
        return documents[np.lexsort((keys[documents, 1], keys[documents, 0], ids))]

    def representatives(self) -> npt.NDArray[np.int64]:
        """The representative document of each text's cluster, int64 [texts]."""
        return self.settled.document_of[self.clusters.representative]


def write_tables(
    directory: Path, assigned: Assigned, advance: Callable[[int], None]
) -> dict[str, Files]:
    """Write every table of a first snapshot.

    Args:
        directory: The manifest's directory.
        assigned: What was decided.
        advance: Called with the number of documents that are written.
    """
    order = assigned.sorted_documents()
    rejects = pa.concat_tables([assigned.ingested.rejects, assigned.settled.rejects])
    num_perm = assigned.ingested.signatures.shape[1]
    return {
        "documents": _write_documents(directory, assigned, order, advance),
        "sequences": _write_sequences(directory, assigned, order),
        "links": _write_links(directory, assigned),
        "aliases": write_table(directory, "aliases", schema.ALIASES.empty_table()),
        "rejects": write_table(directory, "rejects", _sorted_rejects(rejects)),
        "tombstones": write_table(directory, "tombstones", schema.TOMBSTONES.empty_table()),
        "signatures": _write_signatures(directory, assigned, order, num_perm),
    }


def documents_schema(assigned: Assigned) -> pa.Schema:
    """The schema of `documents` with the kept columns behind the firm ones."""
    stored = assigned.ingested.documents.schema.names
    kept = [name for name in stored if name not in schema.DOCUMENTS.names]
    result = schema.DOCUMENTS
    for name, kinds in zip(kept, assigned.ingested.kinds, strict=True):
        result = result.append(pa.field(name, kept_type(kinds)))
    return result


def _write_documents(
    directory: Path,
    assigned: Assigned,
    order: npt.NDArray[np.int64],
    advance: Callable[[int], None],
) -> Files:
    target = documents_schema(assigned)
    writer = TableWriter(directory, "documents", target)
    representatives = assigned.representatives()
    for begin in range(0, len(order), _PART):
        rows = order[begin : begin + _PART]
        texts = assigned.settled.text_of[rows]
        similarity = assigned.clusters.similarity[texts].astype(np.float32)
        part = assigned.ingested.documents.take(rows)
        computed = {
            "sequence_id": pa.array(assigned.sequence_ids[texts]),
            "is_representative": pa.array(representatives[texts] == rows),
            "similarity": pa.array(similarity),
            "snapshot": pa.array(np.full(len(rows), assigned.snapshot, dtype=np.int32)),
        }
        for name, values in computed.items():
            part = part.append_column(name, values)
        writer.write(part.select(target.names))
        advance(len(rows))
    return writer.close()


def _source_codes(assigned: Assigned) -> npt.NDArray[np.int32]:
    """A number for each record's source; which number depends on reading order, equality not."""
    codes: dict[str, int] = {}
    parts = [np.zeros(0, dtype=np.int32)]
    for column in assigned.ingested.documents.column("source"):
        encoded = column.dictionary_encode()
        names = encoded.dictionary.to_pylist()
        local = np.array([codes.setdefault(name, len(codes)) for name in names], dtype=np.int32)
        parts.append(local[encoded.indices.to_numpy()])
    return np.concatenate(parts)


def _write_sequences(directory: Path, assigned: Assigned, order: npt.NDArray[np.int64]) -> Files:
    texts = assigned.settled.text_of[order]
    ids = assigned.sequence_ids[texts]
    begins = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
    n_docs = np.diff(np.append(begins, len(ids)))
    n_bytes = np.concatenate([c.to_numpy() for c in assigned.ingested.documents.column("n_bytes")])[
        order
    ]
    sources = _source_codes(assigned)[order]
    by_source = np.lexsort((sources, ids))
    new_source = np.ones(len(ids), dtype=bool)
    new_source[1:] = (ids[by_source][1:] != ids[by_source][:-1]) | (
        sources[by_source][1:] != sources[by_source][:-1]
    )
    n_sources = np.add.reduceat(new_source.astype(np.int64), begins)
    totals = np.add.reduceat(n_bytes, begins)
    representatives = assigned.representatives()[texts[begins]]
    writer = TableWriter(directory, "sequences", schema.SEQUENCES)
    for first in range(0, len(begins), _PART):
        part = slice(first, first + _PART)
        named = assigned.ingested.documents.take(representatives[part], ["source", "doc_id"])
        one = ids[begins[part]]
        writer.write(
            pa.table(
                {
                    "sequence_id": pa.array(one),
                    "representative_source": named["source"],
                    "representative_doc_id": named["doc_id"],
                    "n_docs": pa.array(n_docs[part]),
                    "n_sources": pa.array(n_sources[part]),
                    "n_bytes": pa.array(totals[part]),
                    # A text that occurs once earns no sinks: nothing repeats it into memory.
                    "policy": pa.array(np.where(n_docs[part] >= 2, "private", "shared")),
                    "status": pa.array(["active"] * len(one)),
                    "first_snapshot": pa.array(
                        np.full(len(one), assigned.snapshot, dtype=np.int32)
                    ),
                    "reserved": pa.array(reserved(one, assigned.reserve)),
                }
            )
        )
    return writer.close()


def _write_links(directory: Path, assigned: Assigned) -> Files:
    """Verified pairs of texts, and exact copies with the document that stands for their text."""
    settled, keys = assigned.settled, np.asarray(assigned.ingested.keys)
    documents = np.flatnonzero(settled.text_of >= 0)
    stands = settled.document_of[settled.text_of[documents]]
    copies = documents[stands != documents]
    a = np.concatenate([settled.document_of[assigned.links.a], stands[stands != documents]])
    b = np.concatenate([settled.document_of[assigned.links.b], copies])
    jaccard = np.concatenate([assigned.links.jaccard, np.ones(len(copies))])
    order = np.lexsort((keys[b, 1], keys[b, 0], settled.text_of[a]))
    writer = TableWriter(directory, "links", schema.LINKS)
    for begin in range(0, len(order), _PART):
        part = order[begin : begin + _PART]
        left = assigned.ingested.documents.take(a[part], ["source", "doc_id"])
        right = assigned.ingested.documents.take(b[part], ["source", "doc_id"])
        writer.write(
            pa.table(
                {
                    "source_a": left["source"],
                    "doc_id_a": left["doc_id"],
                    "source_b": right["source"],
                    "doc_id_b": right["doc_id"],
                    "jaccard": pa.array(jaccard[part]),
                }
            )
        )
    return writer.close()


def _write_signatures(
    directory: Path, assigned: Assigned, order: npt.NDArray[np.int64], num_perm: int
) -> Files:
    target = schema.signatures_schema(num_perm)
    writer = TableWriter(directory, "signatures", target)
    # A signature is 4 * num_perm bytes: smaller parts than the other tables'.
    for begin in range(0, len(order), _PART // 4):
        rows = order[begin : begin + _PART // 4]
        named = assigned.ingested.documents.take(rows, ["source", "doc_id"])
        signatures = assigned.ingested.signatures[rows].astype("<u4")
        writer.write(
            named.append_column(
                target.field("signature"),
                fixed_binary(signatures, target.field("signature").type),
            )
        )
    return writer.close()


def _sorted_rejects(rejects: pa.Table) -> pa.Table:
    return rejects.sort_by(
        [("uri", "ascending"), ("row", "ascending"), ("reason", "ascending")]
    ).cast(schema.REJECTS)
