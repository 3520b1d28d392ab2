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


def test_a_manifest_swept_meanwhile_is_an_error(world: World) -> None:
    manifest = open_manifest(world.manifest)
    for file in (world.manifest / "documents").iterdir():
        file.unlink()
    with pytest.raises(ManifestError, match="somebody else may have changed the manifest"):
        lookup.documents_of(manifest, [1], COLUMNS)
