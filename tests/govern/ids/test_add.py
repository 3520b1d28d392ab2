"""Additions: the partition of one build, IDs that stay, nothing lost, nothing changed twice."""

from __future__ import annotations

import hashlib
import itertools
import random
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import edited, planted, prose, tree_bytes, write_jsonl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_forgotten import forget, status_of

from govern import add_documents
from govern.ids import lsh, pipeline, reference
from govern.ids.add import AddConfig, AddReport
from govern.ids.carry import Carried, carry_ids, find_unrest
from govern.ids.corpus import ReadOptions
from govern.ids.pipeline import BuildConfig, build_ids
from govern.ids.texts import read_texts
from manifests import Manifest, compact, open_manifest, queries
from manifests.checks import check_manifest
from manifests.errors import InputError, LockedError, ManifestError
from manifests.files import writer_lock
from manifests.sequence_id import derive
from manifests.writer import set_policy

Records = Sequence[dict[str, Any]]


def build(path: Path, records: Records, **config: Any) -> Path:
    corpus = write_jsonl(path.with_suffix(".jsonl"), records)
    read = ReadOptions(source="s", keep=("owner",))
    build_ids([corpus], path, BuildConfig(read=read, workers=2, **config))
    return path


def add(manifest: Path, records: Records, name: str = "more", **config: Any) -> AddReport:
    corpus = write_jsonl(manifest.parent / f"{manifest.name}-{name}.jsonl", records)
    return add_documents([corpus], manifest, AddConfig(workers=2, **config))


def windows(spec: Sequence[tuple[int, int]]) -> Records:
    """Texts that slide along a few long ones: neighbours are similar, distant ones are not."""
    streams = [prose(k, 200).split() for k in range(3)]
    return [
        {"id": f"d{i}", "text": " ".join(streams[base][3 * at : 3 * at + 60]), "owner": str(base)}
        for i, (base, at) in enumerate(spec)
    ]


def sequences(manifest: Manifest) -> dict[str, int]:
    rows = manifest.table("documents", ["doc_id", "sequence_id"])
    return dict(zip(rows["doc_id"].to_pylist(), rows["sequence_id"].to_pylist(), strict=True))


def sequence_rows(manifest: Manifest) -> dict[int, dict[str, Any]]:
    return {row["sequence_id"]: row for row in manifest.table("sequences").to_pylist()}


def partition(manifest: Manifest) -> set[frozenset[str]]:
    members = defaultdict(set)
    for doc_id, sequence_id in sequences(manifest).items():
        members[sequence_id].add(doc_id)
    return {frozenset(ids) for ids in members.values()}


def text_links(manifest: Manifest) -> set[tuple[bytes, bytes, float]]:
    """Verified pairs, by the contents of the two texts: what does not depend on history."""
    rows = manifest.table("shingles", ["text", "content"])
    content = dict(zip(rows["text"].to_pylist(), rows["content"].to_pylist(), strict=True))
    links = manifest.table("links", ["text_a", "text_b", "jaccard"]).drop_null()
    columns = (links[name].to_pylist() for name in links.column_names)
    return {(content[a], content[b], j) for a, b, j in zip(*columns, strict=True)}


def require_sound(path: Path) -> Manifest:
    assert [check for check in check_manifest(path) if not check.passed] == []
    return open_manifest(path)


CORPORA = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20)), min_size=2, max_size=26)


SPLITS = given(CORPORA, st.data(), st.sampled_from([(128, 16), (3, 1), (4, 2)]))


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@SPLITS
def test_any_split_gives_the_partition_of_one_build(
    tmp_path_factory: pytest.TempPathFactory,
    spec: list[tuple[int, int]],
    data: st.DataObject,
    rule: tuple[int, int],
) -> None:
    require_one_partition(tmp_path_factory.mktemp("split"), spec, data, rule)


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@SPLITS
def test_many_splits_give_the_partition_of_one_build(
    tmp_path_factory: pytest.TempPathFactory,
    spec: list[tuple[int, int]],
    data: st.DataObject,
    rule: tuple[int, int],
) -> None:
    require_one_partition(tmp_path_factory.mktemp("split"), spec, data, rule)


