"""Look sequences up in a large manifest by reading little: one column, then the row groups hit.

Equal to `manifests.queries` by law (a test holds it). SQL over Parquet decodes every column of a
table to answer for a few rows; a request for one sequence of a million must cost neither the time
nor the memory of that. Where IDs were merged or moved, which is rare, the SQL answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from manifests import Manifest, queries
from manifests.lookup import rows_of

if TYPE_CHECKING:
    import pyarrow as pa

_ORDER = [("sequence_id", "ascending"), ("source", "ascending"), ("doc_id", "ascending")]


def resolve(manifest: Manifest, sequence_ids: Iterable[int]) -> dict[int, int]:
    """Each ID as it is today, unknown ones left out; see `queries.resolve`."""
    wanted = list(dict.fromkeys(sequence_ids))
    if manifest.rows("aliases"):
        return queries.resolve(manifest, wanted)
    found = rows_of(manifest, "sequences", wanted, ["sequence_id"])["sequence_id"].to_pylist()
    known = set(found)
    return {i: i for i in wanted if i in known}


def documents_of(
    manifest: Manifest, sequence_ids: Iterable[int], columns: Sequence[str]
) -> pa.Table:
    """All documents of these sequences by ID, source, document ID; see `queries.documents_of`.

    Args:
        manifest: The manifest.
        sequence_ids: IDs of today, or of before.
        columns: What is wanted of `documents`, with `sequence_id`, `source` and `doc_id`.

    Raises:
        ManifestError: A file of the manifest is gone.
    """
    wanted = list(sequence_ids)
    if manifest.rows("aliases"):
        return queries.documents_of(manifest, wanted).select(columns)
    return rows_of(manifest, "documents", wanted, columns).sort_by(_ORDER)


def signatures_of(manifest: Manifest, sequence_ids: Iterable[int]) -> dict[int, bytes]:
    """The MinHash signature of each sequence's representative, of IDs as they are today.

    Raises:
        ManifestError: A file of the manifest is gone.
    """
    columns = ["sequence_id", "representative_source", "representative_doc_id"]
    rows = rows_of(manifest, "sequences", list(sequence_ids), columns)
    ids, sources, names = (rows[name].to_pylist() for name in columns)
    owner = dict(zip(zip(sources, names, strict=True), ids, strict=True))
    found = rows_of(manifest, "signatures", names, ["source", "doc_id", "signature"], key="doc_id")
    keys = zip(found["source"].to_pylist(), found["doc_id"].to_pylist(), strict=True)
    signatures = dict(zip(keys, found["signature"].to_pylist(), strict=True))
    return {owner[key]: signatures[key] for key in owner if key in signatures}


def documents_named(manifest: Manifest, doc_ids: Iterable[str]) -> pa.Table:
    """The documents with these IDs, by ID, source, document ID; see `queries.find_document`.

    Returns:
        Columns `sequence_id`, `source`, `doc_id`.

    Raises:
        ManifestError: A file of the manifest is gone.
    """
    columns = ["sequence_id", "source", "doc_id"]
    return rows_of(manifest, "documents", doc_ids, columns, key="doc_id").sort_by(_ORDER)
