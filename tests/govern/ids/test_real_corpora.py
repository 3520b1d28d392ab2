"""Real corpora with known near-duplicates; skipped where they are absent."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from govern.ids import reference
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
def test_licences_against_brute_force(tmp_path: Path) -> None:
    source = folder("scancode_licenses")
    records = records_of(source / "licenses.jsonl.zst")
    build_ids([source / "licenses.jsonl.zst"], tmp_path / "m")
    manifest = open_manifest(tmp_path / "m")
    shingles = {r["id"]: set(reference.shingles(r["text"], 5)) for r in records}
    # Exact copies are linked to one of them, so pairs are looked up between distinct texts.
    text_of = {r["id"]: reference.normalised(r["text"]) for r in records}
    found = set()
    for link in manifest.table("links").to_pylist():
        a, b = link["doc_id_a"], link["doc_id_b"]
        assert link["jaccard"] == reference.jaccard(shingles[a], shingles[b]) >= 0.7
        found.add(frozenset((text_of[a], text_of[b])))
    truth = rows_of(source / "exact_jaccard_pairs_ge0.5_licenses.tsv")
    for least, recall in ((0.8, 0.995), (0.7, 0.98)):
        # That file splits words by another rule (\w+), so the similarity is ours.
        pairs = [(p["id_a"], p["id_b"]) for p in truth]
        pairs = [p for p in pairs if reference.jaccard(*(shingles[i] for i in p)) >= least]
        assert len(pairs) > 500
        hits = sum(len({text_of[a], text_of[b]}) == 1
                   or frozenset((text_of[a], text_of[b])) in found for a, b in pairs)  # fmt: skip
        assert hits >= recall * len(pairs)
    documents = manifest.table("documents").to_pylist()
    representative = {d["sequence_id"]: d["doc_id"] for d in documents if d["is_representative"]}
    for d in documents:
        other = shingles[representative[d["sequence_id"]]]
        assert reference.jaccard(shingles[d["doc_id"]], other) >= 0.7
