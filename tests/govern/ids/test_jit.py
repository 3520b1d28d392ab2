"""Small inputs run without compiled code: the same bytes, no numba, no folder that it needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from corpora import edited, planted, prose, tree_bytes, write_jsonl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from govern.ids import jit, shingle
from govern.ids.add import add_documents
from govern.ids.pipeline import build_ids

# Few words, so that texts are similar; letters outside ASCII, so that every path is taken.
WORDS = st.sampled_from(["one", "two", "Three", "fünf", "漢字", "e\u0301", "x", "six."])
TEXTS = st.lists(WORDS, min_size=1, max_size=14).map(" ".join)


def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit.Loop, "__call__", jit.Loop.interpret)
    monkeypatch.setattr(shingle, "_sketched", jit.Tally(sys.maxsize))


def all_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(loop: jit.Loop, *arguments: Any) -> Any:
        loop.compile()
        return loop._compiled(*arguments)  # type: ignore[misc]

    monkeypatch.setattr(jit.Loop, "__call__", call)
    monkeypatch.setattr(shingle, "_sketched", jit.Tally(-1))


def built(folder: Path, texts: list[str], added: list[str]) -> dict[str, bytes]:
    first, second = (
        write_jsonl(
            folder / f"{name}.jsonl", [{"id": f"{name}{i}", "text": t} for i, t in enumerate(part)]
        )
        for name, part in (("a", texts), ("b", added))
    )
    build_ids([first], folder / "m")
    add_documents([second], folder / "m")
    found = tree_bytes(folder / "m")
    shutil.rmtree(folder / "m")
    return found


def both_ways(texts: list[str], added: list[str]) -> list[dict[str, bytes]]:
    results = []
    # The same folder, since the manifest names the files that it was made from.
    with tempfile.TemporaryDirectory() as folder:
        for way in (interpreted, all_compiled):
            with pytest.MonkeyPatch.context() as monkeypatch:
                way(monkeypatch)
                results.append(built(Path(folder), texts, added))
    return results


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(TEXTS, min_size=1, max_size=12), st.lists(TEXTS, min_size=1, max_size=6))
def test_interpreted_and_compiled_give_the_same_bytes(texts: list[str], added: list[str]) -> None:
    first, second = both_ways(texts, added)
    assert first == second


def test_the_same_bytes_with_buckets_above_the_cap() -> None:
    base = prose(1, 40)
    family = [edited(base, 1, seed) for seed in range(150)]
    first, second = both_ways(family, [edited(base, 1, 1000 + seed) for seed in range(5)])
    assert first == second


def test_a_small_build_never_loads_numba(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", planted(4, 4))
    code = (
        "import sys\nfrom govern.ids.pipeline import build_ids\n"
        f"build_ids([{str(corpus)!r}], {str(tmp_path / 'm')!r})\n"
        "assert 'numba' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    build_ids([corpus], tmp_path / "again")
    assert tree_bytes(tmp_path / "m") == tree_bytes(tmp_path / "again")


def test_a_loop_is_compiled_once_it_has_enough_to_do() -> None:
    loop = jit.compiled(work=lambda n: int(n))(lambda n: n * 2)
    assert loop(jit.ENOUGH) == 2 * jit.ENOUGH
    assert loop._compiled is None
    assert loop(1) == 2
    assert loop._compiled is not None
    assert loop(3) == 6


def test_nowhere_to_keep_compiled_code_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core import caching

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(cache=True)(_sum)
    assert jit.compile_loop(_sum)(np.arange(4)) == 6


def _sum(values: Any) -> Any:
    total = 0
    for value in values:
        total += value
    return total
