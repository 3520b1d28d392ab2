"""Passages that other sequences quote are found by containment, and listed as not covered."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from forget_world import BASE, SIGNED, Run, World, id_of, text

from govern.audit.report_file import read_report
from govern.forget.quoting import QUOTED_FROM, find_quotations
from govern.ids.pipeline import BuildConfig, build_ids
from govern.ids.reference import shingles
from manifests import Manifest, open_manifest
from manifests.sequence_id import format_id


def build(base: Path, documents: Mapping[str, str]) -> Manifest:
    corpus = base / "quoting.jsonl"
    corpus.write_text(
        "".join(json.dumps({"id": d, "text": t}) + "\n" for d, t in documents.items())
    )
    build_ids([corpus], base / "quoting", BuildConfig(workers=1))
    return open_manifest(base / "quoting")


def part(name: str, begin: int, end: int) -> str:
    return " ".join(text(name).split()[begin:end])


def contained(forgotten: str, other: str) -> float:
    """The naive reference."""
    mine = set(shingles(forgotten, 5))
    return len(mine & set(shingles(other, 5))) / len(mine)


def test_quotations_are_found_and_others_are_not(tmp_path: Path) -> None:
    documents = {
        "poem": text("poem"),
        "poem-again": text("poem", changes=1),
        "half": f"{text('essay')} {part('poem', 0, 100)}",
        "same-half": f"{text('essay')} {part('poem', 0, 100)}",
        "fifth": f"{text('review')} {part('poem', 50, 94)}",
        "phrase": f"{text('letter')} {part('poem', 50, 80)}",
        "apart": text("apart"),
    }
    manifest = build(tmp_path, documents)
    poem = id_of(manifest, "poem")
    assert id_of(manifest, "poem-again") == poem
    found = find_quotations(manifest, [poem], {("quoting", "poem"), ("quoting", "poem-again")})
    assert found is not None
    assert [q.sequence_id for q in found] == [id_of(manifest, n) for n in ("half", "fifth")]
    assert {q.quotes for q in found} == {poem}
    for quotation in found:
        best = max(
            contained(documents[f], documents[quotation.doc_id]) for f in ("poem", "poem-again")
        )
        assert quotation.share == pytest.approx(best, abs=1e-12)
    assert contained(documents["poem"], documents["phrase"]) < QUOTED_FROM


def test_a_document_that_is_covered_is_no_quotation(tmp_path: Path) -> None:
    manifest = build(
        tmp_path, {"poem": text("poem"), "half": f"{text('essay')} {part('poem', 0, 100)}"}
    )
    poem = id_of(manifest, "poem")
    assert len(find_quotations(manifest, [poem], set()) or ()) == 1
    assert find_quotations(manifest, [poem], {("quoting", "half")}) == ()
    assert find_quotations(manifest, [poem, id_of(manifest, "half")], set()) == ()
    assert find_quotations(manifest, [], set()) == ()


@pytest.mark.parametrize(("seed", "pairs"), [(0, 1 << 22), (1, 1 << 22), (1, 5), (2, 300)])
def test_equal_to_the_naive_reference(
    tmp_path: Path, seed: int, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts pasted together from passages of each other, however many fit at a time."""
    monkeypatch.setattr("govern.forget.quoting._PAIRS_AT_ONCE", pairs)
    rng = random.Random(seed)
    pool = [text(f"{i}pool").split() for i in range(4)]
    documents = {}
    for i in range(12):
        words: list[str] = []
        for _ in range(rng.randint(1, 4)):
            begin = rng.randrange(150)
            words += rng.choice(pool)[begin : begin + rng.randint(3, 90)]
        documents[f"d{i}"] = " ".join(words)
    manifest = build(tmp_path, documents)
    ids = {name: id_of(manifest, name) for name in documents}
    every = sorted(set(ids.values()))
    for chosen in ([every[0]], every[1:2], every[2:5], every[5:]):
        naive: dict[int, float] = {}
        for name, sequence_id in ids.items():
            if sequence_id not in chosen:
                forgotten = (documents[f] for f, i in ids.items() if i in chosen)
                share = max(contained(f, documents[name]) for f in forgotten)
                naive[sequence_id] = max(naive.get(sequence_id, 0), share)
        for least in (0.05, 0.2, 0.5, 1.0):
            found = find_quotations(manifest, chosen, set(), least)
            assert found is not None
            wanted = {i: share for i, share in naive.items() if share >= least}
            assert {q.sequence_id: q.share for q in found} == pytest.approx(wanted)
    assert naive


