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


def _groups(file: pq.ParquetFile, key: str, wanted: Sequence[Any]) -> list[int]:
    """Row groups whose range of keys, if it is known, holds one of them."""
    columns = [file.metadata.schema.column(i).path for i in range(file.metadata.num_columns)]
    column = columns.index(key)
    found = []
    for group in range(file.num_row_groups):
        statistics = file.metadata.row_group(group).column(column).statistics
        if statistics is not None and statistics.has_min_max:
            first = bisect_left(wanted, statistics.min)
            if first == bisect_right(wanted, statistics.max):
                continue
        found.append(group)
    return found
