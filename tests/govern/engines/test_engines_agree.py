"""Tasks give the bytes that threads give, on every engine, however the work is cut."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_world import (
    BANDS,
    FEW,
    PACKAGES,
    READ,
    SMALL_PARTS,
    Inline,
    build,
    edited,
    prose,
    staged,
    tree_bytes,
    used,
    write_jsonl,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from govern.engines.processes import Processes
from govern.ids.add import AddConfig, add_documents
from govern.ids.lsh import pairs_of_band, split_pairs
from govern.ids.pipeline import BuildConfig, build_ids
from govern.ids.tasks import by_bucket, pairs_between, place_of
from manifests.errors import InputError


@pytest.mark.parametrize(
    ("splits", "sample", "ranges"), [(None, 1 << 12, (1 << 17, 1 << 24)), (2, 64, (2_000, 5_000))]
)
def test_tasks_give_the_bytes_of_threads(
    tmp_path: Path,
    corpus: Path,
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    splits: int | None,
    sample: int,
    ranges: tuple[int, int],
) -> None:
    """One bucket a band and one range; then several buckets a band, groups a file and ranges."""
    if splits is not None:
        monkeypatch.setattr("govern.ids.staged.TEXTS_PER_BUCKET", 120)
    monkeypatch.setattr("govern.ids.tasks.PAIRS_PER_SAMPLE", sample)
    monkeypatch.setattr("govern.ids.staged.PAIRS_PER_RANGE", ranges)
    ran = [stage for stage, _ in staged(corpus, tmp_path / "m")]
    assert ran.count("reading") == ran.count("keys") == 3
    assert ran.count("pairs") == BANDS * (splits or 1)
    assert (ran.count("links") > 5) == (splits is not None)
    assert tree_bytes(tmp_path / "m") == tree_bytes(whole)


def test_processes_give_the_bytes_of_threads(tmp_path: Path, corpus: Path, whole: Path) -> None:
    report = build(corpus, tmp_path / "m", "processes")
    assert tree_bytes(tmp_path / "m") == tree_bytes(whole)
    assert report.candidates > report.links > 0


@pytest.mark.parametrize("engine", PACKAGES)
def test_clusters_give_the_bytes_of_threads(
    tmp_path: Path, corpus: Path, whole: Path, engine: str
) -> None:
    pytest.importorskip(PACKAGES[engine], reason=f"extra {engine}")
    build(corpus, tmp_path / "m", engine)
    assert tree_bytes(tmp_path / "m") == tree_bytes(whole)


def test_relative_inputs(
    tmp_path: Path, corpus: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker begins elsewhere; the manifest still names files as the user did."""
    monkeypatch.chdir(corpus.parent)
    relative = corpus.relative_to(corpus.parent)
    for engine in ("local", "processes"):
        with used(processes if engine == "processes" else None):
            build_ids([relative], tmp_path / engine, BuildConfig(read=READ, engine=engine, **FEW))
    assert tree_bytes(tmp_path / "local") == tree_bytes(tmp_path / "processes")


def test_inputs_by_url(tmp_path: Path, corpus: Path) -> None:
    urls = [f"file://{path}" for path in sorted(corpus.iterdir())]
    for engine in ("local", "processes"):
        with used(Inline() if engine == "processes" else None):
            build_ids(urls, tmp_path / engine, BuildConfig(read=READ, engine=engine, **FEW))
    assert tree_bytes(tmp_path / "local") == tree_bytes(tmp_path / "processes")


