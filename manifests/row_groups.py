"""Find rows of a Parquet file by key, decoding only what can hold them.

First the least and greatest key of each row group, then the key column, then the rows hit. Where
the file is sorted by the key, one row of a million costs one row group; where it is not, it costs
the key column.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


def rows_with(
    file: pq.ParquetFile, key: str, wanted: Sequence[Any], columns: Sequence[str]
) -> pa.Table:
    """The rows whose key is one of `wanted`, in file order.

    Args:
        file: Open; holds `key` and `columns`.
        key: A column of integers or of text.
        wanted: Keys in ascending order.
        columns: What is wanted of the rows.

    Returns:
        A table of `columns`; empty where no key is found.
    """
    value_set = pa.array(wanted, file.schema_arrow.field(key).type)
    empty = pa.schema([file.schema_arrow.field(name) for name in columns]).empty_table()
    parts = [empty]
    for group in _groups(file, key, wanted):
        hit = pc.is_in(file.read_row_group(group, columns=[key])[key], value_set=value_set)
        if pc.any(hit).as_py():
            rows = file.read_row_group(group, columns=list(columns))
            parts.append(rows.select(list(columns)).filter(hit))
    return pa.concat_tables(parts).combine_chunks()


def key_range(metadata: pq.FileMetaData, key: str) -> tuple[Any, Any] | None:
    """The least and greatest key of a file; None where a row group does not say, or has no row."""
    ends = _group_ranges(metadata, key)
    known = [pair for pair in ends if pair is not None]
    if not known or len(known) < len(ends):
        return None
    return min(low for low, _ in known), max(high for _, high in known)


def _groups(file: pq.ParquetFile, key: str, wanted: Sequence[Any]) -> list[int]:
    """Row groups whose range of keys, if it is known, holds one of them."""
    return [
        group
        for group, ends in enumerate(_group_ranges(file.metadata, key))
        if ends is None or bisect_left(wanted, ends[0]) < bisect_right(wanted, ends[1])
    ]


def _group_ranges(metadata: pq.FileMetaData, key: str) -> list[tuple[Any, Any] | None]:
    """The least and greatest key of each row group; None where it is not known."""
    paths = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    column = paths.index(key)
    found: list[tuple[Any, Any] | None] = []
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(column).statistics
        known = statistics is not None and statistics.has_min_max
        found.append((statistics.min, statistics.max) if known else None)
    return found
