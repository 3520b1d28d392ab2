"""Finding rows by key decodes little and finds what a filter finds."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.row_groups import rows_with

NUMBERS = st.integers(-(2**63), 2**63 - 1)


@given(
    keys=st.lists(NUMBERS | st.integers(0, 9), max_size=30), data=st.data(), ordered=st.booleans()
)
def test_law_rows_are_those_of_a_filter(
    tmp_path_factory: pytest.TempPathFactory, keys: list[int], data: st.DataObject, ordered: bool
) -> None:
    keys = sorted(keys) if ordered else keys
    texts = [f"{key} \u00e9\U0001f600"[data.draw(st.integers(0, 3)) :] for key in keys]
    table = pa.table(
        {
            "nested": pa.array([[key, key] for key in keys], pa.list_(pa.int64())),
            "key": pa.array(keys, pa.int64()),
            "text": pa.array(texts, pa.string()),
        }
    )
    path = tmp_path_factory.mktemp("t") / "t.parquet"
    pq.write_table(table, path, row_group_size=3)
    for key in ("key", "text"):
        known = table[key].to_pylist()
        others = st.lists(NUMBERS if key == "key" else st.text(), max_size=3)
        chosen = data.draw(st.lists(st.sampled_from(known), max_size=5)) if known else []
        wanted = sorted({*chosen, *data.draw(others)})
        with pq.ParquetFile(path) as file:
            found = rows_with(file, key, wanted, ["text", "nested", "key"])
        expected = [row for row in table.to_pylist() if row[key] in wanted]
        assert [{**row} for row in found.to_pylist()] == expected


def test_groups_that_cannot_hold_a_key_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"key": list(range(100))}), tmp_path / "t.parquet", row_group_size=10)
    read: list[int] = []
    original = pq.ParquetFile.read_row_group

    def spy(file: pq.ParquetFile, group: int, **options: object) -> pa.Table:
        read.append(group)
        return original(file, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spy)
    with pq.ParquetFile(tmp_path / "t.parquet") as file:
        assert rows_with(file, "key", [-5, 30, 39, 99, 100], ["key"])["key"].to_pylist() == [
            30,
            39,
            99,
        ]
    assert sorted(set(read)) == [3, 9]
