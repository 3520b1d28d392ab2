"""Fuzzing: valid files of every format and compression with bytes changed, and any Unicode.

Laws: nothing but a `GovernError` is raised; every row of a file is a document or a reject, once;
the kernel agrees with the rule in plain Python. The short run belongs to every test run; the long
one takes FUZZ_SECONDS (600 unless told otherwise); its examples follow from FUZZ_SEED.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from raw_files import COMPRESS, SAMPLES

from govern.ids import compiled, plain, reference
from govern.ids.corpus import ReadOptions, read_corpus
from govern.ids.minhash import permutations
from govern.ids.pipeline import BuildConfig, build_ids
from govern.ids.readers import record
from manifests.checks import check_manifest
from manifests.errors import GovernError
from manifests.reader import open_manifest

LIMIT = 20_000
REASONS = {value for name, value in vars(record).items() if name.isupper() and name != "MISSING"}
PLACES = st.integers(0, 1 << 20)
MUTATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), PLACES, st.integers(1, 255)),
        st.tuples(st.just("cut"), PLACES, st.integers(1, 4000)),
        st.tuples(st.just("repeat"), PLACES, st.integers(1, 4000)),
        st.tuples(st.just("end"), PLACES, st.just(0)),
        st.tuples(
            st.just("insert"),
            PLACES,
            st.one_of(
                st.binary(min_size=1, max_size=8),
                st.sampled_from(
                    [
                        b"\x00",
                        b"\n",
                        b"\r",
                        b"\xff\xfe",
                        b"\xef\xbb\xbf",
                        b'"',
                        b"\\",
                        b"\xed\xa0\x80",
                    ]
                ),
                st.integers(1, 3).map(lambda n: b"x" * n * LIMIT),
            ),
        ),
    ),
    max_size=4,
)
FILES = st.tuples(st.sampled_from(sorted(SAMPLES)), st.sampled_from(sorted(COMPRESS)))
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def mutated(data: bytes, mutations: list[tuple[str, int, Any]]) -> bytes:
    for kind, place, value in mutations:
        at = place % (len(data) + 1)
        if kind == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ value]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at] + data[at + value :]
        elif kind == "repeat":
            data = data[: at + value] + data[at:]
        elif kind == "end":
            data = data[:at]
        elif kind == "insert":
            data = data[:at] + value + data[at:]
    return data


def require_accounted(path: Path) -> tuple[int, int]:
    """Every row of the file once; documents and rejects that keep what they promise."""
    rows: list[int] = []
    documents = rejects = 0
    options = ReadOptions(keep=("owner", "meta"), max_record_bytes=LIMIT, batch_rows=3)
    for batch in read_corpus([path], options):
        documents += batch.documents.num_rows
        rejects += batch.rejects.num_rows
        rows += batch.documents["row"].to_pylist() + batch.rejects["row"].to_pylist()
        for one in batch.documents.to_pylist():
            assert one["text"].strip()
            assert len(one["text"].encode()) <= LIMIT
            assert one["doc_id"]
            assert 0 <= one["start"] < one["end"]
        for one in batch.rejects.to_pylist():
            assert one["reason"] in REASONS
            assert len(one["context"]) <= 200
    assert sorted(rows) == list(range(len(rows)))
    return documents, rejects


def read_law(path: Path, file: tuple[str, str], inner: Any, outer: Any) -> None:
    suffix, compression = file
    valid, expected = SAMPLES[suffix]
    data = mutated(COMPRESS[compression](mutated(valid, inner)), outer)
    # A name of its own, so that the kept file of a failure is the one that failed.
    path = path / f"fuzz{suffix}{compression}"
    path.write_bytes(data)
    try:
        found = require_accounted(path)
    except GovernError:
        return
    if data == COMPRESS[compression](valid):
        assert found == (expected, 0)


def build_law(path: Path, files: list[tuple[tuple[str, str], Any]]) -> None:
    corpus = path / "corpus"
    corpus.mkdir()
    for i, ((suffix, compression), mutations) in enumerate(files):
        data = COMPRESS[compression](mutated(SAMPLES[suffix][0], mutations))
        (corpus / f"{i}{suffix}{compression}").write_bytes(data)
    config = BuildConfig(
        read=ReadOptions(keep=("owner", "meta.url"), max_record_bytes=LIMIT), workers=1
    )
    try:
        report = build_ids([corpus], path / "manifest", config)
    except GovernError:
        return
    assert report.records == report.documents + report.rejects
    manifest = open_manifest(path / "manifest")
    assert manifest.table("documents", ["row"]).num_rows == report.documents
    assert manifest.table("rejects", ["row"]).num_rows == report.rejects
    assert all(one.passed for one in check_manifest(path / "manifest"))


def kernel_law(texts: list[str], ngram: int) -> None:
    texts = [text for text in texts if text.strip()] or ["x"]
    array = pa.array(texts, pa.large_string())
    coefficients = permutations(16, 1)
    fast = compiled.sketch(array, ngram=ngram, permutations=coefficients)
    slow = plain.sketch(array, ngram=ngram, permutations=coefficients)
    assert np.array_equal(fast.signatures, slow.signatures)
    for i, text in enumerate(texts):
        normal = reference.normalised(text).encode()
        assert fast.content[i].tobytes() == hashlib.sha256(normal).digest()
        assert fast.n_words[i] == len(reference.words(text))
        begin, end = fast.hash_offsets[i : i + 2]
        expected = [reference.shingle_hash(s.encode()) for s in reference.shingles(text, ngram)]
        assert fast.hashes[begin:end].tolist() == expected


def run(directory: Path, number: int, *, reads: int, builds: int, texts: int) -> None:
    """Each law on so many examples, from this seed."""
    made = itertools.count()

    def fresh() -> Path:
        path = directory / f"{number}-{next(made)}"
        path.mkdir()
        return path

    def law(examples: int, check: Any, *strategies: Any) -> None:
        profile = settings(
            max_examples=examples, deadline=None, database=None, suppress_health_check=QUIET
        )
        seed(number)(profile(given(*strategies)(check)))()

    cases = st.tuples(FILES, MUTATIONS, MUTATIONS)
    law(reads, lambda case: read_law(fresh(), *case), cases)
    law(
        builds,
        lambda files: build_law(fresh(), files),
        st.lists(st.tuples(FILES, MUTATIONS), min_size=1, max_size=5),
    )
    characters = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
    law(texts, kernel_law, st.lists(characters, min_size=1, max_size=6), st.integers(1, 6))


@pytest.mark.parametrize("compression", sorted(COMPRESS))
@pytest.mark.parametrize("suffix", sorted(SAMPLES))
def test_valid_files_lose_nothing(tmp_path: Path, suffix: str, compression: str) -> None:
    read_law(tmp_path, (suffix, compression), [], [])
    data, expected = SAMPLES[suffix]
    path = tmp_path / f"again{suffix}{compression}"
    path.write_bytes(COMPRESS[compression](data))
    assert require_accounted(path) == (expected, 0)


def test_fuzz_for_seconds(tmp_path: Path) -> None:
    run(tmp_path, 0, reads=40, builds=2, texts=20)


@pytest.mark.slow
def test_fuzz_for_minutes(tmp_path: Path) -> None:
    import shutil

    until = time.monotonic() + float(os.environ.get("FUZZ_SECONDS", "600"))
    for number in itertools.count(int(os.environ.get("FUZZ_SEED", "1"))):
        run(tmp_path, number, reads=200, builds=4, texts=60)
        # Only what failed is worth keeping.
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        if time.monotonic() > until:
            break
