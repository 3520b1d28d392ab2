"""Equal records give equal bytes, whatever threads, order, batches, memory, stops, environment."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from corpora import planted, prose, tree_bytes, write_jsonl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from govern.ids.corpus import ReadOptions
from govern.ids.parts import PartWriter
from govern.ids.pipeline import BuildConfig, build_ids

READ: dict[str, Any] = {"source": "s", "keep": ("owner",)}
SMALL_PARTS = "govern.ids.parts.PART_BYTES"


def build(inputs: Sequence[Path], out: Path, *, resume: bool = False, **options: Any) -> None:
    read = ReadOptions(
        **READ, **{k: options.pop(k) for k in list(options) if k.startswith("batch")}
    )
    build_ids(inputs, out, BuildConfig(read=read, **{"workers": 2, **options}), resume=resume)


class Stopped(Exception):  # noqa: N818  it is no error of the code under test
    """Ends a build in a test."""


def build_with_a_stop(inputs: Sequence[Path], out: Path, at: int, **options: Any) -> None:
    """A build that stops before it writes a batch, and is resumed."""
    add, calls = PartWriter.add, 0

    def stopping(writer: PartWriter, piece: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise Stopped
        add(writer, piece)

    with pytest.MonkeyPatch.context() as patched, contextlib.suppress(Stopped):
        patched.setattr(PartWriter, "add", stopping)
        build(inputs, out, **options)
        return
    build(inputs, out, resume=True, **options)


@pytest.fixture
def corpus(tmp_path: Path) -> list[Path]:
    """Planted families over three files, with an ID that is taken twice and a broken record."""
    records = [*planted(), {"id": "f0-0", "text": "a second text with an ID that is taken"}, 7]
    return [
        write_jsonl(tmp_path / f"corpus/{shard}.jsonl", records[shard::3]) for shard in range(3)
    ]


VARIANTS: dict[str, dict[str, Any]] = {
    "one thread": {"workers": 1},
    "four threads": {"workers": 4},
    "batches of three": {"batch_rows": 3},
    "batches of a text": {"batch_bytes": 1},
    "little memory": {"memory": 10**8},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("parts", [None, 1000])
def test_threads_batches_parts_and_memory(
    tmp_path: Path,
    corpus: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    variant: str,
    parts: int | None,
) -> None:
    build(corpus, tmp_path / "m")
    if parts is not None:
        monkeypatch.setattr(SMALL_PARTS, parts)
    if variant == "little memory":
        # So many bytes for a pair that only one fits.
        monkeypatch.setattr("govern.ids.pipeline._BYTES_PER_PAIR", 10**8)
    build(corpus, tmp_path / "n", **VARIANTS[variant])
    assert tree_bytes(tmp_path / "m") == tree_bytes(tmp_path / "n")


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0), (0, 0, 1, 2, 1)])
def test_order_of_inputs(tmp_path: Path, corpus: list[Path], order: tuple[int, ...]) -> None:
    build(corpus, tmp_path / "m")
    build([corpus[shard] for shard in order], tmp_path / "n")
    assert tree_bytes(tmp_path / "m") == tree_bytes(tmp_path / "n")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("at", [2, 5, 9])
def test_stopped_and_resumed(
    tmp_path: Path, corpus: list[Path], monkeypatch: pytest.MonkeyPatch, workers: int, at: int
) -> None:
    build(corpus, tmp_path / "m")
    monkeypatch.setattr(SMALL_PARTS, 1000)
    build_with_a_stop(corpus, tmp_path / "n", at, workers=workers, batch_rows=5)
    assert tree_bytes(tmp_path / "m") == tree_bytes(tmp_path / "n")


CODE = """
import os, sys
os.umask(int(sys.argv[1], 8))
from govern.ids.corpus import ReadOptions
from govern.ids.pipeline import BuildConfig, build_ids
config = BuildConfig(read=ReadOptions(source="s", keep=("owner",)), workers=2)
build_ids(sys.argv[3:], sys.argv[2], config)
"""


@pytest.mark.parametrize(
    ("seed", "zone", "locale", "umask"),
    [("1", "Asia/Kathmandu", "C", "077"), ("2", "America/St_Johns", "tr_TR.UTF-8", "000")],
)
def test_environment(
    tmp_path: Path, corpus: list[Path], seed: str, zone: str, locale: str, umask: str
) -> None:
    build(corpus, tmp_path / "m")
    changed = {"PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": locale, "LANG": locale}
    subprocess.run(
        [sys.executable, "-c", CODE, umask, str(tmp_path / "n"), *map(str, corpus)],
        env={**os.environ, **changed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
    )
    assert tree_bytes(tmp_path / "m") == tree_bytes(tmp_path / "n")


RECORDS = st.lists(
    st.one_of(
        st.builds(
            lambda name, text, owner: {"id": name, "text": text, "owner": owner},
            st.sampled_from([None, "a", "b", "c", "d", 5]),
            st.one_of(
                st.text(max_size=20),
                st.builds(lambda k, n: prose(k, n), st.integers(0, 3), st.integers(5, 12)),
            ),
            st.one_of(st.none(), st.integers(), st.text(max_size=3)),
        ),
        st.sampled_from([None, 7, "text", {"text": 3}, {}]),
    ),
    min_size=1,
    max_size=25,
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(RECORDS, st.integers(1, 4), st.integers(1, 6), st.integers(1, 300), st.integers(1, 8))
def test_any_tiny_corpus(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[Any],
    shards: int,
    batch_rows: int,
    part_bytes: int,
    at: int,
) -> None:
    tmp_path = tmp_path_factory.mktemp("any")
    records = [*records, {"id": "sure", "text": "one text that can be used"}]
    corpus = [
        write_jsonl(tmp_path / f"corpus/{shard}.jsonl", records[shard::shards])
        for shard in range(min(shards, len(records)))
    ]
    build(corpus, tmp_path / "m")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SMALL_PARTS, part_bytes)
        options = {"batch_rows": batch_rows, "workers": 1}
        build_with_a_stop(corpus[::-1], tmp_path / "n", at, **options)
    assert tree_bytes(tmp_path / "m") == tree_bytes(tmp_path / "n")
