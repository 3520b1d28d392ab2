"""Write a manifest: tables to Parquet files named by content, then `manifest.json`, last.

Equal tables give equal bytes: rows come sorted from the caller, row groups and files are cut at
fixed row counts whatever the batches were, and no time of day is written. A kill at any moment
leaves the old snapshot or the new one; files that no `manifest.json` names are swept by the next
commit.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.errors import InputError
from manifests.files import atomic_write, fsync_directory, sha256_file, writer_lock
from manifests.index import INDEX_NAME, FileEntry, Index, Snapshot, content_digest
from manifests.row_groups import rows_with
from manifests.schema import POLICIES, SEQUENCES, TABLES

ROWS_PER_GROUP = 32_768
# A kept column has its values everywhere in `documents`: a reader looks at the dictionary of every
# row group. Of `shingles`, a set of which is as long as its text, few rows are wanted at a time.
_OTHER_GROUPS = {"documents": 4 * ROWS_PER_GROUP, "shingles": 4096}
ROWS_PER_FILE = 32 * ROWS_PER_GROUP
# Changing one row writes its file anew: tables whose rows change have small ones.
_SMALL_FILES = {
    "documents": 4 * ROWS_PER_GROUP,
    "links": 2 * ROWS_PER_GROUP,
    "sequences": ROWS_PER_GROUP,
    "tombstones": ROWS_PER_GROUP // 8,
}
WORK_NAME = ".work"
# Columns that people look rows up by. A bloom filter lets a reader skip all other row groups.
_BLOOM = ("doc_id", "doc_id_a", "doc_id_b", "sha256")
# Random bytes: compressing them costs time and saves nothing.
_INCOMPRESSIBLE = ("signature", "bands", "sha256", "content", "shingles")
# Names and IDs of few documents are wanted out of many: pages that are quickly read, at the cost
# of a seventh more room.
_QUICK_PAGE_BYTES = 16_384
# Numbers of texts that grow, or that differ from their neighbours by little.
_DELTAS = ("text_a", "text_b")
# Values that hardly ever come twice in a row group: a dictionary of them costs time and room.
_UNIQUE = ("sequence_id", "row", "representative_doc_id", *_BLOOM)
# Bytes: a column of owners keeps its dictionary, one of long and unique values gives it up.
_LARGEST_DICTIONARY = 1 << 22


def rows_per_file(table: str) -> int:
    """How many rows a file of a table may have."""
    return _SMALL_FILES.get(table, ROWS_PER_FILE)


class TableWriter:
    """Streams one table into content-addressed Parquet files.

    Args:
        directory: The manifest's directory.
        table: One of `schema.TABLES`.
        schema: The schema of every table that is written.
    """

    def __init__(self, directory: Path, table: str, schema: pa.Schema) -> None:
        self._directory = directory
        self._table = table
        self._schema = schema
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._file_rows = 0
        self._writer: pq.ParquetWriter | None = None
        self._entries: list[FileEntry] = []
        self._temporary = directory / WORK_NAME / f"{table}.parquet"
        self._group = _OTHER_GROUPS.get(table, ROWS_PER_GROUP)
        self._rows_per_file = rows_per_file(table)

    def write(self, rows: pa.Table) -> None:
        """Add rows; they are cut into row groups of a fixed size whatever their number."""
        self._pending.append(rows.cast(self._schema))
        self._pending_rows += rows.num_rows
        if self._pending_rows >= self._group:
            self._flush(keep_rest=True)

    def close(self) -> tuple[FileEntry, ...]:
        """Write what is left and return the files in order. An empty table has one empty file."""
        self._flush(keep_rest=False)
        if self._writer is None and not self._entries:
            self._open()
        self._finish_file()
        return tuple(self._entries)

    def _flush(self, *, keep_rest: bool) -> None:
        if not self._pending:
            return
        table = pa.concat_tables(self._pending)
        whole = table.num_rows - table.num_rows % self._group if keep_rest else table.num_rows
        for begin in range(0, whole, self._group):
            group = table.slice(begin, min(self._group, whole - begin)).combine_chunks()
            self._open().write_table(group, row_group_size=self._group)
            self._file_rows += group.num_rows
            if self._file_rows >= self._rows_per_file:
                self._finish_file()
        rest = table.slice(whole)
        self._pending = [rest] if rest.num_rows else []
        self._pending_rows = rest.num_rows

    def _open(self) -> pq.ParquetWriter:
        if self._writer is None:
            self._temporary.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._temporary, self._schema, **self._layout())
        return self._writer

    def _layout(self) -> dict[str, Any]:
        """How columns are stored."""
        names = self._schema.names
        quick = self._table == "documents"
        plain = (*_INCOMPRESSIBLE, "sequence_id")
        single = (*plain, *_UNIQUE, *_DELTAS)
        codec = "lz4" if quick else "zstd"
        return {
            "compression": {n: "none" if n in plain else codec for n in names},
            "use_dictionary": [n for n in names if n not in single],
            "dictionary_pagesize_limit": _LARGEST_DICTIONARY,
            "column_encoding": {n: "DELTA_BINARY_PACKED" for n in _DELTAS if n in names},
            "write_statistics": [n for n in names if n not in _INCOMPRESSIBLE],
            "bloom_filter_options": {
                n: {"ndv": self._group, "fpp": 0.01} for n in _BLOOM if n in names
            },
            **({"data_page_size": _QUICK_PAGE_BYTES} if quick else {}),
        }

    def _finish_file(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._writer = None
        digest = sha256_file(self._temporary)
        name = f"{self._table}/{digest[:16]}.parquet"
        target = self._directory / name
        target.parent.mkdir(exist_ok=True)
        with self._temporary.open("rb") as file:
            os.fsync(file.fileno())
        self._entries.append(
            FileEntry(
                path=name,
                rows=self._file_rows,
                bytes=self._temporary.stat().st_size,
                sha256=digest,
            )
        )
        os.replace(self._temporary, target)
        self._file_rows = 0


def write_table(directory: Path, table: str, rows: pa.Table) -> tuple[FileEntry, ...]:
    """Write a table that fits in memory."""
    writer = TableWriter(directory, table, rows.schema)
    writer.write(rows)
    return writer.close()


def make_index(
    *,
    parameters: Mapping[str, Any],
    earlier: Sequence[Snapshot],
    snapshot: Snapshot,
    tables: Mapping[str, tuple[FileEntry, ...]],
) -> Index:
    """The index after a new snapshot, whose content digest is computed here."""
    new = Snapshot(**{**vars(snapshot), "content_digest": content_digest(tables)})
    return Index(parameters=parameters, snapshots=(*earlier, new), tables=dict(tables))


def commit(directory: Path, index: Index) -> None:
    """Make `index` the manifest's state: sync directories, write `manifest.json`, then sweep.

    The caller holds the writer lock.
    """
    for table in TABLES:
        fsync_directory(directory / table)
    atomic_write(directory / INDEX_NAME, index.encode())
    sweep(directory, index)


def is_torn_index(name: str) -> bool:
    """Whether a file is a `manifest.json` whose writing was killed (see `files.atomic_write`)."""
    return name.startswith(f".{INDEX_NAME}.") and name.endswith(".tmp")


def sweep(directory: Path, index: Index | None) -> None:
    """Remove what no `manifest.json` names: files of an interrupted run, or of the state before."""
    shutil.rmtree(directory / WORK_NAME, ignore_errors=True)
    for path in directory.iterdir():
        if is_torn_index(path.name):
            path.unlink()
    named = {entry.path for entries in index.tables.values() for entry in entries} if index else ()
    for table in TABLES:
        for path in (directory / table).glob("*.parquet"):
            if f"{table}/{path.name}" not in named:
                path.unlink()


def replace_table(index: Index, table: str, entries: Sequence[FileEntry]) -> Index:
    """The index with other files of a table that no content digest covers."""
    return Index(
        parameters=index.parameters,
        snapshots=index.snapshots,
        tables={**index.tables, table: tuple(entries)},
    )


def set_sequence_values(
    directory: Path, index: Index, ids: pa.Array, column: str, value: str
) -> tuple[Index, int]:
    """Set one column of the sequences `ids`; only files that change are read and written in full.

    Returns:
        The new index, not yet committed, and how many sequences changed.
    """
    import pyarrow.compute as pc

    wanted = sorted(set(ids.to_pylist()))
    entries: list[FileEntry] = []
    count = 0
    for entry in index.tables["sequences"]:
        with pq.ParquetFile(directory / entry.path) as file:
            found = rows_with(file, "sequence_id", wanted, ["sequence_id", column])
        changed = found.filter(pc.not_equal(found[column], value))["sequence_id"]
        if not len(changed):
            entries.append(entry)
            continue
        rows = pq.read_table(directory / entry.path, partitioning=None).cast(SEQUENCES)
        position = rows.schema.get_field_index(column)
        hit = pc.is_in(rows["sequence_id"], value_set=changed)
        values = pc.if_else(hit, pa.scalar(value), rows[column])
        rows = rows.set_column(position, rows.schema.field(position), values)
        entries.extend(write_table(directory, "sequences", rows.cast(SEQUENCES)))
        count += len(changed)
    return replace_table(index, "sequences", entries), count


def set_policy(path: Path | str, where: str, policy: str) -> int:
    """Set the sink policy of every sequence that has a document for which `where` holds.

    Args:
        path: The manifest.
        where: A SQL condition over the view `document_sequences` (every column of `documents`,
            and `n_docs, n_sources, policy, status, first_snapshot, reserved` of its sequence).
        policy: One of `schema.POLICIES`.

    Returns:
        How many sequences changed. Setting the same policy again changes none.

    Raises:
        InputError: An unknown policy, or a condition that DuckDB refuses.
    """
    from manifests.queries import sequence_ids_where
    from manifests.reader import open_manifest

    if policy not in POLICIES:
        raise InputError(
            f"policy {policy!r}",
            expected=f"one of {', '.join(POLICIES)}",
            found="another word",
            remedy="choose one of them",
        )
    directory = Path(path)
    open_manifest(directory)  # A wrong path is refused before the lock file is made.
    with writer_lock(directory):
        manifest = open_manifest(directory)
        ids = sequence_ids_where(manifest, where)
        index, count = set_sequence_values(directory, manifest.index, ids, "policy", policy)
        if count:
            commit(directory, index)
    return count
