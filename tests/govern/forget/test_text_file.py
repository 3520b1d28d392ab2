"""Selecting by a text: the same words need nothing, similar ones a person's `--min-similarity`."""

from __future__ import annotations

import json
import shutil

import pytest
from forget_world import BASE, SIGNED, Run, World, build_world, text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from govern.forget.text_file import documents_with_text
from govern.ids.reference import jaccard, shingles
from manifests import open_manifest
from manifests.errors import GovernError, ManifestError, SelectionError
from manifests.index import Index
from manifests.schema import SHINGLES
from manifests.writer import commit, write_table

COPIES = {"licence-0", "licence-1", "licence-2"}
NAME = "corpus/licence-"


def similarity(a: str, b: str) -> float:
    """The naive reference."""
    return jaccard(set(shingles(a, 5)), set(shingles(b, 5)))


def plan(run: Run, *more: str) -> tuple[int, str, str]:
    return run("--quiet", *BASE, "--text-file", "text.txt", "--plan", *more)


@pytest.mark.parametrize(
    ("shape", "note"),
    [
        (lambda t: t, "  the text of text.txt is found word for word"),
        (lambda t: t.upper().replace(" ", "\n"), "  similarity 1.000 to corpus/licence-1"),
    ],
)
def test_the_same_words_need_nothing(here: World, run: Run, shape: object, note: str) -> None:
    assert callable(shape)
    (here.base / "text.txt").write_text(shape(text("licence", changes=1)))
    code, out, err = plan(run)
    assert code == 0, err
    assert note in out.splitlines()
    assert "  1 documents named, 3 covered (2 of them duplicates)" in out.splitlines()


def test_a_similar_text_is_shown_and_not_selected(here: World, run: Run) -> None:
    mine = text("licence", changes=12)
    (here.base / "text.txt").write_text(mine)
    near = [similarity(mine, text("licence", changes=i)) for i in (2, 1, 0)]
    assert near == sorted(near, reverse=True)
    code, out, err = plan(run)
    assert (code, out) == (1, "")
    shown = ", ".join(
        f"{j:.3f} 'licence-{i}' of source 'corpus'" for i, j in zip((2, 1, 0), near, strict=True)
    )
    assert err == (
        "govern: --text-file text.txt: expected a text with the same words as a document, "
        f"found 3 similar ones: {shown}; --min-similarity {near[-1] - 0.005:.2f} selects these; "
        "or give the text as it was\n"
    )


def test_what_the_message_proposes_selects_what_it_showed(here: World, run: Run) -> None:
    (here.base / "text.txt").write_text(text("licence", changes=12))
    proposed = plan(run)[2].split("--min-similarity ")[1].split()[0]
    code, out, _ = run(
        "--output", "json", *BASE, "--text-file", "text.txt", "--plan", "--min-similarity", proposed
    )
    assert code == 0
    found = json.loads(out)
    assert {d["doc_id"] for d in found["documents"] if d["how"] == "requested"} == COPIES
    query = json.loads(found["query"])
    assert query == ["text-file", "text.txt", {"min_similarity": float(proposed)}]
    assert [note[: len("similarity 0.xxx to corpus/licence-")] for note in found["notes"]] == [
        f"similarity {similarity(text('licence', 12), text('licence', i)):.3f} to {NAME}"
        for i in (2, 1, 0)
    ]


def test_nothing_near_names_the_nearest(here: World, run: Run) -> None:
    mine = text("poem", changes=100)
    (here.base / "text.txt").write_text(mine)
    best = similarity(mine, text("poem"))
    remedy = "give the text as it stood in the corpus, or select that document with --doc-id\n"
    found = f"found at best {best:.3f} 'poem' of source 'corpus'; {remedy}"
    for more, wanted in (((), "0.7"), (("--min-similarity", "0.6"), "0.6")):
        code, _, err = plan(run, *more)
        assert code == 1
        assert err == (
            "govern: --text-file text.txt: expected a document with similarity "
            f"{wanted} or more, {found}"
        )
    assert plan(run, "--min-similarity", "0.3")[0] == 0
    (here.base / "text.txt").write_text("nothing of the kind was ever in here")
    assert f"found none that is near; {remedy}" in plan(run)[2]