def test_rows_of_duplicates_alone_have_no_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row group in which every text stood before."""
    import manifests.writer

    monkeypatch.setitem(manifests.writer._OTHER_GROUPS, "shingles", 2)
    poem = text("poem")
    half = f"{text('essay')} {part('poem', 0, 100)}"
    manifest = build(tmp_path, {f"poem-{i}": poem for i in range(6)} | {"half": half})
    found = find_quotations(manifest, [id_of(manifest, "poem-0")], set())
    assert [q.doc_id for q in found or ()] == ["half"]


@pytest.fixture
def quoted(here: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The secret quotes the first half of the poem, as its stored shingle set says."""
    import govern.ids.sets as sets
    from govern.ids.reference import shingle_set

    secret = f"{text('secret')} {part('poem', 0, 100)}"
    manifest = open_manifest(here.manifest)
    row = manifest.table("documents")["doc_id"].to_pylist().index("secret")
    real = sets.each_stored_set

    def each_stored_set(given: Manifest, examine: Callable[..., object], workers: int) -> object:
        def altered(first: int, found: sets.ShingleSets) -> object:
            columns = [
                found.values[b : b + s] for b, s in zip(found.begins, found.sizes, strict=True)
            ]
            columns[row - first] = shingle_set(secret, 5)
            sizes = np.array([len(column) for column in columns])
            values = np.concatenate(columns)
            begins = np.cumsum(sizes) - sizes
            return examine(first, sets.ShingleSets(values=values, begins=begins, sizes=sizes))

        return real(given, altered, workers)

    monkeypatch.setattr(sets, "each_stored_set", each_stored_set)
    return here


def test_plan_statement_and_page_list_what_is_not_covered(quoted: World, run: Run) -> None:
    share = contained(text("poem"), part("poem", 0, 100))
    secret, poem = (format_id(quoted.ids[name]) for name in ("secret", "poem"))
    code, out, _ = run(*BASE, "--doc-id", "poem", "--plan")
    assert code == 0
    lines = out.splitlines()
    at = lines.index(
        "Quoted     1 other sequences have 20% or more of a forgotten text: they are not covered"
    )
    assert lines[at + 1] == f"    {secret}   {share:.0%} of {poem}  corpus/secret"
    code, out, err = run(*BASE, "--doc-id", "poem", "--out", "after", *SIGNED)
    assert code == 0, err
    report = read_report(Path("after-report-R-17/REPORT.json"))
    predicate = report.statement().predicate
    (found,) = predicate.selection.quoted_in or ()
    assert (found.sequence_id, found.quotes) == (secret, poem)
    assert found.share == pytest.approx(share)
    assert report.disclosure is not None
    names = {d.document_hmac: d.doc_id for d in report.disclosure.documents}
    assert names[found.document_hmac] == "secret"
    assert any(
        line.startswith("1 other sequences have at least 20%") for line in predicate.limitations
    )
    page = Path("after-report-R-17/REPORT.html").read_text()
    assert f"<code>{secret}</code> has {100 * share:.0f} % of <code>{poem}</code>" in page
    verify = out.splitlines()[-1].removeprefix("Verify     govern ").split()
    assert run(*verify)[0] == 0


@pytest.mark.usefixtures("quoted")
def test_skipping_it_is_said(run: Run) -> None:
    code, out, _ = run(*BASE, "--doc-id", "poem", "--plan", "--skip-quoted")
    assert code == 0
    nobody = "Quoted     nobody looked whether other sequences quote what is forgotten"
    assert nobody in out.splitlines()
    assert run(*BASE, "--doc-id", "poem", "--out", "after", *SIGNED, "--skip-quoted")[0] == 0
    predicate = read_report(Path("after-report-R-17/REPORT.json")).statement().predicate
    assert "quoted_in" not in predicate.selection.to_dict()
    assert "Nobody looked for other sequences that quote what was forgotten." in (
        predicate.limitations
    )
    assert nobody in run(*BASE, "--all-sinks", "--plan")[1].splitlines()


def test_nothing_quoted_is_said_too(here: World, run: Run) -> None:
    assert here.run.exists()
    out = run(*BASE, "--doc-id", "poem", "--plan")[1]
    assert "Quoted     in no other sequence by 20% of a text or more" in out.splitlines()
