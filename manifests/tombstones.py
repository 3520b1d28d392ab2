"""Forgotten sequences: a row for each, and the mark on the sequence itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.errors import ManifestError
from manifests.files import writer_lock
from manifests.index import FileEntry
from manifests.reader import Manifest, open_manifest
from manifests.row_groups import rows_with
from manifests.schema import TOMBSTONES
from manifests.writer import commit, replace_table, set_sequence_values, write_table

# Below it the last file is written anew with what is added, so that files do not become many.
_ROWS_PER_FILE = 4096


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
        _require_known(manifest, ids)
        old = pa.array(_ids_among(manifest, "tombstones", ids), pa.int64())
        fresh = rows.filter(pc.invert(pc.is_in(ids, value_set=old)))
        fresh = fresh.sort_by([("sequence_id", "ascending"), ("forgotten_at", "ascending")])
        fresh = _first_of_each(fresh)
        index, changed = set_sequence_values(directory, manifest.index, ids, "status", "forgotten")
        if fresh.num_rows:
            entries = _appended(directory, index.tables["tombstones"], fresh)
            index = replace_table(index, "tombstones", entries)
        if fresh.num_rows or changed:
            commit(directory, index)
    return int(fresh.num_rows)


def _first_of_each(rows: pa.Table) -> pa.Table:
    ids = rows["sequence_id"].to_pylist()
    first = [i == 0 or ids[i] != ids[i - 1] for i in range(len(ids))]
    return rows.filter(pa.array(first, pa.bool_()))  # no rows would give the type null


def _appended(
    directory: Path, entries: Sequence[FileEntry], fresh: pa.Table
) -> tuple[FileEntry, ...]:
    """The files with new rows; the last file takes them in while it is small."""
    kept = tuple(entries)
    if kept and kept[-1].rows + fresh.num_rows <= _ROWS_PER_FILE:
        last = pq.read_table(directory / kept[-1].path, partitioning=None).cast(TOMBSTONES)
        fresh, kept = pa.concat_tables([last, fresh]).sort_by("sequence_id"), kept[:-1]
    return (*kept, *write_table(directory, "tombstones", fresh))


def _ids_among(manifest: Manifest, table: str, ids: pa.Array) -> list[int]:
    """Those of the IDs that a table has."""
    wanted, found = sorted(set(ids.to_pylist())), []
    for name in manifest.files(table):
        with pq.ParquetFile(name) as file:
            rows = rows_with(file, "sequence_id", wanted, ["sequence_id"])
        found += rows["sequence_id"].to_pylist()
    return found


def _require_known(manifest: Manifest, ids: pa.Array) -> None:
    unknown = set(ids.to_pylist()).difference(_ids_among(manifest, "sequences", ids))
    if unknown:
        raise ManifestError(
            f"tombstone of sequence {min(unknown)}",
            expected=f"a sequence of manifest {manifest.path}",
            found="no such sequence",
            remedy="resolve aliases first, or use the manifest that the run was trained on",
        )