def test_similar_text_can_be_forgotten_and_several_texts_at_once(here: World, run: Run) -> None:
    (here.base / "text.txt").write_text(text("licence", changes=12))
    (here.base / "poem.txt").write_text(text("poem"))
    arguments = (*BASE, "--text-file", "text.txt", "--text-file", "poem.txt", "--out", "after")
    code, out, err = run(*arguments, *SIGNED, "--min-similarity", "0.8")
    assert code == 0, err
    assert "4 documents named, 4 covered (0 of them duplicates)" in out
    verify = out.splitlines()[-1].removeprefix("Verify     govern ").split()
    assert run(*verify)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--doc-id", "poem", "--min-similarity", "0.9"), "--min-similarity goes with --text-file"),
        (("--text-file", "x", "--min-similarity", "0"), "0.0 is not in the range 0<x<=1"),
        (("--text-file", "x", "--min-similarity", "1.5"), "1.5 is not in the range 0<x<=1"),
    ],
)
@pytest.mark.usefixtures("here")
def test_usage(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = run(*BASE, *arguments, "--plan")
    assert code == 2
    assert message in err


@pytest.mark.parametrize(
    ("content", "found"),
    [(b"\xff\xfe\x00", "bytes that are not UTF-8"), (b" \n\t", "nothing but white space")],
)
def test_what_is_no_text(here: World, run: Run, content: bytes, found: str) -> None:
    (here.base / "text.txt").write_bytes(content)
    code, _, err = plan(run)
    assert code == 1
    assert f"found {found}; give the text to forget as a plain text file" in err


def test_the_corpus_may_be_gone(here: World, run: Run) -> None:
    here.corpus.unlink()
    (here.base / "text.txt").write_text(text("licence", changes=12))
    assert plan(run, "--min-similarity", "0.8")[0] == 0


def test_repeating_a_text_is_similar_but_not_the_same(here: World) -> None:
    """Its shingle set differs by a few only where the copies meet, or not at all."""
    manifest = open_manifest(here.manifest)
    path = here.base / "text.txt"
    path.write_text(" ".join([text("poem")] * 2))
    with pytest.raises(SelectionError, match=r"1 similar ones: 0\.98\d 'poem'"):
        documents_with_text(manifest, path)


def test_without_stored_shingles_only_the_exact_text_is_found(here: World) -> None:
    index = open_manifest(here.manifest).index
    none = write_table(here.manifest, "shingles", SHINGLES.empty_table())
    tables = {**index.tables, "shingles": none}
    commit(
        here.manifest,
        Index(parameters=index.parameters, snapshots=index.snapshots, tables=tables),
    )
    bare, path = open_manifest(here.manifest), here.base / "text.txt"
    path.write_text(text("poem"))
    assert documents_with_text(bare, path)[0]["doc_id"].to_pylist() == ["poem"]
    path.write_text(text("poem", changes=1))
    with pytest.raises(ManifestError, match="expected the shingles of all"):
        documents_with_text(bare, path)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    changes=st.integers(0, 190),
    name=st.sampled_from(["licence", "poem"]),
    least=st.sampled_from([0.05, 0.3, 0.7, 0.9, 1.0]),
)
def test_law_selected_are_those_whose_exact_similarity_reaches_the_least(
    tmp_path_factory: pytest.TempPathFactory, changes: int, name: str, least: float
) -> None:
    base = tmp_path_factory.mktemp("law")
    world = build_world(base)
    path = base / "text.txt"
    mine = text(name, changes=changes)
    path.write_text(mine)
    documents = {f"licence-{i}": text("licence", i) for i in range(3)} | {"poem": text("poem")}
    wanted = {d for d, t in documents.items() if similarity(mine, t) >= least}
    try:
        table, notes = documents_with_text(open_manifest(world.manifest), path, least)
    except GovernError:
        assert not wanted
    else:
        assert set(table["doc_id"].to_pylist()) == wanted
        for note in notes:
            doc_id = note.rsplit("/", 1)[1]
            assert note.startswith(f"similarity {similarity(mine, documents[doc_id]):.3f} to ")
    shutil.rmtree(base)
