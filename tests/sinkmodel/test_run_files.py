"""Digests, zeros and tests for zero of byte ranges, against the same done on bytes in memory."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sinkmodel import run_files

# As long as a few pieces of a file, so that ranges begin and end on, before and after their edges.
_PIECE = 8


@pytest.fixture(autouse=True, scope="module")
def small_pieces() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_files, "_CHUNK", _PIECE)
        yield


@st.composite
def contents_and_ranges(draw: st.DrawFn) -> tuple[bytes, list[tuple[int, int]]]:
    """A file's bytes, many of them zero, with sorted disjoint ranges that may touch."""
    # The size is drawn first: lists of Hypothesis are short, and would seldom reach a second piece.
    size = draw(st.integers(0, 4 * _PIECE + 3))
    data = bytes(draw(st.lists(st.sampled_from([0, 0, 1, 255]), min_size=size, max_size=size)))
    cuts = sorted(draw(st.sets(st.integers(0, len(data)), max_size=8)))
    spans = list(pairwise(cuts))
    return data, [span for span in spans if draw(st.booleans())]


def zeroed(data: bytes, ranges: list[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for begin, end in ranges:
        changed[begin:end] = bytes(end - begin)
    return bytes(changed)


@given(contents_and_ranges())
@example((bytes(range(20)), [(17, 19)]))  # pieces before the first range, which both digests share
@example((bytes(range(30)), [(0, 8), (8, 9), (15, 25)]))  # on an edge, touching, over an edge
def test_both_digests_are_those_of_the_bytes(case: tuple[bytes, list[tuple[int, int]]]) -> None:
    data, ranges = case
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(data)
        found = run_files.digest_with_zeros(path, ranges)
    expected = [hashlib.sha256(some).hexdigest() for some in (data, zeroed(data, ranges))]
    assert list(found) == expected


@given(contents_and_ranges())
def test_zeros_are_written_where_they_are_wanted_and_found_there(
    case: tuple[bytes, list[tuple[int, int]]],
) -> None:
    data, ranges = case
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(data)
        assert run_files.is_zero(path, ranges) == (zeroed(data, ranges) == data)
        run_files.write_zeros(path, ranges)
        assert path.read_bytes() == zeroed(data, ranges)
        assert run_files.is_zero(path, ranges)


def test_a_range_past_the_end_is_not_zero(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(_PIECE))
    assert run_files.is_zero(path, [(0, _PIECE)])
    assert not run_files.is_zero(path, [(0, _PIECE + 1)])
