"""The tables of a manifest as views of a DuckDB database that can read nothing else.

One database serves all queries to an open manifest, since making the views costs more than most
answers. A query gets a connection of its own, so it can be interrupted alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

# What a query that a person wrote may take.
MEMORY_LIMIT = "8GB"
# Every document beside its sequence, for conditions that need both.
SEQUENCE_COLUMNS = ("n_docs", "n_sources", "policy", "status", "first_snapshot", "reserved")
DOCUMENT_SEQUENCES = (
    f"SELECT d.*, {', '.join(f's.{name}' for name in SEQUENCE_COLUMNS)} "
    "FROM documents d JOIN sequences s USING (sequence_id)"
)
_LIMITS = ("memory_limit = '{limit}'", "temp_directory = ''")
_SETTINGS = (
    # Footers are parsed once. What the files hold stays with the system's cache: a copy in the
    # process would outlive the query.
    "parquet_metadata_cache = true",
    "enable_external_file_cache = false",
    "enable_external_access = false",
    "autoinstall_known_extensions = false",
    "autoload_known_extensions = false",
    "python_enable_replacements = false",
    "TimeZone = 'UTC'",
    "lock_configuration = true",
)


def open_database(
    tables: Mapping[str, Sequence[str]], *, bounded: bool
) -> duckdb.DuckDBPyConnection:
    """A database with a view per table and `document_sequences`, its settings locked.

    Its cursors are as bound as itself: they read the tables' files and no other file, no network,
    no extension, no attached database.

    Args:
        tables: The Parquet files of each table.
        bounded: For SQL from people: no working files, and `MEMORY_LIMIT` of memory.

    Raises:
        duckdb.Error: A file is gone or is no Parquet file.
    """
    import duckdb

    connection = duckdb.connect(":memory:")
    every_file = [file for files in tables.values() for file in files]
    connection.execute(f"SET GLOBAL allowed_paths = [{_literals(every_file)}]")
    for table, files in tables.items():
        connection.execute(
            f"CREATE VIEW {table} AS SELECT * FROM read_parquet([{_literals(files)}])"
        )
    connection.execute(f"CREATE VIEW document_sequences AS {DOCUMENT_SEQUENCES}")
    for setting in (*(_LIMITS if bounded else ()), *_SETTINGS):
        # Without GLOBAL some settings would hold for this connection and not for its cursors.
        connection.execute(f"SET GLOBAL {setting.format(limit=MEMORY_LIMIT)}")
    return connection


def _literals(paths: Sequence[str]) -> str:
    return ", ".join("'" + str(Path(path).absolute()).replace("'", "''") + "'" for path in paths)
