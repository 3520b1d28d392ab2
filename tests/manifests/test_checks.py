"""Every check passes on a good manifest, and fails on the breach that it is for, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tiny_manifest import Tables, write_manifest

from manifests.checks import check_manifest


def set_value(table: str, column: str, row: int, value: Any) -> Callable[[Tables], None]:
    def change(tables: Tables) -> None:
        rows = tables[table]
        values = rows[column].to_pylist()
        values[row] = value
        position = rows.schema.get_field_index(column)
        field = rows.schema.field(position)
        tables[table] = rows.set_column(position, field, pa.array(values, field.type))

    return change


def drop_row(table: str, row: int) -> Callable[[Tables], None]:
    def change(tables: Tables) -> None:
        rows = tables[table]
        tables[table] = pa.concat_tables([rows.slice(0, row), rows.slice(row + 1)])

    return change


def rename(table: str, old: str, new: str) -> Callable[[Tables], None]:
    def change(tables: Tables) -> None:
        rows = tables[table]
        tables[table] = rows.rename_columns([new if n == old else n for n in rows.column_names])

    return change


BREACHES = {
    "table schemas": rename("links", "jaccard", "similarity"),
    "record sums": drop_row("rejects", 0),
    "documents are unique": set_value("documents", "doc_id", 1, "a1"),
    "every document has its sequence": set_value("documents", "sequence_id", 1, 12),
    "sequence IDs are valid": set_value("sequences", "sequence_id", 0, -11),
    "one representative each": set_value("documents", "is_representative", 1, True),
    "members are similar": set_value("documents", "similarity", 2, 0.65),
    "links are similar": set_value("links", "jaccard", 1, 0.69),
    "links join documents": set_value("links", "doc_id_b", 1, "zz"),
    "sequence sums": set_value("sequences", "n_docs", 0, 4),
    "spans fit": set_value("documents", "end", 0, -1),
    "every document has a signature": drop_row("signatures", 3),
    "every text has its shingles": set_value("shingles", "shingles", 3, None),
    "words are known": set_value("sequences", "policy", 0, "secret"),
    "tombstones and status agree": set_value("sequences", "status", 0, "forgotten"),
    "aliases resolve": set_value("aliases", "sequence_id", 0, 4),
}


def failed(path: Path) -> list[str]:
    return [check.name for check in check_manifest(path) if not check.passed]


def test_a_good_manifest_passes_every_check(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m")
    names = [check.name for check in check_manifest(tmp_path / "m")]
    assert failed(tmp_path / "m") == []
    assert set(BREACHES) | {"file digests", "content digest"} == set(names)


@pytest.mark.parametrize("name", BREACHES)
def test_each_breach_is_found(tmp_path: Path, name: str) -> None:
    write_manifest(tmp_path / "m", BREACHES[name])
    assert name in failed(tmp_path / "m")


def test_a_sum_that_does_not_add_up(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m", records=9)
    found = {
        check.name: check.detail for check in check_manifest(tmp_path / "m") if not check.passed
    }
    assert found == {"record sums": "snapshot 1: 9 records, but 7 documents and 1 rejects"}


@pytest.mark.parametrize(
    "change",
    [
        set_value("shingles", "doc_id", 1, "a3"),
        set_value("shingles", "content", 1, b"\0" * 32),
        set_value("shingles", "shingles", 1, b"\1" * 8),
        drop_row("shingles", 6),
    ],
)
def test_shingles_that_are_not_those_of_the_documents(
    tmp_path: Path, change: Callable[[Tables], None]
) -> None:
    write_manifest(tmp_path / "m", change)
    assert failed(tmp_path / "m") == ["every text has its shingles"]


def test_a_manifest_may_have_no_shingles(tmp_path: Path) -> None:
    def empty(tables: Tables) -> None:
        tables["shingles"] = tables["shingles"].slice(0, 0)

    write_manifest(tmp_path / "m", empty)
    assert failed(tmp_path / "m") == []


def test_an_alias_to_nothing_is_found(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m", set_value("aliases", "sequence_id", 0, 999))
    assert failed(tmp_path / "m") == ["aliases resolve"]


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "m")
    victim = Path(manifest.files("sequences")[0])
    data = bytearray(victim.read_bytes())
    data[100] ^= 1
    victim.write_bytes(bytes(data))
    (check,) = check_manifest(tmp_path / "m")
    assert (check.name, check.passed) == ("file digests", False)
    assert check.detail.startswith(f"sequences/{victim.name}: expected sha256 ")
