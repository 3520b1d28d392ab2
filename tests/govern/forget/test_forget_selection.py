"""Selecting: every kind, closed over duplicates and aliases; hostile and unknown names."""

from __future__ import annotations

from pathlib import Path

import pytest
from forget_world import HOSTILE, World, alias, build_world, with_aliases

from govern.forget.request import ForgetRequest, Kind
from govern.forget.run_view import read_run
from govern.forget.selection import Selection, select
from manifests import open_manifest
from manifests.errors import GovernError, InputError, SelectionError
from manifests.sequence_id import format_id


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("world"))


def request(kind: Kind, *values: str) -> ForgetRequest:
    return ForgetRequest(kind=kind, values=values, reference="R-1", reason="test")


def selected(world: World, kind: Kind, *values: str) -> Selection:
    return select(open_manifest(world.manifest), request(kind, *values), read_run(world.run))


def names(selection: Selection) -> dict[str, str]:
    return {document.doc_id: document.how for document in selection.documents}


LICENCE = {"licence-0": "duplicate", "licence-1": "requested", "licence-2": "duplicate"}


def test_a_document_brings_its_near_duplicates(world: World) -> None:
    selection = selected(world, "doc-id", "licence-1")
    assert names(selection) == LICENCE
    assert selection.sequence_ids == (world.ids["licence"],)
    assert selection.matched_rows == 1
    assert all(0.7 <= document.similarity <= 1 for document in selection.documents)
    assert min(document.similarity for document in selection.documents) < 1


@pytest.mark.parametrize("form", ["printed", "decimal"])
def test_a_sequence_id_brings_all_its_documents(world: World, form: str) -> None:
    value = world.ids["licence"]
    selection = selected(
        world, "sequence-id", format_id(value) if form == "printed" else str(value)
    )
    assert set(names(selection)) == set(LICENCE)


def test_a_condition_selects_and_closes(world: World) -> None:
    selection = selected(world, "where", "doc_id LIKE 'licence-1' OR doc_id = 'poem'")
    assert names(selection) == {**LICENCE, "poem": "requested"}
    assert selection.sequence_ids == tuple(sorted((world.ids["licence"], world.ids["poem"])))


def test_all_sinks_are_those_that_own_some(world: World) -> None:
    selection = selected(world, "all-sinks")
    assert world.ids["common"] not in selection.sequence_ids
    assert len(selection.sequence_ids) == 3 + len(HOSTILE)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_only_names(world: World, name: str) -> None:
    assert names(selected(world, "doc-id", name)) == {name: "requested"}


@pytest.mark.parametrize(
    ("kind", "value", "error", "message"),
    [
        ("doc-id", "licence-9", SelectionError, "none with this ID; the nearest is 'licence-"),
        ("sequence-id", "sq-00000000deadbeef", SelectionError, "found none like it"),
        ("sequence-id", "seventeen", InputError, "sq- and 16 hex digits"),
        ("where", "doc_id = 'nobody'", SelectionError, "found none; try the condition with"),
        ("where", "no_such_column = 1", InputError, "SQL"),
        ("text-file", "/nonexistent/file", InputError, "expected a UTF-8 text file"),
    ],
)
def test_nothing_found_is_a_clear_error(
    world: World, kind: Kind, value: str, error: type[GovernError], message: str
) -> None:
    with pytest.raises(error) as caught:
        selected(world, kind, value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "sql",
    [
        "1=1); DROP VIEW documents; --",
        "doc_id IN (SELECT content FROM read_text('/etc/hostname'))",
        "1 = (SELECT count(*) FROM read_csv('/etc/passwd'))",
        "true) UNION ALL SELECT * FROM documents WHERE (true",
        "1=1; ATTACH '/tmp/evil.db'",
        "1=1; COPY documents TO '/tmp/evil.csv'",
    ],
)
def test_a_condition_cannot_write_attach_or_read_files(world: World, sql: str) -> None:
    with pytest.raises(InputError):
        selected(world, "where", sql)
    assert not Path("/tmp/evil.db").exists()
    assert not Path("/tmp/evil.csv").exists()


def test_a_name_that_two_sources_have_must_be_told_apart(tmp_path: Path) -> None:
    from govern.ids.pipeline import BuildConfig, build_ids

    world = build_world(tmp_path)
    other = tmp_path / "second.jsonl"
    other.write_text('{"id": "poem", "text": "quite another text of a few words"}\n')
    build_ids([world.corpus, other], tmp_path / "two", BuildConfig(workers=1))
    with pytest.raises(SelectionError, match="found 2 sources: 'corpus', 'second'; say which"):
        select(open_manifest(tmp_path / "two"), request("doc-id", "poem"), read_run(world.run))


# --- the manifest moved on after the training ----------------------------------------------------


def test_a_merge_after_the_training_cannot_hide_the_old_id(tmp_path: Path) -> None:
    world = build_world(tmp_path)
    old = 77  # the run knows the poem under an ID that was merged away since
    with_aliases(world, [alias(old, world.ids["poem"], "merged")])
    for kind, value in (("doc-id", "poem"), ("sequence-id", format_id(old))):
        selection = selected(world, kind, value)  # type: ignore[arg-type]
        assert selection.sequence_ids == (old, world.ids["poem"])
        assert selection.aliases == ((old, world.ids["poem"]),)
        assert names(selection)["poem"] == "requested"


def test_a_reassigned_document_brings_the_id_it_was_trained_under(tmp_path: Path) -> None:
    world = build_world(tmp_path)
    with_aliases(world, [alias(world.ids["secret"], world.ids["poem"], "reassigned", "poem")])
    selection = selected(world, "doc-id", "poem")
    assert set(selection.sequence_ids) == {world.ids["secret"], world.ids["poem"]}
    by_name = {document.doc_id: document for document in selection.documents}
    assert by_name["poem"].sequence_id == world.ids["secret"]
    assert by_name["secret"].how == "duplicate"
    # And the other way: forgetting the old sequence covers the document that left it since.
    assert set(names(selected(world, "doc-id", "secret"))) == {"secret", "poem"}