def require_one_partition(
    tmp_path: Path, spec: list[tuple[int, int]], data: st.DataObject, rule: tuple[int, int]
) -> None:
    """Building in parts, cut anywhere, gives what one build gives."""
    records = windows(spec)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(records) - 1), max_size=3)))
    with pytest.MonkeyPatch.context() as patched:
        # Small buckets, so that the pairs that an addition takes away are among those tested.
        for module in (lsh, pipeline):
            patched.setattr(module, "BUCKET_CAP", rule[0])
            patched.setattr(module, "PIVOTS", rule[1])
        whole = open_manifest(build(tmp_path / "whole", records))
        bounds = [0, *cuts, len(records)]
        parts = [records[a:b] for a, b in itertools.pairwise(bounds)]
        build(tmp_path / "grown", parts[0])
        history = [sequences(open_manifest(tmp_path / "grown"))]
        for turn, part in enumerate(parts[1:]):
            add(tmp_path / "grown", part, str(turn))
            grown = require_sound(tmp_path / "grown")
            history.append(sequences(grown))
    grown = open_manifest(tmp_path / "grown")
    assert partition(grown) == partition(whole)
    assert text_links(grown) == text_links(whole)
    assert {r["doc_id"]: r["similarity"] for r in grown.table("documents").to_pylist()} == {
        r["doc_id"]: r["similarity"] for r in whole.table("documents").to_pylist()
    }
    require_traced(grown, history)


def require_traced(manifest: Manifest, history: Sequence[dict[str, int]]) -> None:
    """Every ID that a document ever had leads to the ID that it has now."""
    today = history[-1]
    aliases = manifest.table("aliases").to_pylist()
    for snapshot, then in enumerate(history, start=1):
        for doc_id, old in then.items():
            first_move = next(
                (a["alias_id"] for a in aliases
                 if a["doc_id"] == doc_id and a["snapshot"] > snapshot), today[doc_id],
            )  # fmt: skip
            (now,) = queries.resolve(manifest, [old]).values()
            assert [now] == list(queries.resolve(manifest, [first_move]).values())
            assert doc_id in queries.documents_of(manifest, [old])["doc_id"].to_pylist()


def test_what_an_addition_reports(tmp_path: Path) -> None:
    base, other = prose(1), prose(2)
    build(tmp_path / "m", [{"id": "a", "text": base}, {"id": "b", "text": other}])
    report = add(
        tmp_path / "m",
        [
            {"id": "a", "text": base},  # there already
            {"id": "a2", "text": base.upper()},  # an exact copy
            {"id": "b2", "text": edited(other, 1, 1)},  # a near-duplicate
            {"id": "c", "text": prose(3)},
            {"id": "c", "text": prose(4)},  # a second record under one ID
            {"id": "d", "text": " "},
        ],
    )
    assert (report.records, report.documents, report.already_there) == (6, 3, 1)
    assert report.reject_reasons == {"duplicate_id": 1, "empty_text": 1}
    assert (report.new_sequences, report.joined, report.merged, report.reassigned) == (1, 2, 0, 0)
    assert report.repeated_shared == 2
    manifest = require_sound(tmp_path / "m")
    assert manifest.snapshot == report.snapshot == 2
    assert report.digest == manifest.digest
    by_doc = {row["doc_id"]: row for row in manifest.table("documents").to_pylist()}
    assert by_doc["a"]["sequence_id"] == by_doc["a2"]["sequence_id"]
    assert by_doc["b"]["sequence_id"] == by_doc["b2"]["sequence_id"]
    assert {doc_id: row["snapshot"] for doc_id, row in by_doc.items()} == {
        "a": 1, "b": 1, "a2": 2, "b2": 2, "c": 2,
    }  # fmt: skip
    assert sum(batch.num_rows for batch in read_texts(manifest)) == 5


