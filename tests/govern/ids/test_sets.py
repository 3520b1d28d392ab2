"""Shingle sets and buckets: the compiled loops agree with naive ones."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from govern.ids import distinct, lsh


def check(texts: list[np.ndarray]) -> None:
    """Every text's set is what `np.unique` gives, compiled and interpreted."""
    offsets = np.cumsum([0, *map(len, texts)])
    hashes = np.concatenate(texts)
    for sort_sets in (distinct.sort_sets.interpret, distinct.sort_sets):
        values, ends = np.zeros_like(hashes), np.zeros(len(texts) + 1, dtype=np.int64)
        sort_sets(hashes, offsets, values, ends)
        for text, (begin, end) in zip(texts, pairwise(ends), strict=True):
            assert values[begin:end].tolist() == np.unique(text).tolist()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(
            st.sampled_from([0, 1, 2, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1), min_size=1
        ),
        min_size=1,
        max_size=5,
    )
)
def test_sets_are_sorted_and_distinct(texts: list[list[int]]) -> None:
    distinct.sort_sets.compile()
    check([np.array(text, dtype=np.uint64) for text in texts])


@pytest.mark.parametrize("length", [1, 255, 256, 20_000])
@pytest.mark.parametrize("bits", [8, 40, 64])
def test_long_texts_and_crowded_buckets(length: int, bits: int) -> None:
    # Few bits: all hashes fall into one bucket, and most of them repeat.
    random = np.random.default_rng(length + bits)
    top = 2**bits - 1
    check([random.integers(0, top, n, dtype=np.uint64) for n in (length, 3, length)])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 7, 2**63, 2**64 - 1]), max_size=30), st.randoms())
def test_pairs_of_a_band_are_those_of_its_buckets(keys: list[int], random: object) -> None:
    texts = list(range(100, 100 + len(keys)))
    random.shuffle(texts)  # type: ignore[attr-defined]
    buckets = defaultdict(list)
    for key, text in zip(keys, texts, strict=True):
        buckets[key].append(text)
    expected = [pair for texts_ in buckets.values() for pair in combinations(sorted(texts_), 2)]
    pairs = lsh.pairs_of_band(np.array(keys, dtype=np.uint64), np.array(texts, dtype=np.int64))
    found = zip(*(side.tolist() for side in lsh.split_pairs(pairs)), strict=True)
    assert sorted(found) == sorted(expected)
