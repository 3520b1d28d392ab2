"""Builds: planted families, independence of order, faults, and an independent exact checker."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import edited, planted, prose, tree_bytes, write_jsonl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from govern.ids import lsh, reference
from govern.ids.assign import check_distinct, reserved
from govern.ids.cluster import cluster
from govern.ids.corpus import ReadOptions
from govern.ids.pipeline import BuildConfig, BuildReport, build_ids
from govern.ids.verify import Links
from manifests import open_manifest
from manifests.checks import check_manifest
from manifests.errors import InputError, LockedError, ManifestError
from manifests.files import writer_lock
from manifests.sequence_id import derive

NEAR = ReadOptions(source="s", keep=("owner",))


def build(
    path: Path, out: Path, *, threshold: float = 0.7, workers: int = 2, **read: Any
) -> BuildReport:
    options = ReadOptions(**{"source": "s", **read})
    return build_ids([path], out, BuildConfig(read=options, threshold=threshold, workers=workers))


def ids_of(out: Path) -> dict[str, int]:
    rows = open_manifest(out).table("documents")
    return dict(zip(rows["doc_id"].to_pylist(), rows["sequence_id"].to_pylist(), strict=True))


def test_planted_families_share_an_id_and_nothing_else_does(tmp_path: Path) -> None:
    records = planted()
    report = build(write_jsonl(tmp_path / "a.jsonl", records), tmp_path / "m", keep=("owner",))
    families = defaultdict(set)
    for doc_id, sequence_id in ids_of(tmp_path / "m").items():
        families[sequence_id].add(doc_id)
    expected = defaultdict(set)
    for record in records:
        name = record["id"].split("-")[0]
        expected[name].add(record["id"])
    assert sorted(map(sorted, families.values())) == sorted(map(sorted, expected.values()))
    assert report.records == report.documents == len(records)
    assert report.sequences == len(expected)
    assert all(check.passed for check in check_manifest(tmp_path / "m"))


def test_ids_come_from_the_smallest_content_hash(tmp_path: Path) -> None:
    texts = {"a": "One two THREE four five six", "b": "one two three four five six!"}
    texts["c"] = prose(3)
    build(
        write_jsonl(tmp_path / "a.jsonl", [{"id": i, "text": t} for i, t in texts.items()]),
        tmp_path / "m",
    )
    found = ids_of(tmp_path / "m")
    hashes = {
        i: hashlib.sha256(reference.normalised(t).encode()).digest() for i, t in texts.items()
    }
    assert found["a"] == found["b"] == derive(hashes["a"])
    assert found["c"] == derive(hashes["c"])


def test_ids_and_evidence_do_not_depend_on_file_order(tmp_path: Path) -> None:
    records = planted()
    build(write_jsonl(tmp_path / "a.jsonl", records), tmp_path / "m")
    random.Random(5).shuffle(records)
    build(write_jsonl(tmp_path / "b.jsonl", records), tmp_path / "n")
    assert ids_of(tmp_path / "m") == ids_of(tmp_path / "n")
    for table in ("links", "sequences", "signatures"):
        assert open_manifest(tmp_path / "m").table(table) == open_manifest(tmp_path / "n").table(
            table
        )


def exact(records: list[dict[str, Any]]) -> dict[str, set[str]]:
    return {record["id"]: set(reference.shingles(record["text"], 5)) for record in records}


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 12), st.integers(0, 3)), min_size=1, max_size=24
    ),
    st.sampled_from([0.5, 0.7, 0.85]),
)
def test_an_independent_checker_agrees(
    tmp_path_factory: pytest.TempPathFactory, spec: list[tuple[int, int, int]], threshold: float
) -> None:
    tmp_path = tmp_path_factory.mktemp("build")
    records = [
        {
            "id": str(i),
            "text": edited(prose(base, 60), edits, variant) if edits else prose(base, 60),
        }
        for i, (base, edits, variant) in enumerate(spec)
    ]
    build(write_jsonl(tmp_path / "a.jsonl", records), tmp_path / "m", threshold=threshold)
    manifest = open_manifest(tmp_path / "m")
    shingles = exact(records)
    for link in manifest.table("links").to_pylist():
        value = reference.jaccard(shingles[link["doc_id_a"]], shingles[link["doc_id_b"]])
        assert link["jaccard"] == value >= threshold
    documents = manifest.table("documents").to_pylist()
    representative = {d["sequence_id"]: d["doc_id"] for d in documents if d["is_representative"]}
    for document in documents:
        value = reference.jaccard(
            shingles[document["doc_id"]], shingles[representative[document["sequence_id"]]]
        )
        assert document["similarity"] == np.float32(value)
        assert value >= threshold
    # Documents with one normalised text are never told apart.
    for one in documents:
        for other in documents:
            if shingles[one["doc_id"]] == shingles[other["doc_id"]]:
                assert one["sequence_id"] == other["sequence_id"]
    assert [check.name for check in check_manifest(tmp_path / "m") if not check.passed] == []


def test_recall_of_pairs(tmp_path: Path) -> None:
    records = [
        {"id": f"{base}-{edits}", "text": edited(prose(base, 200), edits, edits)}
        for base in range(60)
        for edits in range(0, 9, 2)
    ]
    shingles = exact(records)
    build(write_jsonl(tmp_path / "a.jsonl", records), tmp_path / "m")
    links = open_manifest(tmp_path / "m").table("links").to_pylist()
    found = {frozenset((link["doc_id_a"], link["doc_id_b"])) for link in links}
    names = list(shingles)
    truth = {
        frozenset((a, b))
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        if a.split("-")[0] == b.split("-")[0] and reference.jaccard(shingles[a], shingles[b]) >= 0.7
    }
    assert found <= truth
    assert len(truth) > 200
    assert len(found) >= 0.995 * len(truth)


def test_a_chain_is_cut_so_that_members_resemble_their_representative() -> None:
    a = np.arange(0, 9, dtype=np.int64)
    chain = Links(a=a, b=a + 1, jaccard=np.full(9, 0.75))
    found = cluster(10, chain)
    assert found.representative.tolist() == [0, 0, 2, 2, 4, 4, 6, 6, 8, 8]
    assert found.similarity.tolist() == [1.0, 0.75] * 5


@settings(max_examples=200, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 15), st.integers(0, 15)).filter(lambda p: p[0] < p[1])))
def test_clusters_obey_their_laws(edges: set[tuple[int, int]]) -> None:
    ordered = sorted(edges)
    a = np.array([edge[0] for edge in ordered], dtype=np.int64)
    b = np.array([edge[1] for edge in ordered], dtype=np.int64)
    found = cluster(16, Links(a=a, b=b, jaccard=np.full(len(a), 0.8))).representative.tolist()
    for text, representative in enumerate(found):
        assert found[representative] == representative <= text
        assert representative == text or (representative, text) in edges
        # A text that founds a cluster fits no earlier founder.
        if representative == text:
            assert not any((other, text) in edges for other in set(found) if other < text)


def test_a_bucket_of_thousands_does_not_blow_up() -> None:
    keys = np.zeros(5000, dtype=np.uint64)
    pairs = lsh.pairs_of_band(keys, np.arange(5000)[::-1])
    first, second = lsh.split_pairs(pairs)
    assert len(pairs) == lsh.PIVOTS * 5000 - lsh.PIVOTS * (lsh.PIVOTS + 1) // 2
    assert set(first.tolist()) == set(range(lsh.PIVOTS))
    assert (first < second).all()
    small = lsh.pairs_of_band(np.zeros(lsh.BUCKET_CAP, dtype=np.uint64), np.arange(lsh.BUCKET_CAP))
    assert len(small) == lsh.BUCKET_CAP * (lsh.BUCKET_CAP - 1) // 2


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 40), max_size=30), min_size=1, max_size=5), st.integers(1, 50)
)
def test_pairs_are_merged_in_pieces(runs: list[list[int]], held: int) -> None:
    arrays = [np.array(sorted(r), dtype=np.uint64) for r in runs]
    pieces = list(lsh.merge_pairs(arrays, held))
    with ThreadPoolExecutor(2) as pool:
        ahead = list(lsh.merge_pairs(arrays, held, pool))
    assert [piece.tolist() for piece in pieces] == [piece.tolist() for piece in ahead]
    assert np.concatenate([*pieces, []]).tolist() == sorted({pair for run in runs for pair in run})
    assert all(len(piece) for piece in pieces)


def test_a_family_beyond_the_bucket_cap_stays_one(tmp_path: Path) -> None:
    base = prose(1, 400)
    records = [{"id": str(k), "text": edited(base, 1, k)} for k in range(3 * lsh.BUCKET_CAP)]
    report = build(write_jsonl(tmp_path / "a.jsonl", records), tmp_path / "m")
    assert report.sequences == 1


def test_reserve_takes_whole_sequences_and_grows() -> None:
    ids = np.random.default_rng(0).integers(1, 2**62, 4000)
    small, large = reserved(ids, 0.05), reserved(ids, 0.2)
    assert 120 < small.sum() < 280
    assert (large | small).tolist() == large.tolist()
    assert not reserved(ids, 0.0).any()


def test_collision_of_ids_stops_the_build() -> None:
    with pytest.raises(ManifestError, match="expected one cluster, found two clusters"):
        check_distinct(np.array([3, 5, 3]))


def test_duplicate_ids_keep_the_same_record_in_any_order(tmp_path: Path) -> None:
    records = [{"id": "x", "text": prose(k)} for k in range(4)]
    kept = set()
    for turn in range(3):
        random.Random(turn).shuffle(records)
        out = tmp_path / f"m{turn}"
        report = build(write_jsonl(tmp_path / f"{turn}.jsonl", records), out)
        assert (report.records, report.documents, report.rejects) == (4, 1, 3)
        kept.add(open_manifest(out).table("documents")["sha256"][0].as_py())
    assert kept == {min(hashlib.sha256(r["text"].encode()).digest() for r in records)}


def test_kept_columns_have_their_own_types(tmp_path: Path) -> None:
    records = [
        {"id": "a", "text": "one text", "year": 1999, "score": 1, "free": True, "tags": ["x"]},
        {"id": "b", "text": "another", "year": None, "score": 0.5, "free": False, "tags": "y"},
    ]
    build(
        write_jsonl(tmp_path / "a.jsonl", records),
        tmp_path / "m",
        keep=("year", "score", "free", "tags", "absent"),
    )
    rows = {r["doc_id"]: r for r in open_manifest(tmp_path / "m").table("documents").to_pylist()}
    picked = {
        k: tuple(rows[k][c] for c in ("year", "score", "free", "tags", "absent")) for k in rows
    }
    assert picked == {"a": (1999, 1.0, True, '["x"]', None), "b": (None, 0.5, False, "y", None)}


@pytest.mark.parametrize(
    ("number", "kind"), [(2**63 - 1, int), (-(2**63), int), (2**63, str), (-(2**63) - 1, str)]
)
def test_a_kept_integer_beyond_64_bits_is_text(
    tmp_path: Path, number: int, kind: type[int | str]
) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", [{"id": "a", "text": "one text", "n": number}])
    build(corpus, tmp_path / "m", keep=("n",))
    assert open_manifest(tmp_path / "m").table("documents")["n"].to_pylist() == [kind(number)]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["nowhere.jsonl"], "input nowhere.jsonl: expected a corpus file"),
        (["empty.jsonl"], "found no records"),
        (["bad.jsonl"], "none usable (most often invalid_json)"),
        (["notes.xyz"], "corpus file notes.xyz: expected a name ending in"),
    ],
)
def test_unusable_input_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "bad.jsonl").write_text("nope\n")
    (tmp_path / "notes.xyz").write_text("nope\n")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError) as caught:
        build_ids(inputs, tmp_path / "m")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_foreign_or_finished_directory_is_refused(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", planted(2, 2))
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.tex").write_text("x")
    with pytest.raises(InputError, match=r"found other files \(chapter.tex"):
        build(corpus, foreign)
    assert [p.name for p in foreign.iterdir()] == ["chapter.tex"]
    build(corpus, tmp_path / "m")
    before = tree_bytes(tmp_path / "m")
    with pytest.raises(InputError, match="found a finished manifest"):
        build(corpus, tmp_path / "m")
    assert tree_bytes(tmp_path / "m") == before


def test_remains_of_a_killed_build_are_swept(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", planted(2, 2))
    build(corpus, tmp_path / "m")
    remains = tmp_path / "n"
    (remains / ".work").mkdir(parents=True)
    (remains / ".work" / "hashes.u64").write_bytes(b"x" * 99)
    (remains / "documents").mkdir()
    (remains / "documents" / "0123456789abcdef.parquet").write_bytes(b"torn")
    (remains / ".manifest.json.x1y2.tmp").write_bytes(b"torn")
    build(corpus, remains)
    assert tree_bytes(tmp_path / "m") == tree_bytes(remains)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", planted(2, 2))
    (tmp_path / "m").mkdir()
    with writer_lock(tmp_path / "m"), pytest.raises(LockedError):
        build(corpus, tmp_path / "m")


def test_a_broken_corpus_is_accounted_for(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(json.dumps(r).encode() + b"\n" for r in planted()))
    (tmp_path / "b.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\nbroken\n{"text": ""}\n')
    report = build_ids([tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"], tmp_path / "m")
    assert report.records == report.documents + report.rejects
    assert report.reject_reasons == {"empty_text": 1, "invalid_json": 1, "truncated_file": 1}
    assert report.documents > 5
    assert all(check.passed for check in check_manifest(tmp_path / "m"))