def test_ids_and_old_content_digests_stay(tmp_path: Path) -> None:
    records = planted()
    random.Random(3).shuffle(records)
    build(tmp_path / "m", records[:30])
    before = open_manifest(tmp_path / "m")
    old = sequences(before)
    add(tmp_path / "m", records[30:])
    after = require_sound(tmp_path / "m")
    assert after.content_digest(1) == before.content_digest()
    assert after.content_digest(2) != before.content_digest()
    new = sequences(after)
    # Families of planted() do not chain, so nothing may move.
    assert {doc_id: new[doc_id] for doc_id in old} == old
    whole = open_manifest(build(tmp_path / "whole", records))
    assert partition(after) == partition(whole)


def smallest_between(ends: Records) -> dict[str, Any]:
    """A text similar to both of `windows([(0, 0), (0, 5)])`, with the smallest content hash."""
    bound = min(content_hash(end["text"]) for end in ends)
    words = windows([(0, 2)])[0]["text"]
    texts = (f"{words} {salt}" for salt in itertools.count())
    return {"id": "middle", "text": next(t for t in texts if content_hash(t) < bound)}


def content_hash(text: str) -> bytes:
    return hashlib.sha256(reference.normalised(text).encode()).digest()


def test_a_text_between_two_sequences_merges_them(tmp_path: Path) -> None:
    ends = windows([(0, 0), (0, 5)])
    build(tmp_path / "m", ends)
    set_policy(tmp_path / "m", "doc_id = 'd0'", "strict")
    before = sequences(open_manifest(tmp_path / "m"))
    assert before["d0"] != before["d1"]
    report = add(tmp_path / "m", [smallest_between(ends)])
    assert (report.merged, report.joined, report.new_sequences) == (1, 1, 0)
    manifest = require_sound(tmp_path / "m")
    (alias,) = manifest.table("aliases").to_pylist()
    kept = sequences(manifest)["middle"]
    assert alias["reason"] == "merged"
    assert {alias["alias_id"], kept} == {before["d0"], before["d1"]}
    # The strictest policy of both, whichever ID stayed.
    (sequence,) = queries.sequences_of(manifest, [alias["alias_id"]]).to_pylist()
    assert (sequence["sequence_id"], sequence["policy"]) == (kept, "strict")
    assert (sequence["n_docs"], sequence["first_snapshot"]) == (3, 1)


def carried(
    old_ids: Sequence[int], representative: Sequence[int], rank: Sequence[int],
    content: np.ndarray, since: dict[int, int], aliases: Sequence[int] = (),
) -> Carried:  # fmt: skip
    old, heads = np.array(old_ids), np.array(representative)
    return carry_ids(
        old, heads, np.array(rank), content, since, find_unrest(old, heads),
        np.array(sorted(aliases), dtype=np.int64),
    )  # fmt: skip


def test_an_id_that_became_an_alias_is_not_given_again() -> None:
    content = np.arange(16, dtype=np.uint64).reshape(4, 4)
    one, other = (derive(content[text].astype(">u8").tobytes()) for text in (0, 1))
    both = carried([one, other, 0], [2, 2, 2], [1, 2, 0], content[:3], {one: 1, other: 1})
    assert both.sequence_ids.tolist() == [one] * 3
    assert both.merged == {other: one}
    # Now text 1 leaves again: its ID is an alias, so it gets another.
    apart = carried([one, one, one, 0], [0, 1, 0, 1], [1, 2, 0, 3], content, {one: 1}, [other])
    assert apart.sequence_ids[[0, 2]].tolist() == [one] * 2
    assert apart.sequence_ids[1] == apart.sequence_ids[3]
    assert apart.sequence_ids[1] not in (one, other)
    assert apart.founded.tolist() == [apart.sequence_ids[1]]


def test_repeating_an_addition_changes_nothing(tmp_path: Path) -> None:
    records = planted()
    build(tmp_path / "m", records[:40])
    add(tmp_path / "m", [*records[30:], {"id": "x", "text": ""}])
    before = tree_bytes(tmp_path / "m")
    report = add(tmp_path / "m", [*records[30:], {"id": "x", "text": ""}])
    assert (report.documents, report.already_there) == (0, len(records) - 30)
    assert report.snapshot == 2
    assert tree_bytes(tmp_path / "m") == before


