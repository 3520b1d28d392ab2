"""Texts of a manifest: every document once, verified, wherever the corpus is now."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from corpora import planted, prose, write_jsonl

from govern.ids.corpus import ReadOptions
from govern.ids.pipeline import BuildConfig, build_ids
from govern.ids.search import find_text, rows_like, rows_near, sketch_for
from govern.ids.texts import read_texts
from manifests import Manifest, open_manifest
from manifests.errors import InputError


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    records = [*planted(), {"id": "f1-0", "text": "taken ID"}, {"id": "empty", "text": " "}]
    return write_jsonl(tmp_path / "a.jsonl", records)


@pytest.fixture
def manifest(tmp_path: Path, corpus: Path) -> Manifest:
    # Small batches, so that matching crosses their borders.
    build_ids([corpus], tmp_path / "m", BuildConfig(read=ReadOptions(batch_rows=7)))
    return open_manifest(tmp_path / "m")


def texts(manifest: Manifest, inputs: list[Path] | None = None) -> dict[tuple[str, str], str]:
    rows = [row for batch in read_texts(manifest, inputs) for row in batch.to_pylist()]
    found = {(row["source"], row["doc_id"]): row["text"] for row in rows}
    assert len(found) == len(rows), "every document comes once"
    return found


def test_every_document_with_its_text(manifest: Manifest) -> None:
    expected = {("a", r["id"]): r["text"] for r in planted()}
    found = texts(manifest)
    chosen = found.pop(("a", "f1-0"))
    assert chosen in ("taken ID", expected.pop(("a", "f1-0")))
    assert found == expected


def test_the_corpus_may_move_and_be_resharded(
    manifest: Manifest, corpus: Path, tmp_path: Path
) -> None:
    before = texts(manifest)
    lines = corpus.read_bytes().splitlines(keepends=True)
    corpus.unlink()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (moved / "x.jsonl.gz").write_bytes(gzip.compress(b"".join(lines[1::2])))
    (moved / "y.jsonl").write_bytes(b"".join(lines[::2]))
    assert texts(manifest, [moved]) == before


def test_a_changed_or_missing_document_is_named(manifest: Manifest, corpus: Path) -> None:
    records = [json.loads(line) for line in corpus.read_text().splitlines()]
    changed = [{**r, "text": r["text"] + " more"} if r["id"] == "s3" else r for r in records]
    write_jsonl(corpus, changed)
    with pytest.raises(InputError, match=r"document s3 of source a: .* found a changed text"):
        texts(manifest)
    write_jsonl(corpus, [r for r in records if r["id"] not in ("s3", "s4")])
    with pytest.raises(InputError, match=r"\(and 1 more documents\): .* found no such text"):
        texts(manifest)
    corpus.unlink()
    with pytest.raises(InputError, match="nothing there"):
        texts(manifest)


def test_find_text(manifest: Manifest) -> None:
    documents = manifest.table("documents").to_pylist()
    sequence_of = {d["doc_id"]: d["sequence_id"] for d in documents}
    same = find_text(manifest, prose(1004).encode())
    assert [(f.sequence_id, f.exact, f.similarity) for f in same] == [
        (sequence_of["s4"], True, 1.0)
    ]
    near = find_text(manifest, (prose(1005) + " and more").encode())
    assert [(f.sequence_id, f.exact) for f in near] == [(sequence_of["s5"], False)]
    assert 0.8 < near[0].similarity < 1
    assert find_text(manifest, prose(77_777).encode()) == []
    with pytest.raises(InputError, match="expected text in UTF-8"):
        find_text(manifest, b"\xff")
    with pytest.raises(InputError, match="nothing but white space"):
        find_text(manifest, b" \n")


def test_near_rows_are_those_rows_that_share_a_band(manifest: Manifest) -> None:
    """Against all signatures cut into bands; far below the threshold some are missed."""
    rows = int(manifest.parameters["rows"])
    stored = [
        np.frombuffer(s, "<u4") for s in manifest.table("signatures")["signature"].to_pylist()
    ]
    missed = 0
    for document in range(1000, 1012):
        sketched = sketch_for(manifest, f"{prose(document)} and more {prose(document + 1)[:90]}")
        own = sketched.signatures[0].reshape(-1, rows)
        for least in (0.05, 0.7):
            alike, estimates = rows_like(manifest, sketched, least)
            shares = [bool((stored[r].reshape(-1, rows) == own).all(axis=1).any()) for r in alike]
            missed += len(shares) - sum(shares)
            near, close = rows_near(manifest, sketched, least)
            assert near.tolist() == alike[shares].tolist()
            assert close.tolist() == estimates[shares].tolist()
    assert missed
