"""Values where they lie in a mapped file are the values that a Parquet reader decodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_manifest import Tables, write_manifest

import manifests.writer
from govern.ids.sets import ShingleSets, each_stored_set, stored_sets
from manifests import open_manifest
from manifests.errors import ManifestError
from manifests.plain_pages import fixed_rows, pages_of
from manifests.reader import Manifest

COUNT = 5000


def with_sets(seed: int) -> Callable[[Tables], None]:
    """Signatures and shingle sets of many documents: several pages, row groups, and nulls."""
    random = np.random.default_rng(seed)

    def change(tables: Tables) -> None:
        names = [f"d{i}" for i in range(COUNT)]
        sizes = random.integers(0, 120, COUNT) * (random.random(COUNT) < 0.7)
        named = {"source": ["s"] * COUNT, "doc_id": names}
        tables["shingles"] = pa.table(
            {
                **named,
                "text": np.arange(COUNT),
                "content": [random.bytes(32) for _ in names],
                "n_shingles": sizes.astype(np.int32),
                "shingles": [random.bytes(8 * size) if size else None for size in sizes],
            },
            schema=tables["shingles"].schema,
        )
        tables["signatures"] = pa.table(
            {
                **named,
                "signature": [random.bytes(64) for _ in names],
                "bands": [random.bytes(16) for _ in names],
            },
            schema=tables["signatures"].schema,
        )

    return change


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    monkeypatch.setitem(manifests.writer._OTHER_GROUPS, "shingles", 1900)
    monkeypatch.setattr(manifests.writer, "ROWS_PER_GROUP", 1900)
    monkeypatch.setattr(manifests.writer, "ROWS_PER_FILE", 3800)
    return write_manifest(tmp_path / "m", with_sets(1))


@pytest.mark.parametrize("column", ["signature", "bands"])
def test_fixed_rows_are_the_decoded_ones(stored: Manifest, column: str) -> None:
    pages = list(pages_of(stored, "signatures", column))
    assert [page.first for page in pages[1:]] == [page.end for page in pages[:-1]]
    found = np.concatenate([fixed_rows(page, "<u4") for page in pages])
    decoded = b"".join(stored.table("signatures")[column].to_pylist())
    assert found.tobytes() == decoded
    assert len(stored.files("signatures")) > 1


def test_sets_of_any_rows_are_the_decoded_ones(stored: Manifest) -> None:
    decoded = [value or b"" for value in stored.table("shingles")["shingles"].to_pylist()]
    for rows in (np.arange(COUNT), np.arange(7, COUNT, 311), np.array([COUNT - 1])):
        found = {}
        for places, sets in stored_sets(stored, rows):
            for place, begin, size in zip(places, sets.begins, sets.sizes, strict=True):
                found[int(rows[place])] = sets.values[begin : begin + size].tobytes()
        assert found == {int(row): decoded[row] for row in rows}

    def examine(first: int, sets: ShingleSets) -> tuple[int, list[bytes]]:
        ends = sets.begins + sets.sizes
        pairs = zip(sets.begins, ends, strict=True)
        return first, [sets.values[begin:end].tobytes() for begin, end in pairs]

    parts = list(each_stored_set(stored, examine, 2))
    assert [value for _, part in parts for value in part] == decoded
    assert parts[0][0] == 0


def test_compressed_columns_are_refused(stored: Manifest) -> None:
    with pytest.raises(ManifestError, match="expected plain, uncompressed pages"):
        list(pages_of(stored, "signatures", "doc_id"))


@pytest.mark.parametrize("change", ["sizes", "bytes"])
def test_sets_that_are_not_as_long_as_said_are_refused(tmp_path: Path, change: str) -> None:
    def lie(tables: Tables) -> None:
        with_sets(2)(tables)
        rows = tables["shingles"]
        sizes = rows["n_shingles"].to_numpy().copy()
        sizes[np.flatnonzero(sizes)[5]] += 1
        tables["shingles"] = rows.set_column(4, rows.schema.field(4), pa.array(sizes))

    manifest = write_manifest(tmp_path / "m", lie if change == "sizes" else with_sets(2))
    if change == "bytes":
        name = manifest.files("shingles")[0]
        data = bytearray(Path(name).read_bytes())
        at = pq.read_metadata(name).row_group(0).column(5).data_page_offset
        data[at : at + 40] = b"\xff" * 40
        Path(name).write_bytes(data)
    with pytest.raises(ManifestError, match="shingles"):
        list(each_stored_set(open_manifest(manifest.path), lambda *_: None, 1))