@pytest.mark.parametrize("workers", [1, 2])
def test_bytes_do_not_depend_on_threads_or_shards(tmp_path: Path, workers: int) -> None:
    records = planted()
    build(tmp_path / "m0", records[::2], reserve=0.2)
    shutil.copytree(tmp_path / "m0", tmp_path / "m1")
    shards = [
        write_jsonl(tmp_path / f"{shard}.jsonl", records[1::2][shard::2]) for shard in range(2)
    ]
    add_documents(shards, tmp_path / "m0", AddConfig(source="s", workers=2))
    add_documents(shards[::-1], tmp_path / "m1", AddConfig(source="s", workers=workers))
    assert tree_bytes(tmp_path / "m0") == tree_bytes(tmp_path / "m1")


def test_changed_content_under_one_id_is_refused(tmp_path: Path) -> None:
    build(tmp_path / "m", planted())
    before = tree_bytes(tmp_path / "m")
    with pytest.raises(InputError) as caught:
        add(tmp_path / "m", [{"id": "s3", "text": "a new version"}, {"id": "n", "text": "new"}])
    assert str(caught.value) == (
        f"document s3 of source s: expected the text that manifest {tmp_path / 'm'} has under this "
        "source and ID, found another text; give the new version another ID or --source, or build "
        "the manifest anew"
    )
    assert tree_bytes(tmp_path / "m") == before
    report = add(tmp_path / "m", [{"id": "s3", "text": "a new version"}], source="v2")
    assert report.new_sequences == 1


def test_forgotten_text_that_comes_back_stays_forgotten(tmp_path: Path) -> None:
    # d0 and d3 are similar, d3 and d6 are, d0 and d6 are not.
    build(tmp_path / "m", windows([(0, 0), (0, 3), (1, 0), (2, 0)]))
    forget(tmp_path / "m", ["d0", "d1"])
    again = windows([(0, 0), (0, 6), (1, 1), (2, 15)])
    report = add(tmp_path / "m", [{**r, "id": f"new-{r['id']}"} for r in again])
    manifest = require_sound(tmp_path / "m")
    status = status_of(tmp_path / "m")
    assert [status[f"new-d{k}"] for k in range(4)] == ["forgotten"] * 2 + ["active"] * 2
    assert [status[f"d{k}"] for k in range(4)] == ["forgotten"] * 2 + ["active"] * 2
    assert report.reappeared_forgotten == 2
    stones = manifest.table("tombstones").to_pylist()
    dead = {sequences(manifest)[d] for d in status if status[d] == "forgotten"}
    assert dead <= {stone["sequence_id"] for stone in stones}
    assert {stone["request"] for stone in stones} == {"R1"}


