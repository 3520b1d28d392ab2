"""Memorization metrics: pure functions of token losses and argmax hits.

Losses are mean negative log-likelihood per predicted token, in nats. A document of n tokens has
n - 1 predicted tokens (one less for every chunk of it), and `hits` says for each whether the
teacher-forced argmax is the true token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def extraction_strength(hits: Bools) -> float:
    """1 - k/L, k the shortest prefix after which every teacher-forced argmax is right.

    Carlini et al. 2021 (arXiv 2012.07805) as OpenUnlearning computes it: k runs over 0 … L - 1, so
    the floor is 1/L, never 0, and knowing everything by heart is 1.

    Args:
        hits: bool [L], L >= 1.
    """
    wrong = np.flatnonzero(~hits)
    k = 0 if not len(wrong) else min(int(wrong[-1]) + 1, len(hits) - 1)
    return 1.0 - k / len(hits)


def exact_memorization(hits: Bools) -> float:
    """Share of predicted tokens whose argmax is right (Tirumala et al. 2022, section 3)."""
    return float(hits.mean())


def loss_gap_closed(before: float, after: float, reference: float) -> float:
    """(after - before) / (reference - before): 1 is as if never seen, above 1 is too much.

    Returns:
        NaN where there was no gap to close (reference <= before), which is no success.
    """
    gap = reference - before
    return (after - before) / gap if gap > 0 else float("nan")


def rouge_l_recall(reference: Sequence[int], candidate: Sequence[int]) -> float:
    """Longest common subsequence of token IDs over the reference's length (Lin 2004, section 3)."""
    if not reference:
        return 0.0
    row = np.zeros(len(candidate) + 1, dtype=np.int64)
    for token in reference:
        diagonal = 0
        for j, other in enumerate(candidate, start=1):
            above = int(row[j])
            row[j] = diagonal + 1 if token == other else max(above, int(row[j - 1]))
            diagonal = above
    return float(row[-1]) / len(reference)


def verbatim_tokens(reference: Sequence[int], candidate: Sequence[int]) -> int:
    """How many leading tokens of the continuation are the true ones."""
    for index, (token, other) in enumerate(zip(reference, candidate, strict=False)):
        if token != other:
            return index
    return min(len(reference), len(candidate))


def longest_run(text: Sequence[int], recited: Sequence[int]) -> int:
    """The most tokens in a row of `recited` that stand so somewhere in `text`."""
    matcher = SequenceMatcher(None, text, recited, autojunk=False)
    return matcher.find_longest_match().size


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its 95 % interval; the interval is None below `MIN_SAMPLES` samples."""

    n: int
    value: float
    low: float | None
    high: float | None


MIN_SAMPLES = 5


def bootstrap_mean(values: Sequence[float], *, seed: int, resamples: int = 2000) -> Estimate:
    """The mean and its 95 % percentile bootstrap interval (Efron & Tibshirani 1993, chapter 13).

    Args:
        values: One number for each document; documents are what is resampled.
        seed: Of the resampling.
        resamples: Number of bootstrap samples.
    """
    array = np.asarray(values, dtype=np.float64)
    if len(array) == 0:
        return Estimate(n=0, value=float("nan"), low=None, high=None)
    mean = float(array.mean())
    if len(array) < MIN_SAMPLES:
        return Estimate(n=len(array), value=mean, low=None, high=None)
    draws = np.random.default_rng(seed).integers(0, len(array), size=(resamples, len(array)))
    low, high = np.quantile(array[draws].mean(axis=1), [0.025, 0.975])
    return Estimate(n=len(array), value=mean, low=float(low), high=float(high))
