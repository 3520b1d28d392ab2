"""Text that was forgotten in one manifest and comes back in another corpus."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from corpora import edited, prose, write_jsonl

from govern.ids.corpus import ReadOptions
from govern.ids.pipeline import BuildConfig, BuildReport, build_ids
from manifests import open_manifest, queries
from manifests.checks import check_manifest
from manifests.errors import ManifestError
from manifests.schema import TOMBSTONES
from manifests.tombstones import add_tombstones


def build(path: Path, out: Path, **config: Any) -> BuildReport:
    return build_ids([path], out, BuildConfig(read=ReadOptions(source="s"), workers=2, **config))


def forget(manifest: Path, doc_ids: Sequence[str], day: int = 1) -> list[int]:
    """Bury the sequences of these documents, as `govern forget` does."""
    opened = open_manifest(manifest)
    ids = queries.sequences_of_documents(opened, ["s"] * len(doc_ids), doc_ids)
    when = datetime.datetime(2026, 1, day, tzinfo=datetime.UTC)
    row = {"signature": b"\1" * 512, "forgotten_at": when, "statement_sha256": bytes(32)}
    rows = [{**row, "sequence_id": i, "request": f"R{day}"} for i in dict.fromkeys(ids)]
    add_tombstones(manifest, pa.Table.from_pylist(rows, schema=TOMBSTONES))
    return ids


def status_of(manifest: Path) -> dict[str, str]:
    rows = queries.run_sql(
        open_manifest(manifest), "SELECT doc_id, status FROM document_sequences ORDER BY 1"
    )
    return dict(zip(rows["doc_id"].to_pylist(), rows["status"].to_pylist(), strict=True))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    # A family, a text alone, and a text that is not forgotten.
    texts = {"a": prose(1), "a2": edited(prose(1), 1, 1), "b": prose(2), "c": prose(3)}
    records = [{"id": i, "text": text} for i, text in texts.items()]
    build(write_jsonl(tmp_path / "old.jsonl", records), tmp_path / "old")
    forget(tmp_path / "old", ["a", "a2"], day=2)
    forget(tmp_path / "old", ["b"], day=1)
    return tmp_path / "old"


def test_forgotten_text_is_recognised_in_another_corpus(tmp_path: Path, old: Path) -> None:
    texts = {
        "copy": prose(1).upper(),
        "near": edited(prose(1), 2, 9),
        "with b": prose(2) + " and more",
        "kept": prose(3),
        "other": prose(4),
    }
    corpus = write_jsonl(
        tmp_path / "new.jsonl", [{"id": i, "text": text} for i, text in texts.items()]
    )
    report = build(corpus, tmp_path / "new", tombstones=(old,))
    assert report.forgotten == 2
    assert status_of(tmp_path / "new") == {
        "copy": "forgotten", "near": "forgotten", "with b": "forgotten",
        "kept": "active", "other": "active",
    }  # fmt: skip
    stones = open_manifest(tmp_path / "new").table("tombstones")
    assert sorted(stones["request"].to_pylist()) == ["R1", "R2"]
    assert [c for c in check_manifest(tmp_path / "new") if not c.passed] == []


def test_nothing_is_forgotten_where_nothing_was(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", [{"id": "a", "text": prose(1)}])
    build(corpus, tmp_path / "m")
    report = build(corpus, tmp_path / "n", tombstones=(tmp_path / "m",))
    assert report.forgotten == 0
    assert report.digest == open_manifest(tmp_path / "m").digest


def test_manifests_by_other_rules_are_refused(tmp_path: Path, old: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", [{"id": "a", "text": prose(1)}])
    with pytest.raises(ManifestError, match=r"expected ngram 4, .* found ngram 5"):
        build(corpus, tmp_path / "n", ngram=4, tombstones=(old,))
    assert not (tmp_path / "n").exists()
