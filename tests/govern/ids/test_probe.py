"""What an addition changes in buckets, against the rule applied to all texts before and after."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from govern.ids.carry import find_unrest
from govern.ids.lsh import merge_pairs, split_pairs
from govern.ids.minhash import Banding
from govern.ids.probe import BucketRule, Members, Probe, added_pairs, still_candidates

BANDING = Banding(bands=3, rows=2)
# Few values, so that many texts share a band.
SIGNATURES = st.lists(
    st.lists(st.integers(0, 1), min_size=6, max_size=6), min_size=1, max_size=24
).map(lambda rows: np.array(rows, dtype=np.uint32))


def candidates(
    signatures: np.ndarray, texts: list[int], cap: int, pivots: int
) -> set[tuple[int, int]]:
    """The rule in plain words: all pairs of a bucket up to `cap`, else those of its smallest."""
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    for text in texts:
        for band in range(BANDING.bands):
            values = signatures[text, band * BANDING.rows : (band + 1) * BANDING.rows]
            buckets[band, values.tobytes()].append(text)
    return {
        pair
        for members in buckets.values()
        for pair in itertools.combinations(sorted(members), 2)
        if len(members) <= cap or pair[0] in sorted(members)[:pivots]
    }


@settings(max_examples=300, deadline=None)
@given(SIGNATURES, st.data(), st.sampled_from([(1, 1), (3, 1), (4, 2), (6, 3), (100, 2)]))
def test_what_an_addition_changes_is_what_the_rule_changes(
    signatures: np.ndarray, data: st.DataObject, rule: tuple[int, int]
) -> None:
    cap, pivots = rule
    n = len(signatures)
    is_new = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    old = np.flatnonzero(~is_new).tolist()
    before = candidates(signatures, old, cap, pivots)
    after = candidates(signatures, list(range(n)), cap, pivots)
    everyone = (signatures, np.arange(n))
    buckets = BucketRule(banding=BANDING, cap=cap, pivots=pivots)
    probe = Probe(signatures[is_new], BANDING)
    members = probe.find([everyone])
    displaced = np.zeros(n, dtype=np.bool_)
    runs = list(added_pairs(probe, members, is_new, buckets, displaced))
    a, b = split_pairs(np.concatenate([np.zeros(0, dtype="u8"), *merge_pairs(runs, held=5)]))
    added = list(zip(a.tolist(), b.tolist(), strict=True))
    assert sorted(set(added)) == added
    assert set(added) == {p for p in after if is_new[p[0]] or is_new[p[1]]}

    scans = []

    def find(other: Probe) -> Members:
        scans.append(other)
        return other.find([everyone])

    doubtful = sorted(p for p in before if displaced[p[0]])
    pairs = np.array([x << 32 | y for x, y in doubtful], dtype=np.uint64)
    still = still_candidates(pairs, lambda r: signatures[r], probe, members, find, buckets)
    assert still.tolist() == [pair in after for pair in doubtful]
    assert all(pair in after for pair in before - set(doubtful))
    assert len(scans) <= 1


def test_buckets_of_the_addition_spare_a_second_pass() -> None:
    """Where every shared bucket got a new text, no stored signature is read again."""
    signatures = np.zeros((6, 6), dtype=np.uint32)
    rule = BucketRule(banding=BANDING, cap=2, pivots=1)
    probe = Probe(signatures[:1], BANDING)
    members = probe.find([(signatures, np.arange(6))])
    pairs = np.array([1 << 32 | 3, 2 << 32 | 4], dtype=np.uint64)

    def find(_: Probe) -> Members:
        raise AssertionError("a second pass")

    still = still_candidates(pairs, lambda r: signatures[r], probe, members, find, rule)
    assert still.tolist() == [False, False]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=20))
def test_calm_sequences_are_those_that_only_grew(spec: list[tuple[int, int]]) -> None:
    """Each text has an old sequence (0 for a new text) and a cluster."""
    old_ids = np.array([old for old, _ in spec])
    clusters = [cluster for _, cluster in spec]
    representative = np.array([clusters.index(cluster) for cluster in clusters])
    found = find_unrest(old_ids, representative)
    calm = {}
    for old in {o for o in old_ids.tolist() if o}:
        heads = {h for h, o in zip(representative.tolist(), old_ids, strict=True) if o == old}
        others = {o for h, o in zip(representative, old_ids.tolist(), strict=True) if h in heads}
        if len(heads) == 1 and others <= {0, old}:
            calm[old] = heads.pop()
    assert found.known.tolist() == sorted({o for o in old_ids.tolist() if o})
    assert found.ids.tolist() == [o for o in found.known.tolist() if o not in calm]
    assert {int(found.of_cluster[h]): h for h in np.flatnonzero(found.of_cluster).tolist()} == calm
    assert found.texts.tolist() == [o != 0 and o not in calm for o in old_ids.tolist()]
