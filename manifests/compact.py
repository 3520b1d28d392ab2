"""Keep the number of a manifest's files bounded, however many additions it saw.

Each addition brings a file for each table. When more than `MOST_SMALL` small files lie at the end
of a table, they become one: so a table has at most that many beside files of `SMALL_ROWS` and more,
and a row is written again only until its file is that large. Row order stays.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from manifests.index import FileEntry
from manifests.writer import ROWS_PER_GROUP, TableWriter, rows_per_file

SMALL_ROWS = ROWS_PER_GROUP
MOST_SMALL = 32


def merge_small_files(
    directory: Path, table: str, entries: tuple[FileEntry, ...]
) -> tuple[FileEntry, ...]:
    """The files of a table after merging; the same ones while there are few.

    Args:
        directory: The manifest's directory.
        table: One of `schema.TABLES`.
        entries: Its files, in row order.
    """
    begin = len(entries)
    while begin and entries[begin - 1].rows < min(SMALL_ROWS, rows_per_file(table)):
        begin -= 1
    if len(entries) - begin <= MOST_SMALL:
        return entries
    paths = [directory / entry.path for entry in entries[begin:]]
    writer = TableWriter(directory, table, pq.read_schema(paths[0]))
    for path in paths:
        writer.write(pq.read_table(path, partitioning=None))
    return entries[:begin] + writer.close()