def test_reserve_and_policies_after_an_addition(tmp_path: Path) -> None:
    build(tmp_path / "m", planted(), reserve=0.3)
    set_policy(tmp_path / "m", "owner = 'o1'", "strict")
    before = {
        r["sequence_id"]: r for r in open_manifest(tmp_path / "m").table("sequences").to_pylist()
    }
    more = [{"id": f"x{k}", "text": prose(5000 + k // 2)} for k in range(40)]
    add(tmp_path / "m", [*more, {"id": "y", "text": prose(1)}])
    after = {
        r["sequence_id"]: r for r in require_sound(tmp_path / "m").table("sequences").to_pylist()
    }
    for sequence_id, old in before.items():
        for column in ("policy", "status", "reserved", "first_snapshot"):
            assert after[sequence_id][column] == old[column]
    new = [row for sequence_id, row in after.items() if sequence_id not in before]
    assert len(new) == 20
    assert {row["policy"] for row in new} == {"private"}
    assert 0 < sum(row["reserved"] for row in new) < 20


def test_remains_of_a_killed_addition_are_swept(tmp_path: Path) -> None:
    records = planted()
    build(tmp_path / "m", records[:40])
    shutil.copytree(tmp_path / "m", tmp_path / "n")
    (tmp_path / "n" / ".work").mkdir()
    (tmp_path / "n" / ".work" / "hashes.u64").write_bytes(b"x" * 99)
    (tmp_path / "n" / "documents" / "0123456789abcdef.parquet").write_bytes(b"torn")
    (tmp_path / "n" / ".manifest.json.x1y2.tmp").write_bytes(b"torn")
    more = write_jsonl(tmp_path / "more.jsonl", records[40:])
    for name in ("m", "n"):
        add_documents([more], tmp_path / name)
    assert tree_bytes(tmp_path / "m") == tree_bytes(tmp_path / "n")


def test_a_failed_addition_leaves_the_manifest_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "m", planted())
    before = tree_bytes(tmp_path / "m")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for stage in ("govern.ids.store.ArrayFile.append", "manifests.writer.TableWriter.close"):
        with monkeypatch.context() as patched:
            patched.setattr(stage, full)
            with pytest.raises(
                InputError, match=r"--manifest .*No space left on device; make room"
            ):
                add(tmp_path / "m", [{"id": "n", "text": "new"}])
        assert tree_bytes(tmp_path / "m") == before
    with writer_lock(tmp_path / "m"), pytest.raises(LockedError):
        add(tmp_path / "m", [{"id": "n", "text": "new"}])


def test_kept_columns_keep_their_types(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", [{"id": "a", "text": "one", "year": 1999}])
    read = ReadOptions(source="s", keep=("year",))
    build_ids([corpus], tmp_path / "m", BuildConfig(read=read))
    with pytest.raises(InputError, match=r"kept column year: expected values of type int64"):
        add(tmp_path / "m", [{"id": "b", "text": "two", "year": "soon"}])
    add(tmp_path / "m", [{"id": "b", "text": "two", "year": 2001}, {"id": "c", "text": "three"}])
    rows = require_sound(tmp_path / "m").table("documents", ["doc_id", "year"]).to_pylist()
    assert {r["doc_id"]: r["year"] for r in rows} == {"a": 1999, "b": 2001, "c": None}


@pytest.mark.parametrize("name", ["tokenizer", "token_hash", "scheme"])
def test_manifests_of_other_rules_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    build(tmp_path / "m", planted(2, 2))
    where = "minhash.SCHEME" if name == "scheme" else f"shingle.{name.upper()}"
    monkeypatch.setattr(f"govern.ids.{where}", "another")
    with pytest.raises(ManifestError, match=f"expected {name} another"):
        add(tmp_path / "m", planted(1, 1))


def test_an_addition_of_nothing_usable_is_refused(tmp_path: Path) -> None:
    build(tmp_path / "m", planted(2, 2))
    with pytest.raises(InputError, match="most often empty_text"):
        add(tmp_path / "m", [{"id": "a", "text": ""}])


def test_many_small_additions_leave_few_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "MOST_SMALL", 3)
    records = windows([(k % 3, k % 11) for k in range(20)])
    build(tmp_path / "m", records[:8])
    merged = 0
    for at in range(8, 20):
        before = open_manifest(tmp_path / "m").index.tables
        add(tmp_path / "m", records[at : at + 1])
        tables = open_manifest(tmp_path / "m").index.tables
        assert max(len(files) for files in tables.values()) <= 3
        merged += len(tables["documents"]) < len(before["documents"])
    assert merged
    manifest = require_sound(tmp_path / "m")
    whole = open_manifest(build(tmp_path / "whole", records))
    assert partition(manifest) == partition(whole)
    assert text_links(manifest) == text_links(whole)
    ids = manifest.table("documents", ["doc_id"])["doc_id"].to_pylist()
    # Row order never changes: it is that of the snapshots.
    assert ids[8:] == [record["id"] for record in records[8:]]


def test_texts_are_numbered_without_gaps(tmp_path: Path) -> None:
    records = windows([(k % 3, k % 20) for k in range(60)])
    build(tmp_path / "m", records[:20])
    add(tmp_path / "m", records[20:40], "1")
    add(tmp_path / "m", records[40:], "2")
    texts = require_sound(tmp_path / "m").table("shingles", ["text"])["text"].to_numpy()
    assert np.array_equal(np.unique(texts), np.arange(len(np.unique(texts))))
