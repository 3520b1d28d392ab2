"""Real corpora with known near-duplicates; skipped where they are absent."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exact
import numpy as np
import pytest
import zstandard

from govern.ids.corpus import ReadOptions
from govern.ids.pipeline import BuildConfig, build_ids
from govern.ids.texts import read_texts
from manifests import Manifest, open_manifest
from manifests.checks import check_manifest

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"


def folder(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"the corpus {name} is not here (../shared/data)")
    return DATA / name


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def records_of(path: Path) -> list[dict[str, Any]]:
    data = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
    return [json.loads(line) for line in data.split(b"\n") if line]


@pytest.fixture(scope="module")
def linux(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    out = tmp_path_factory.mktemp("linux") / "m"
    options = ReadOptions(keep=("version", "path"))
    build_ids([f"{folder('linux_docs')}/*.zst"], out, BuildConfig(read=options))
    return open_manifest(out)


def test_linux_every_record_is_accounted_for(linux: Manifest) -> None:
    files = sorted(folder("linux_docs").glob("*.zst"))
    (snapshot,) = linux.snapshots
    assert snapshot.records == sum(len(records_of(path)) for path in files)
    assert snapshot.records == snapshot.documents + snapshot.rejects
    assert [check for check in check_manifest(linux.path) if not check.passed] == []
    assert sum(batch.num_rows for batch in read_texts(linux)) == snapshot.documents


def test_linux_same_path_pairs_share_their_id(linux: Manifest) -> None:
    table = linux.table("documents", ["doc_id", "sequence_id"])
    found = dict(zip(table["doc_id"].to_pylist(), table["sequence_id"].to_pylist(), strict=True))
    pairs = rows_of(folder("linux_docs") / "pairs_same_path.tsv")
    same = {p["path"]: found[f"6.1:{p['path']}"] == found[f"6.12:{p['path']}"] for p in pairs}
    near = [same[p["path"]] for p in pairs if float(p["jaccard_word5"]) >= 0.8]
    identical = [same[p["path"]] for p in pairs if p["identical"] == "1"]
    assert len(near) > 2000
    assert sum(near) >= 0.99 * len(near)
    assert all(identical)


def test_linux_ids_do_not_depend_on_file_order(linux: Manifest, tmp_path: Path) -> None:
    # Named so that the newer tree is read first.
    for name, order in (("6.12", "1"), ("6.1", "2")):
        original = folder("linux_docs") / f"linux_doc_{name}.jsonl.zst"
        (tmp_path / f"{order}.jsonl.zst").symlink_to(original)
    build_ids([tmp_path / "1.jsonl.zst", tmp_path / "2.jsonl.zst"], tmp_path / "m")
    other = open_manifest(tmp_path / "m").table("documents", ["doc_id", "sequence_id"])
    first = linux.table("documents", ["doc_id", "sequence_id"])
    ids = {row["doc_id"]: row["sequence_id"] for row in first.to_pylist()}
    assert all(ids[row["doc_id"]] == row["sequence_id"] for row in other.to_pylist())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("corpus", "pattern"),
    [("scancode_licenses", "licenses.jsonl.zst"), ("linux_docs", "*.jsonl.zst")],
)
def test_against_brute_force(
    tmp_path: Path, record_property: Callable[[str, object], None], corpus: str, pattern: str
) -> None:
    files = sorted(folder(corpus).glob(pattern))
    records = [record for path in files for record in records_of(path)]
    build_ids(files, tmp_path / "m")
    manifest = open_manifest(tmp_path / "m")
    documents = {d["doc_id"]: d for d in documents_of(manifest)}
    names = sorted(documents)
    texts = {r["id"]: r["text"] for r in records}
    sets = [exact.shingles(texts[name]) for name in names]
    shingles = dict(zip(names, sets, strict=True))

    links = manifest.table("links").to_pylist()
    for link in links:
        value = exact.jaccard(shingles[link["doc_id_a"]], shingles[link["doc_id_b"]])
        assert link["jaccard"] == value >= 0.7
    representative = {
        d["sequence_id"]: d["doc_id"] for d in documents.values() if d["is_representative"]
    }
    for name, d in documents.items():
        value = exact.jaccard(shingles[name], shingles[representative[d["sequence_id"]]])
        assert d["similarity"] == np.float32(value)
        assert value >= 0.7

    # Exact copies are linked to one of them, so pairs are looked up between distinct texts.
    text_of = {name: " ".join(exact.words(texts[name])) for name in names}
    found = {frozenset((text_of[li["doc_id_a"]], text_of[li["doc_id_b"]])) for li in links}
    truth = [(names[a], names[b], value) for a, b, value in exact.similar_pairs(sets, 0.7)]
    for least, recall in ((0.8, 0.995), (0.7, 0.98)):
        pairs = [frozenset((text_of[a], text_of[b])) for a, b, value in truth if value >= least]
        hits = sum(len(pair) == 1 or pair in found for pair in pairs)
        record_property(f"pairs at {least}", len(pairs))
        record_property(f"found at {least}", hits)
        assert len(pairs) > 500
        assert hits >= recall * len(pairs)


@pytest.mark.slow
def test_brute_force_agrees_with_the_given_list() -> None:
    """All pairs of licences from 0.5, as somebody else computed them with words of \\w+."""
    source = folder("scancode_licenses")
    records = records_of(source / "licenses.jsonl.zst")
    given = {
        frozenset((p["id_a"], p["id_b"])): float(p["jaccard_word5"])
        for p in rows_of(source / "exact_jaccard_pairs_ge0.5_licenses.tsv")
    }
    pairs = exact.similar_pairs([exact.shingles(r["text"]) for r in records], 0.5)
    ours = {frozenset((records[a]["id"], records[b]["id"])): value for a, b, value in pairs}
    assert len(given.keys() & ours.keys()) >= 0.98 * len(given)
    assert sum(abs(ours[p] - given[p]) < 0.02 for p in given.keys() & ours.keys()) > 4000


def documents_of(manifest: Manifest) -> list[dict[str, Any]]:
    columns = ["doc_id", "sequence_id", "is_representative", "similarity"]
    rows: list[dict[str, Any]] = manifest.table("documents", columns).to_pylist()
    return rows
