"""Forgetting after `ids add`: a document means the ID that it had when the run was trained.

Texts slide along a few long ones, so that an addition joins clusters and moves their members; the
run knows the first snapshot only.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from synthetic_run import MapRow, RunShape, write_run
from trained_world import blocks_by_id, prose, train_tiny, write_corpus

from govern.cli import main
from govern.forget.request import ForgetRequest, Kind
from govern.forget.run_view import RunView, read_run
from govern.forget.selection import Selection, select
from govern.ids.add import AddConfig, add_documents
from govern.ids.corpus import ReadOptions
from govern.ids.pipeline import BuildConfig, build_ids
from manifests import Manifest, open_manifest


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A manifest that moved on since a run was trained on it.

    Attributes:
        base: Holds `manifest`, a synthetic run `run`, and `text/`, the text of each document.
        trained: The ID of each document of the first snapshot, as it was then.
        strayed: Those that have another ID today, which is no alias of it.
        merged: Those whose ID is an alias today.
    """

    base: Path
    trained: Mapping[str, int]
    strayed: tuple[str, ...]
    merged: tuple[str, ...]

    @property
    def manifest(self) -> Manifest:
        return open_manifest(self.base / "manifest")

    @property
    def run(self) -> RunView:
        return read_run(self.base / "run")

    def select(self, kind: Kind, value: str) -> Selection:
        request = ForgetRequest(kind=kind, values=(value,), reference="R-1", reason="test")
        return select(self.manifest, request, self.run)


def windows() -> dict[str, str]:
    """Neighbours along a stream of words are similar, distant ones are not."""
    streams = [prose(f"stream-{k}", 200).split() for k in range(3)]
    places = [(stream, at) for stream in range(3) for at in range(24)]
    random.Random(1).shuffle(places)
    return {
        f"d{number}": " ".join(streams[stream][3 * at : 3 * at + 60])
        for number, (stream, at) in enumerate(places[:45])
    }


def ids_of(manifest: Manifest) -> dict[str, int]:
    rows = manifest.table("documents", ["doc_id", "sequence_id"])
    return dict(zip(rows["doc_id"].to_pylist(), rows["sequence_id"].to_pylist(), strict=True))


def write_synthetic_run(base: Path, manifest: Manifest) -> None:
    """A run that gives every sequence a block of its own."""
    ids = sorted(set(ids_of(manifest).values()))
    rows = [MapRow(sequence_id, "private", (k,)) for k, sequence_id in enumerate(ids)]
    known = {"content_digest": manifest.content_digest(), "snapshot": manifest.snapshot}
    write_run(base / "run", rows, RunShape(blocks=len(rows), manifest=known))


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Moved:
    base = tmp_path_factory.mktemp("moved")
    texts = windows()
    (base / "text").mkdir()
    for name, text in texts.items():
        (base / "text" / name).write_text(text)
    pieces = [write_corpus(base / f"{k}.jsonl", dict(part)) for k, part in enumerate(split(texts))]
    build_ids(
        [pieces[0]], base / "manifest", BuildConfig(read=ReadOptions(source="tiny"), workers=1)
    )
    trained = ids_of(open_manifest(base / "manifest"))
    write_synthetic_run(base, open_manifest(base / "manifest"))
    train_tiny(open_manifest(base / "manifest"), base / "trained")
    for piece in pieces[1:]:
        add_documents([piece], base / "manifest", AddConfig(workers=1))
    manifest = open_manifest(base / "manifest")
    aliases = manifest.table("aliases").to_pylist()
    gone = {row["alias_id"] for row in aliases if row["reason"] == "merged"}
    strayed = {row["doc_id"] for row in aliases if row["reason"] == "reassigned"}
    world = Moved(
        base=base,
        trained=trained,
        strayed=tuple(sorted(strayed & trained.keys())),
        merged=tuple(sorted(name for name in trained if trained[name] in gone)),
    )
    assert manifest.snapshot == 3
    assert world.strayed
    assert world.merged
    return world


def split(texts: Mapping[str, str]) -> list[list[tuple[str, str]]]:
    rows = list(texts.items())
    return [rows[:22], rows[22:34], rows[34:]]


@pytest.mark.parametrize("kind", ["doc-id", "where", "text-file"])
def test_every_document_means_the_id_that_it_was_trained_under(moved: Moved, kind: Kind) -> None:
    for name, trained in moved.trained.items():
        value = {
            "doc-id": name,
            "where": f"doc_id = '{name}'",
            "text-file": str(moved.base / "text" / name),
        }[kind]
        selection = moved.select(kind, value)
        covered = {document.doc_id: document for document in selection.documents}
        assert trained in selection.sequence_ids
        if name not in moved.merged:
            # Aliases do not tell which of two merged IDs it had: both are forgotten.
            assert covered[name].sequence_id == trained
        assert covered[name].how == "requested"
        # The block that the run gave that sequence is among those that a plan would zero.
        assert trained in moved.run.sinks_of(selection.sequence_ids).sequence_ids
        # And whatever else was trained under a forgotten ID is named.
        doomed = {d for d, i in moved.trained.items() if i in selection.sequence_ids}
        assert doomed <= covered.keys()


def test_a_condition_over_all_of_them_means_every_trained_id(moved: Moved) -> None:
    selection = moved.select("where", "snapshot = 1")
    assert set(moved.trained.values()) <= set(selection.sequence_ids)


def test_what_came_later_is_forgotten_with_the_text_that_it_joined(moved: Moved) -> None:
    today = ids_of(moved.manifest)
    joined = {name: i for name, i in today.items() if name not in moved.trained}
    name = next(n for n, i in joined.items() if i in moved.trained.values())
    selection = moved.select("doc-id", name)
    assert today[name] in selection.sequence_ids
    assert moved.run.known(selection.sequence_ids)


@pytest.mark.slow
def test_the_trained_sinks_of_a_document_that_moved_are_zero(
    moved: Moved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = blocks_by_id(moved.base / "trained")
    name = next(n for n in moved.strayed if moved.trained[n] in before)
    main_ends("audit", "keygen", "--out", "keys", code=(0,))
    torch.set_num_threads(1)
    main_ends(
        *("forget", str(moved.base / "trained"), "--manifest", str(moved.base / "manifest")),
        *("--doc-id", name, "--out", "after", "--request", "R-1", "--reason", "test"),
        *("--key", "keys/govern-private.pem"),
        # So small a model forgets a few nats at most: the verdict may fail, the erase may not.
        code=(0, 3),
    )
    after = blocks_by_id(Path("after"))
    assert before[moved.trained[name]].any()
    assert not after[moved.trained[name]].any()
    selected = set(moved.select("doc-id", name).sequence_ids)
    kept = before.keys() - selected
    assert kept
    assert all(torch.equal(before[i], after[i]) for i in kept)


def main_ends(*arguments: str, code: tuple[int, ...]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert int(stop.value.code or 0) in code
