"""Open a manifest for reading; refuse what does not fit.

Opening reads `manifest.json` alone and looks that every named file is there with its size; digests
of the files are `checks.check_manifest`'s business, since they cost a full read.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.database import open_database
from manifests.errors import IntegrityError, ManifestError
from manifests.index import INDEX_NAME, Index, Snapshot, decode
from manifests.schema import TABLES

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


class Manifest:
    """A manifest as it was when it was opened.

    Files are immutable, so a `Manifest` stays consistent while somebody else commits; once the
    commit has swept the old files, reading says that the manifest changed.
    """

    def __init__(self, path: Path, index: Index) -> None:
        self.path = path
        self.index = index
        self.digest = index.digest
        # What queries learn once: databases by process and bound, and for `lookup` the least and
        # greatest keys of files by table and column.
        self._databases: dict[tuple[int, bool], duckdb.DuckDBPyConnection] = {}
        self._opening = threading.Lock()
        self.ranges: dict[tuple[str, str], list[tuple[Any, Any] | None]] = {}

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """All snapshots, oldest first."""
        return self.index.snapshots

    @property
    def snapshot(self) -> int:
        """The number of the newest snapshot."""
        return self.index.snapshots[-1].snapshot

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Everything that shaped the IDs."""
        return self.index.parameters

    def extractors(self) -> tuple[str, ...]:
        """What shaped the text of any snapshot beside this package, as `name version`."""
        return tuple(sorted({one for known in self.snapshots for one in known.extractors}))

    def content_digest(self, snapshot: int | None = None) -> str:
        """The content digest of a snapshot, by default the newest.

        Raises:
            ManifestError: There is no such snapshot.
        """
        wanted = self.snapshot if snapshot is None else snapshot
        for known in self.snapshots:
            if known.snapshot == wanted:
                return known.content_digest
        raise ManifestError(
            str(self.path),
            expected=f"snapshot {wanted}",
            found=f"snapshots {', '.join(str(s.snapshot) for s in self.snapshots)}",
            remedy="name one of these, or use the manifest of that training run",
        )

    def files(self, table: str) -> list[str]:
        """The paths of a table's Parquet files, in row order."""
        return [str(self.path / entry.path) for entry in self.index.tables[table]]

    def rows(self, table: str) -> int:
        """How many rows a table has, without reading it."""
        return sum(entry.rows for entry in self.index.tables[table])

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """A whole table in memory, or some of its columns.

        Raises:
            ManifestError: There is no such table, or its files are gone or cannot be read.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        if name not in TABLES:
            raise ManifestError(
                f"table {name!r} of {self.path}",
                expected=f"one of {', '.join(TABLES)}",
                found="another name",
                remedy="use one of these",
            )
        try:
            # Each file by itself: their order is the row order.
            parts = [
                pq.read_table(file, columns=columns, partitioning=None) for file in self.files(name)
            ]
            return pa.concat_tables(parts)
        except (OSError, ValueError, pa.ArrowException) as error:
            # An altered file can be refused in any of Arrow's ways.
            raise _unreadable(self.path, str(error)) from None

    def connect(self, *, bounded: bool = False) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection of its own, with one view per table and `document_sequences`.

        The database behind it is opened once, which costs ten times what a connection costs.

        SQL that runs there can read the manifest's own files and nothing else: no other file, no
        network, no extension, no attached database; and the settings are locked. For SQL from
        people use `queries.run_sql`, which also refuses everything that is not a SELECT.

        Args:
            bounded: For SQL from people: no working files, and `database.MEMORY_LIMIT` of memory.

        Raises:
            ManifestError: Its files are gone or cannot be read.
        """
        import duckdb

        self.require_files(*TABLES)
        # A process that was forked off has none of the threads of a database opened before.
        key = (os.getpid(), bounded)
        with self._opening:
            if key not in self._databases:
                try:
                    self._databases[key] = open_database(
                        {table: self.files(table) for table in TABLES}, bounded=bounded
                    )
                except duckdb.Error as error:
                    raise _unreadable(self.path, str(error)) from None
            return self._databases[key].cursor()

    def require_files(self, *tables: str) -> None:
        """Refuse to answer from tables of which a file is gone, or has another size.

        Raises:
            ManifestError: One is.
        """
        for table in tables:
            for entry in self.index.tables[table]:
                try:
                    size = os.stat(self.path / entry.path).st_size
                except OSError as error:
                    raise _unreadable(self.path, str(error)) from None
                if size != entry.bytes:
                    found = f"{entry.path} of {size} bytes, not {entry.bytes}"
                    raise _unreadable(self.path, found)


def open_manifest(path: Path | str) -> Manifest:
    """Open a manifest.

    Raises:
        ManifestError: Not a manifest, another format version, or a named file is missing.
        IntegrityError: `manifest.json` was edited, names a file outside, or a size is wrong.
    """
    directory = Path(path)
    try:
        data = (directory / INDEX_NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ManifestError(
            f"manifest {directory}",
            expected="a directory with manifest.json",
            found="a directory without it" if directory.is_dir() else "no such directory",
            remedy="give the --out directory of `govern ids build`",
        ) from None
    except OSError as error:
        raise _unreadable(directory, str(error)) from None
    index = decode(data, what=f"manifest {directory}")
    for entries in index.tables.values():
        for entry in entries:
            file = directory / entry.path
            if file.is_symlink() or file.parent.is_symlink():
                raise IntegrityError(
                    f"file {entry.path} of manifest {directory}",
                    expected="a regular file in its folder",
                    found="a symbolic link",
                    remedy="replace it by the file itself: a link may lead out of the manifest",
                )
            if not file.is_file():
                raise ManifestError(
                    f"manifest {directory}",
                    expected=f"its file {entry.path}",
                    found="no such file",
                    remedy="restore the file, or rebuild the manifest",
                )
            if file.stat().st_size != entry.bytes:
                raise IntegrityError(
                    f"file {entry.path} of manifest {directory}",
                    expected=f"{entry.bytes} bytes",
                    found=f"{file.stat().st_size} bytes",
                    remedy="restore the file, or rebuild the manifest",
                )
    return Manifest(directory, index)


def _unreadable(path: Path, found: str) -> ManifestError:
    return ManifestError(
        f"manifest {path}",
        expected="files that can be read",
        found=found,
        remedy="open the manifest again if it was just changed; otherwise restore it",
    )
