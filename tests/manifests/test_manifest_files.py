"""`manifest.json` and the files it names: what is refused, and what survives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_manifest import write_manifest

from manifests import open_manifest
from manifests.errors import GovernError, IntegrityError, ManifestError
from manifests.files import canonical_json
from manifests.index import FileEntry, Index, InputFile, Snapshot, decode
from manifests.schema import TABLES
from manifests.writer import ROWS_PER_GROUP, TableWriter

HEX = st.text("0123456789abcdef", min_size=64, max_size=64)


def file_entries(table: str) -> st.SearchStrategy[tuple[FileEntry, ...]]:
    size = st.integers(0, 2**40)
    one = st.builds(
        lambda digest, rows, count: FileEntry(
            path=f"{table}/{digest[:16]}.parquet", rows=rows, bytes=count, sha256=digest
        ),
        HEX, size, size,
    )  # fmt: skip
    return st.lists(one, max_size=3).map(tuple)


@settings(max_examples=60)
@given(
    st.fixed_dictionaries({table: file_entries(table) for table in TABLES}),
    st.dictionaries(
        st.text(max_size=5), st.one_of(st.integers(-(2**53), 2**53), st.text()), max_size=4
    ),
    st.text(max_size=9),
)
def test_encoding_then_decoding_gives_the_same_index(
    tables: dict[str, Any], parameters: dict[str, Any], uri: str
) -> None:
    snapshot = Snapshot(
        snapshot=1, inputs=(InputFile(uri=uri, bytes=3),), records=2, documents=1, rejects=1,
        content_digest="00",
    )  # fmt: skip
    index = Index(parameters=parameters, snapshots=(snapshot,), tables=tables)
    assert decode(index.encode(), what="m") == index


def edit(path: Path, change: Any) -> None:
    value = json.loads(path.read_bytes())
    change(value)
    path.write_bytes(canonical_json(value))


def first_file(value: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = value["tables"]["documents"][0]
    return entry


INVALID = {
    "spaces": (lambda p: p.write_bytes(p.read_bytes() + b" "), IntegrityError, "it was edited"),
    "not JSON": (lambda p: p.write_bytes(b"{"), ManifestError, "bytes that are not JSON"),
    "another format": (
        lambda p: edit(p, lambda v: v.update(format="x")), ManifestError, "another kind of file",
    ),
    "another version": (
        lambda p: edit(p, lambda v: v.update(format_version=3)),
        ManifestError, "expected format version 2, found format version 3",
    ),
    "a changed parameter": (
        lambda p: edit(p, lambda v: v["parameters"].update(threshold=0.1)),
        IntegrityError, "found digest",
    ),
    "a path upwards": (
        lambda p: edit(p, lambda v: first_file(v).update(path="../secret.parquet")),
        IntegrityError, "found '../secret.parquet'",
    ),
    "an absolute path": (
        lambda p: edit(p, lambda v: first_file(v).update(path="/etc/passwd")),
        IntegrityError, "found '/etc/passwd'",
    ),
    "another table's folder": (
        lambda p: edit(p, lambda v: first_file(v).update(path="links/0123456789abcdef.parquet")),
        IntegrityError, "found 'links/0123456789abcdef.parquet'",
    ),
    "a table less": (
        lambda p: edit(p, lambda v: v["tables"].pop("links")), ManifestError, "of another shape",
    ),
    "a key more": (
        lambda p: edit(p, lambda v: v.update(note="x")), IntegrityError, "it was edited",
    ),
    "a digest of another type": (
        lambda p: edit(p, lambda v: first_file(v).update(sha256=None)), ManifestError, "shape",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INVALID)
def test_invalid_manifests_are_refused(tmp_path: Path, name: str) -> None:
    change, kind, message = INVALID[name]
    write_manifest(tmp_path / "m")
    change(tmp_path / "m" / "manifest.json")
    with pytest.raises(GovernError) as caught:
        open_manifest(tmp_path / "m")
    assert type(caught.value) is kind
    assert message in str(caught.value)


def test_missing_and_resized_files_are_refused(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "m")
    victim = Path(manifest.files("links")[0])
    data = victim.read_bytes()
    victim.write_bytes(data + b"x")
    with pytest.raises(IntegrityError, match=f"found {len(data) + 1} bytes"):
        open_manifest(tmp_path / "m")
    victim.unlink()
    with pytest.raises(ManifestError, match="found no such file"):
        open_manifest(tmp_path / "m")
    with pytest.raises(ManifestError, match="expected files that can be read"):
        manifest.table("links")


def test_snapshots_are_found_by_number(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "m")
    assert manifest.snapshot == 1
    assert manifest.content_digest() == manifest.content_digest(1)
    with pytest.raises(ManifestError, match="expected snapshot 2, found snapshots 1"):
        manifest.content_digest(2)
    with pytest.raises(ManifestError, match="table 'nonsense'"):
        manifest.table("nonsense")


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=6))
def test_bytes_do_not_depend_on_how_rows_arrive(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    total = ROWS_PER_GROUP + 5000
    rows = pa.table({"doc_id": pa.array([f"d{i}" for i in range(total)])})
    names = []
    for cuts in ([total], sizes):
        directory = tmp_path_factory.mktemp("w")
        writer = TableWriter(directory, "links", rows.schema)
        at = 0
        for size in [*cuts, total]:
            writer.write(rows.slice(at, size))
            at = min(at + size, total)
        (entry,) = writer.close()
        names.append(entry)
        assert pq.read_table(directory / entry.path) == rows
        assert pq.ParquetFile(directory / entry.path).num_row_groups == 2
    assert names[0] == names[1]
