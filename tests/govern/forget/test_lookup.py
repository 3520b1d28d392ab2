"""Looking sequences up sparingly finds what the SQL finds."""

from __future__ import annotations

from pathlib import Path

import pytest
from forget_world import World, alias, build_world, with_aliases

from govern.forget import lookup
from manifests import open_manifest, queries
from manifests.errors import ManifestError

COLUMNS = ["source", "doc_id", "uri", "sequence_id", "similarity", "n_bytes"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return build_world(tmp_path)


@pytest.mark.parametrize("aliased", [False, True])
def test_law_equal_to_the_queries(world: World, aliased: bool) -> None:
    if aliased:
        with_aliases(world, [alias(77, world.ids["poem"], "merged")])
    manifest = open_manifest(world.manifest)
    ids = sorted(world.ids.values())
    for wanted in ([], ids[:1], ids, [77], [5, *ids[1:3], 77]):
        found = lookup.documents_of(manifest, wanted, COLUMNS)
        assert (
            found.to_pylist() == queries.documents_of(manifest, wanted).select(COLUMNS).to_pylist()
        )
        assert lookup.resolve(manifest, wanted) == queries.resolve(manifest, wanted)


def test_law_documents_by_name_and_signatures_are_those_of_the_queries(world: World) -> None:
    manifest = open_manifest(world.manifest)
    names = manifest.table("documents", ["doc_id"])["doc_id"].to_pylist()
    for wanted in ([], names[:1], [*names, "nobody"]):
        expected = [
            row
            for name in sorted(set(wanted))
            for row in queries.find_document(manifest, name).to_pylist()
        ]
        found = lookup.documents_named(manifest, wanted)
        assert sorted(found.to_pylist(), key=str) == sorted(
            ({name: row[name] for name in found.column_names} for row in expected), key=str
        )
    with manifest.connect() as connection:
        rows = connection.execute(
            "SELECT s.sequence_id, g.signature FROM sequences s JOIN signatures g "
            "ON g.source = s.representative_source AND g.doc_id = s.representative_doc_id"
        ).fetchall()
    ids = set(world.ids.values())
    expected_signatures = {i: signature for i, signature in rows if i in ids}
    assert set(expected_signatures) == ids
    assert lookup.signatures_of(manifest, [*ids, 5]) == expected_signatures


def test_a_manifest_swept_meanwhile_is_an_error(world: World) -> None:
    manifest = open_manifest(world.manifest)
    for file in (world.manifest / "documents").iterdir():
        file.unlink()
    with pytest.raises(ManifestError, match="open the manifest again if it was just changed"):
        lookup.documents_of(manifest, [1], COLUMNS)
