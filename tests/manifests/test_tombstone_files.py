"""Tombstones cost what is forgotten: few files are written anew, and none is lost."""

from __future__ import annotations

import datetime
from pathlib import Path

import pyarrow as pa
import pytest
from tiny_manifest import write_manifest

from manifests import open_manifest, tombstones, writer
from manifests.checks import check_manifest
from manifests.schema import TOMBSTONES


def stones(ids: list[int]) -> pa.Table:
    rows = [
        {
            "sequence_id": sequence_id,
            "signature": b"\1" * 64,
            "forgotten_at": datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC),
            "request": "R",
            "statement_sha256": b"\2" * 32,
        }
        for sequence_id in ids
    ]
    return pa.Table.from_pylist(rows, schema=TOMBSTONES)


def test_only_the_files_that_change_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sequences 11, 22, 33, 44 in files of one row; tombstones in files of two."""
    monkeypatch.setattr(writer, "ROWS_PER_GROUP", 1)
    monkeypatch.setitem(writer._SMALL_FILES, "sequences", 1)
    monkeypatch.setattr(tombstones, "_ROWS_PER_FILE", 2)
    path = write_manifest(tmp_path / "m").path
    before = open_manifest(path).index.tables
    assert len(before["sequences"]) == 4
    for ids in ([33], [11, 33], [22], [44]):
        tombstones.add_tombstones(path, stones(ids))
    manifest = open_manifest(path)
    status = manifest.table("sequences").select(["sequence_id", "status"]).to_pylist()
    assert status == [{"sequence_id": i, "status": "forgotten"} for i in (11, 22, 33, 44)]
    assert [e.rows for e in manifest.index.tables["tombstones"]] == [2, 2]
    assert manifest.table("tombstones")["sequence_id"].to_pylist() == [11, 33, 22, 44]
    assert all(check.passed for check in check_manifest(path))


def test_a_large_file_of_an_earlier_writer_is_cut_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_manifest(tmp_path / "m").path
    assert len(open_manifest(path).index.tables["sequences"]) == 1
    monkeypatch.setattr(writer, "ROWS_PER_GROUP", 1)
    monkeypatch.setitem(writer._SMALL_FILES, "sequences", 1)
    tombstones.add_tombstones(path, stones([22]))
    manifest = open_manifest(path)
    assert [e.rows for e in manifest.index.tables["sequences"]] == [1, 1, 1, 1]
    assert manifest.table("sequences")["sequence_id"].to_pylist() == [11, 22, 33, 44]
    first = manifest.index.tables["sequences"][0]
    tombstones.add_tombstones(path, stones([44]))
    assert open_manifest(path).index.tables["sequences"][0] == first
