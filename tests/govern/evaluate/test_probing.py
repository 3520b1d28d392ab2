"""Which documents are measured."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from govern.evaluate.neighbours import nearest_kept
from govern.evaluate.probing import sample

KEYS = [("s", f"d{i}", i % 3) for i in range(30)]


@given(st.sets(st.sampled_from(KEYS)), st.integers(0, 30), st.integers(0, 3))
def test_sample_asks_every_sequence_before_any_twice(
    keys: set[tuple[str, str, int]], most: int, seed: int
) -> None:
    found = sample(keys, most, seed=seed)
    assert len(found) == min(most, len(keys))
    assert set(found) <= keys
    assert found == sample(sorted(keys, reverse=True), most, seed=seed)
    taken = {i: sum(key[2] == i for key in found) for i in {key[2] for key in keys}}
    for sequence_id, count in taken.items():
        if count < sum(key[2] == sequence_id for key in keys):
            assert max(taken.values()) <= count + 1


def test_sample_bounds_copies() -> None:
    assert len(sample(KEYS, 30, seed=0, copies=4)) == 12


def test_a_run_without_an_index_has_no_neighbours(tmp_path: Path) -> None:
    assert nearest_kept(SimpleNamespace(path=tmp_path), [], []) is None  # type: ignore[arg-type]
