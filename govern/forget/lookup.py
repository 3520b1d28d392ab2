"""Look sequences up in a large manifest by reading little: one column, then the row groups hit.

Equal to `manifests.queries` by law (a test holds it). SQL over Parquet decodes every column of a
table to answer for a few rows; a request for one sequence of a million must cost neither the time
nor the memory of that. Where IDs were merged or moved, which is rare, the SQL answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from manifests import Manifest, queries
from manifests.errors import ManifestError

if TYPE_CHECKING:
    import pyarrow as pa

_ORDER = [("sequence_id", "ascending"), ("source", "ascending"), ("doc_id", "ascending")]


def resolve(manifest: Manifest, sequence_ids: Iterable[int]) -> dict[int, int]:
    """Each ID as it is today, unknown ones left out; see `queries.resolve`."""
    wanted = list(dict.fromkeys(sequence_ids))
    if manifest.rows("aliases"):
        return queries.resolve(manifest, wanted)
    found = _rows(manifest, "sequences", wanted, ["sequence_id"])["sequence_id"].to_pylist()
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
    return _rows(manifest, "documents", wanted, columns).sort_by(_ORDER)


def _rows(
    manifest: Manifest, table: str, sequence_ids: Sequence[int], columns: Sequence[str]
) -> pa.Table:
    """The rows of a table with these IDs; only row groups that hold one are decoded."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = np.unique(np.asarray(sequence_ids, dtype=np.int64))
    parts: list[pa.Table] = []
    for name in manifest.files(table):
        try:
            with pq.ParquetFile(name) as file:
                for group in range(file.num_row_groups):
                    ids = file.read_row_group(group, columns=["sequence_id"])["sequence_id"]
                    hits = np.flatnonzero(np.isin(ids.to_numpy(), wanted))
                    if len(hits) or not parts:
                        parts.append(file.read_row_group(group, columns=list(columns)).take(hits))
        except (OSError, pa.ArrowInvalid) as error:
            raise ManifestError(
                f"manifest {manifest.path}",
                expected=f"its file {name.rsplit('/', 1)[-1]}",
                found=str(error).splitlines()[0],
                remedy="somebody else may have changed the manifest meanwhile; run it again",
            ) from None
    if not parts:
        return manifest.table(table, list(columns)).slice(0, 0)
    return pa.concat_tables(parts).select(list(columns)).combine_chunks()
