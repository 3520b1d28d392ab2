"""Metrics on examples worked out by hand, with their floors and ceilings."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from sinkmodel.evaluate import membership, metrics


def hits(text: str) -> np.ndarray:
    return np.array([c == "1" for c in text])


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("1111", 1.0),  # knows it by heart: no prefix needed
        ("0111", 0.75),  # one token of prefix
        ("1011", 0.5),
        ("0001", 0.25),
        ("1110", 0.25),  # the floor: k stops at L - 1
        ("0000", 0.25),
    ],
)
def test_extraction_strength(pattern: str, expected: float) -> None:
    assert metrics.extraction_strength(hits(pattern)) == expected


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_extraction_strength_is_its_definition(values: list[bool]) -> None:
    length = len(values)
    k = next((k for k in range(length) if all(values[k:])), length - 1)
    assert metrics.extraction_strength(np.array(values)) == 1 - k / length


def test_exact_memorization() -> None:
    assert metrics.exact_memorization(hits("1101")) == 0.75


def test_loss_gap_closed() -> None:
    assert metrics.loss_gap_closed(1.0, 3.0, 3.0) == 1.0
    assert metrics.loss_gap_closed(1.0, 1.0, 3.0) == 0.0
    assert metrics.loss_gap_closed(1.0, 4.0, 3.0) == 1.5
    assert math.isnan(metrics.loss_gap_closed(3.0, 3.0, 3.0))


TOKENS = st.lists(st.integers(0, 3), max_size=12)


@given(TOKENS, TOKENS)
def test_longest_run_is_its_definition(text: list[int], recited: list[int]) -> None:
    pieces = [
        recited[begin:end]
        for begin in range(len(recited))
        for end in range(begin + 1, len(recited) + 1)
    ]
    inside = [
        len(piece)
        for piece in pieces
        if any(text[at : at + len(piece)] == piece for at in range(len(text)))
    ]
    assert metrics.longest_run(text, recited) == max(inside, default=0)


def test_rouge_l_by_hand() -> None:
    # The longest common subsequence of (1 2 3 4) and (1 9 3 4 5) is (1 3 4).
    assert metrics.rouge_l_recall([1, 2, 3, 4], [1, 9, 3, 4, 5]) == 0.75
    assert metrics.rouge_l_recall([1, 2], [1, 2]) == 1.0
    assert metrics.rouge_l_recall([1, 2], []) == 0.0


def test_verbatim_tokens() -> None:
    assert metrics.verbatim_tokens([1, 2, 3], [1, 2, 4]) == 2
    assert metrics.verbatim_tokens([1, 2], [1, 2]) == 2
    assert metrics.verbatim_tokens([1, 2], [3]) == 0


def test_bootstrap_mean() -> None:
    estimate = metrics.bootstrap_mean([0.0, 1.0] * 50, seed=1)
    assert estimate.value == 0.5
    assert estimate.low is not None
    assert estimate.high is not None
    # Standard error 0.05: the interval is about half a plus or minus 0.1.
    assert estimate.low == pytest.approx(0.4, abs=0.02)
    assert estimate.high == pytest.approx(0.6, abs=0.02)
    few = metrics.bootstrap_mean([1.0, 2.0], seed=1)
    assert (few.value, few.low, few.high) == (1.5, None, None)


def test_membership_by_hand() -> None:
    # Of the four pairs, members win three: AUC 0.75; only the top member is above every other.
    found = membership.attack("x", np.array([3.0, 1.0]), np.array([2.0, 0.0]), seed=0)
    assert found.auc == 0.75
    assert found.tpr_at_1_fpr == 0.5
    blind = membership.attack("x", np.ones(5), np.ones(5), seed=0)
    assert blind.auc == 0.5


def test_membership_scores_by_hand() -> None:
    """OpenUnlearning's, with their signs turned: here a larger score looks more like a member."""
    losses, text = np.array([1.0, 2.0, 3.0, 6.0]), b"abc"
    assert membership.loss_score(losses) == -3.0
    assert membership.zlib_score(losses, text) == -3.0 / len(zlib.compress(text))
    # The least likely half: 3 and 6; of a tenth of four tokens one is taken.
    assert membership.min_k_score(losses, 0.5) == -4.5
    assert membership.min_k_score(losses, 0.1) == -6.0
    # Log-probabilities -1, -2, -3, -6 by means -2 and deviations 1, 1, 1, 2: 1, 0, -1, -2.
    means, deviations = np.full(4, -2.0), np.array([1.0, 1.0, 1.0, 2.0])
    assert membership.min_k_plus_score(losses, means, deviations, 0.5) == -1.5


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=8),
    st.lists(st.integers(0, 5), min_size=1, max_size=8),
)
def test_auc_is_the_share_of_pairs_won(members: list[int], others: list[int]) -> None:
    pairs = [(m > o) + 0.5 * (m == o) for m in members for o in others]
    found = membership.auc(np.array(members, float), np.array(others, float))
    assert found == pytest.approx(sum(pairs) / len(pairs))
    labels = [1] * len(members) + [0] * len(others)
    assert found == pytest.approx(roc_auc_score(labels, members + others))


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=12),
    st.lists(st.integers(0, 9), min_size=1, max_size=12),
    st.sampled_from([0.01, 0.1, 0.25, 0.5, 0.99]),
)
def test_true_positive_rate_is_that_of_the_roc_curve(
    members: list[int], others: list[int], at: float
) -> None:
    labels = [1] * len(members) + [0] * len(others)
    false, true, _ = roc_curve(labels, members + others, drop_intermediate=False)
    found = membership.true_positive_rate(np.array(members, float), np.array(others, float), at=at)
    assert found == pytest.approx(true[false <= at].max())


def test_placements_by_hand() -> None:
    found = membership.placements(np.array([3.0, 1.0, -1.0]), np.array([2.0, 1.0]))
    assert found.tolist() == [1.0, 0.25, 0.0]


def test_membership_interval_wants_five_of_each() -> None:
    few = membership.attack("x", np.arange(4.0), np.arange(10.0), seed=0)
    assert (few.low, few.high) == (None, None)
    assert (few.tpr_low, few.tpr_high) == (None, None)
    enough = membership.attack("x", np.arange(5.0), np.arange(10.0), seed=0)
    assert enough.low is not None
    assert enough.high is not None
    assert enough.low <= enough.auc <= enough.high


def test_membership_has_no_default() -> None:
    with pytest.raises(ValueError, match="need 2 each"):
        membership.attack("x", np.array([1.0]), np.array([1.0, 2.0]), seed=0)
    with pytest.raises(ValueError, match="not finite"):
        membership.attack("x", np.array([1.0, np.nan]), np.array([1.0, 2.0]), seed=0)


def test_min_k_takes_the_least_likely() -> None:
    losses = np.array([1.0, 5.0, 2.0, 3.0, 4.0])
    assert membership.min_k_score(losses, 0.4) == -4.5
    assert membership.loss_score(losses) == -3.0
    standard = membership.min_k_plus_score(losses, -np.full(5, 3.0), np.full(5, 2.0), 0.4)
    assert standard == pytest.approx(((-5 + 3) / 2 + (-4 + 3) / 2) / 2)
