"""Forgotten sequences: a row for each, and the mark on the sequence itself."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import ManifestError
from manifests.files import writer_lock
from manifests.index import Index
from manifests.reader import open_manifest
from manifests.schema import TOMBSTONES
from manifests.writer import commit, set_sequence_values, write_table


def add_tombstones(path: Path | str, rows: pa.Table) -> int:
    """Record forgotten sequences and set their status to `forgotten`.

    A sequence that already has a tombstone keeps the first one, so a repeated call changes nothing.

    Args:
        path: The manifest.
        rows: Columns of `schema.TOMBSTONES`: sequence_id, signature, forgotten_at (UTC), request,
            statement_sha256.

    Returns:
        How many tombstones were new.

    Raises:
        ManifestError: A sequence ID is not in the manifest.
    """
    directory = Path(path)
    open_manifest(directory)  # A wrong path is refused before the lock file is made.
    with writer_lock(directory):
        manifest = open_manifest(directory)
        rows = rows.select(TOMBSTONES.names).cast(TOMBSTONES)
        ids = rows["sequence_id"].combine_chunks()
        _require_known(ids, manifest.table("sequences", ["sequence_id"])["sequence_id"], directory)
        old = manifest.table("tombstones")
        fresh = rows.filter(pc.invert(pc.is_in(ids, value_set=old["sequence_id"])))
        fresh = fresh.sort_by([("sequence_id", "ascending"), ("forgotten_at", "ascending")])
        fresh = _first_of_each(fresh)
        index, changed = set_sequence_values(directory, manifest.index, ids, "status", "forgotten")
        if fresh.num_rows:
            both = pa.concat_tables([old, fresh]).sort_by("sequence_id")
            index = Index(
                parameters=index.parameters,
                snapshots=index.snapshots,
                tables={**index.tables, "tombstones": write_table(directory, "tombstones", both)},
            )
        if fresh.num_rows or changed:
            commit(directory, index)
    return int(fresh.num_rows)


def _first_of_each(rows: pa.Table) -> pa.Table:
    ids = rows["sequence_id"].to_pylist()
    first = [i == 0 or ids[i] != ids[i - 1] for i in range(len(ids))]
    return rows.filter(pa.array(first, pa.bool_()))  # no rows would give the type null


def _require_known(ids: pa.Array, known: pa.ChunkedArray, directory: Path) -> None:
    unknown = ids.filter(pc.invert(pc.is_in(ids, value_set=known)))
    if len(unknown):
        raise ManifestError(
            f"tombstone of sequence {unknown[0].as_py()}",
            expected=f"a sequence of manifest {directory}",
            found="no such sequence",
            remedy="resolve aliases first, or use the manifest that the run was trained on",
        )