def test_a_manifest_by_url_is_refused(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As text and as the path that was made of it."""
    monkeypatch.chdir(tmp_path)
    for out in ("s3://bucket/m", Path("memory://m")):
        with pytest.raises(InputError, match=f"--out {out}: expected a path of a file system"):
            build_ids([corpus], out, BuildConfig(read=READ, **FEW))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_inputs_in_an_object_store(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that speaks S3, asked by threads and by the processes of a pool."""
    fs = pytest.importorskip("s3fs", reason="s3fs")
    server = pytest.importorskip("moto.server", reason="moto").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of no account")
    store = fs.S3FileSystem()
    store.mkdir("crawl")
    store.put(f"{corpus}/", "crawl/new/", recursive=True)
    for engine in ("local", "processes"):
        config = BuildConfig(read=READ, engine=engine, **FEW)
        report = build_ids(["s3://crawl/new/*.jsonl"], tmp_path / engine, config)
        assert report.files == len(list(corpus.iterdir())) > 1
    server.stop()
    assert tree_bytes(tmp_path / "local") == tree_bytes(tmp_path / "processes")


def test_additions_read_by_tasks(tmp_path: Path, whole: Path) -> None:
    records = [{"id": f"n{k}", "text": edited(prose(k % 8), 1, k), "owner": "o"} for k in range(30)]
    for shard in range(2):
        write_jsonl(tmp_path / f"more/{shard}.jsonl", records[shard::2])
    for name in ("threads", "tasks"):
        shutil.copytree(whole, tmp_path / name)
        with used(Inline() if name == "tasks" else None):
            report = add_documents([tmp_path / "more"], tmp_path / name, AddConfig(workers=2))
        assert report.joined > 0
    assert tree_bytes(tmp_path / "threads") == tree_bytes(tmp_path / "tasks")


TEXTS = st.builds(
    lambda family, edit, length: edited(prose(family, length), min(edit, length), edit),
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(2, 12),
)


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(TEXTS, min_size=1, max_size=20), st.integers(1, 4), st.integers(1, 200))
def test_any_tiny_corpus(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], shards: int, part_bytes: int
) -> None:
    tmp_path = tmp_path_factory.mktemp("any")
    records: list[Any] = [{"id": str(k), "text": text} for k, text in enumerate(texts)]
    for shard in range(min(shards, len(records))):
        write_jsonl(tmp_path / f"corpus/{shard}.jsonl", records[shard::shards])
    build(tmp_path / "corpus", tmp_path / "m")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SMALL_PARTS, part_bytes)
        patched.setattr("govern.ids.staged.TEXTS_PER_BUCKET", 4)
        patched.setattr("govern.ids.tasks.PAIRS_PER_SAMPLE", 2)
        patched.setattr("govern.ids.staged.PAIRS_PER_RANGE", (3, 10))
        staged(tmp_path / "corpus", tmp_path / "n")
    assert tree_bytes(tmp_path / "m") == tree_bytes(tmp_path / "n")


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 2**40))
def test_texts_beyond_32_bits(buckets: list[int], shift: int) -> None:
    """A bucket's pairs do not depend on how large the numbers of its texts are."""
    keys = np.array(buckets, dtype=np.uint64)
    texts = np.random.RandomState(1).permutation(len(keys)).astype(np.int64)
    pairs = np.sort(pairs_of_band(keys, texts))
    a, b = pairs_between(keys, texts + shift)
    for found, expected in zip((a, b), split_pairs(pairs), strict=True):
        assert (found - shift).tolist() == expected.tolist()


@given(
    st.lists(st.lists(st.integers(0, 2**64 - 1), min_size=3, max_size=3), max_size=20),
    st.sampled_from([1, 2, 8]),
)
def test_buckets_hold_every_key_once(columns: list[list[int]], splits: int) -> None:
    block = np.array(columns, dtype=np.uint64).reshape(-1, 3).T
    texts = np.arange(block.shape[1]) * 7
    keys, owners, bounds = by_bucket(block, texts, splits)
    assert len(bounds) == 3 * splits + 1
    found = []
    for bucket in range(3 * splits):
        part = slice(bounds[bucket], bounds[bucket + 1])
        for key, text in zip(keys[part].tolist(), owners[part].tolist(), strict=True):
            assert key * splits >> 64 == bucket % splits
            found.append((bucket // splits, text, key))
    expected = [(band, 7 * k, int(block[band, k])) for band in range(3) for k in range(len(texts))]
    assert sorted(found) == sorted(expected)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=30))
def test_the_place_of_a_pair(pairs: list[tuple[int, int]]) -> None:
    ordered = sorted(set(pairs))
    a, b = np.array(ordered, dtype=np.int64).reshape(-1, 2).T
    for pair in [(x, y) for x in range(5) for y in range(5)]:
        assert place_of(a, b, pair) == sum(one < pair for one in ordered)
    assert place_of(a, b, None) == len(ordered)
