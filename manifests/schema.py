"""Arrow schemas of all manifest tables, and the format version.

The columns named here are firm; `documents` carries the kept governance columns behind them. A
nullable column is nullable in the schema and says so below; every other column has no nulls.
"""

from __future__ import annotations

import pyarrow as pa

FORMAT = "memsinks-govern manifest"
FORMAT_VERSION = 2

POLICIES = ("shared", "pooled", "private", "strict")
STATUSES = ("active", "forgotten")
ALIAS_REASONS = ("merged", "reassigned")
SHA256 = pa.binary(32)


def _field(name: str, kind: pa.DataType, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable)


DOCUMENTS = pa.schema(
    [
        _field("source", pa.string()),
        _field("doc_id", pa.string()),  # unique within source; given, or path#row
        _field("uri", pa.string()),  # the input file, as it was named
        _field("row", pa.int64()),  # 0-based record number within the file
        _field("start", pa.int64()),  # byte span of the text that is covered
        _field("end", pa.int64()),
        _field("n_bytes", pa.int64()),  # UTF-8 bytes of the raw text
        _field("n_words", pa.int64()),  # words of the normalised text
        _field("sha256", SHA256),  # of the raw text in UTF-8
        _field("sequence_id", pa.int64()),
        _field("is_representative", pa.bool_()),
        _field("similarity", pa.float32()),  # exact Jaccard to the representative
        _field("snapshot", pa.int32()),
    ]
)

SEQUENCES = pa.schema(
    [
        _field("sequence_id", pa.int64()),
        _field("representative_source", pa.string()),
        _field("representative_doc_id", pa.string()),
        _field("n_docs", pa.int64()),
        _field("n_sources", pa.int64()),
        _field("n_bytes", pa.int64()),
        _field("policy", pa.string()),
        _field("status", pa.string()),
        _field("first_snapshot", pa.int32()),
        _field("reserved", pa.bool_()),  # set aside as never-trained reference
    ]
)

LINKS = pa.schema(
    [
        _field("source_a", pa.string()),
        _field("doc_id_a", pa.string()),
        _field("source_b", pa.string()),
        _field("doc_id_b", pa.string()),
        _field("jaccard", pa.float64()),
        # The two texts (`text` of `shingles`); null between copies of one text.
        _field("text_a", pa.int64(), nullable=True),
        _field("text_b", pa.int64(), nullable=True),
    ]
)

ALIASES = pa.schema(
    [
        _field("alias_id", pa.int64()),
        _field("sequence_id", pa.int64()),
        _field("snapshot", pa.int32()),
        _field("reason", pa.string()),
        _field("source", pa.string(), nullable=True),  # of the document, when reassigned
        _field("doc_id", pa.string(), nullable=True),
    ]
)

REJECTS = pa.schema(
    [
        _field("uri", pa.string()),
        _field("row", pa.int64()),
        _field("reason", pa.string()),
        _field("context", pa.binary()),  # at most 200 bytes of the record
    ]
)

TOMBSTONES = pa.schema(
    [
        _field("sequence_id", pa.int64()),
        _field("signature", pa.binary()),
        _field("forgotten_at", pa.timestamp("us", tz="UTC")),
        _field("request", pa.string()),
        _field("statement_sha256", SHA256),
    ]
)

# What an addition needs of the documents that are there, instead of their text. Row i is row i of
# `documents`. Empty in a manifest to which nothing can be added.
SHINGLES = pa.schema(
    [
        _field("source", pa.string()),
        _field("doc_id", pa.string()),
        _field("text", pa.int64()),  # equal for documents with one normalised text
        _field("content", SHA256),  # of the normalised text
        _field("n_shingles", pa.int32()),  # hashes of the set in this row, 0 without one
        # Sorted distinct 64-bit shingle hashes, little-endian; only at the first row of a text.
        _field("shingles", pa.large_binary(), nullable=True),
    ]
)


def signatures_schema(num_perm: int, bands: int) -> pa.Schema:
    """Signatures: source, doc_id, signature (num_perm little-endian uint32), bands.

    `bands` has for each band the upper half of its key, as little-endian uint32: what a search
    reads instead of four times as many signature values.
    """
    return pa.schema(
        [
            _field("source", pa.string()),
            _field("doc_id", pa.string()),
            _field("signature", pa.binary(4 * num_perm)),
            _field("bands", pa.binary(4 * bands)),
        ]
    )


TABLES = (
    "documents", "sequences", "links", "aliases", "rejects", "tombstones", "signatures", "shingles",
)  # fmt: skip
# What the content digest of a snapshot covers: policy changes and tombstones leave it alone.
CONTENT_TABLES = ("documents", "links", "aliases", "rejects", "signatures")
CONTEXT_BYTES = 200


def table_schema(table: str, *, num_perm: int, bands: int) -> pa.Schema:
    """The firm schema of a table; kept columns of `documents` come behind it."""
    if table == "signatures":
        return signatures_schema(num_perm, bands)
    return {
        "documents": DOCUMENTS,
        "sequences": SEQUENCES,
        "links": LINKS,
        "aliases": ALIASES,
        "rejects": REJECTS,
        "tombstones": TOMBSTONES,
        "shingles": SHINGLES,
    }[table]
