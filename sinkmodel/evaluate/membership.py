"""Membership inference: does a score tell trained documents from reserved ones?

Every score is larger for what looks more like a member. Members and non-members must come from one
distribution, which is why reference documents are reserved when IDs are assigned.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sinkmodel.evaluate.metrics import MIN_SAMPLES, Floats

MIN_K_SHARE = 0.2
_RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Attack:
    """How well one score separates members from non-members.

    Args:
        auc: Area under the ROC curve; 0.5 is blind, both sides of it are a leak.
        tpr_at_1_fpr: True positive rate at 1 % false positives (Carlini et al. 2022,
            arXiv 2112.03570, section IV).
        low, high: 95 % bootstrap interval of the AUC; None below `MIN_SAMPLES` of either side.
        tpr_low, tpr_high: The same of the true positive rate.
    """

    score: str
    n_members: int
    n_non_members: int
    auc: float
    tpr_at_1_fpr: float
    low: float | None
    high: float | None
    tpr_low: float | None
    tpr_high: float | None


def loss_score(token_losses: Floats) -> float:
    """Minus the mean loss (Yeom et al. 2018, arXiv 1709.01604)."""
    return -float(token_losses.mean())


def zlib_score(token_losses: Floats, text: bytes) -> float:
    """Minus mean loss over zlib size (Carlini et al. 2021, arXiv 2012.07805, section 5.2).

    The log of the perplexity is the *mean* loss there, and in OpenUnlearning, so longer texts score
    higher: members and non-members should be of like length.
    """
    return -float(token_losses.mean()) / len(zlib.compress(text))


def min_k_score(token_losses: Floats, share: float = MIN_K_SHARE) -> float:
    """Mean log-probability of the least likely `share` (Shi et al. 2024, arXiv 2310.16789)."""
    count = max(1, int(len(token_losses) * share))
    return -float(np.sort(token_losses)[-count:].mean())


def min_k_plus_score(
    token_losses: Floats, means: Floats, deviations: Floats, share: float = MIN_K_SHARE
) -> float:
    """Min-K%++ (Zhang et al. 2024, arXiv 2404.02936): log-probabilities standardised by token.

    Args:
        token_losses: [L], minus log-probability of the true token.
        means: [L], expected log-probability under the model's own distribution.
        deviations: [L], its standard deviation.
        share: Of the least likely tokens.
    """
    standard = (-token_losses - means) / np.maximum(deviations, 1e-6)
    count = max(1, int(len(standard) * share))
    return float(np.sort(standard)[:count].mean())


def attack(name: str, members: Floats, non_members: Floats, *, seed: int) -> Attack:
    """AUC, TPR at 1 % FPR and a bootstrap interval for one score.

    Args:
        name: Of the score.
        members, non_members: float64 scores; both must hold two or more.
        seed: Of the bootstrap.

    Raises:
        ValueError: Too few of either, or a score that is not a number: no default AUC exists.
    """
    from sklearn.metrics import roc_auc_score

    if len(members) < 2 or len(non_members) < 2:
        raise ValueError(f"{len(members)} members and {len(non_members)} non-members: need 2 each")
    scores = np.concatenate([members, non_members])
    labels = np.concatenate([np.ones(len(members)), np.zeros(len(non_members))])
    if not np.isfinite(scores).all():
        raise ValueError(f"score {name} is not finite")
    (low, high), (tpr_low, tpr_high) = _intervals(members, non_members, seed)
    return Attack(
        score=name,
        n_members=len(members),
        n_non_members=len(non_members),
        auc=float(roc_auc_score(labels, scores)),
        tpr_at_1_fpr=true_positive_rate(members, non_members),
        low=low,
        high=high,
        tpr_low=tpr_low,
        tpr_high=tpr_high,
    )


def placements(members: Floats, non_members: Floats) -> Floats:
    """Of each member the share of non-members that score lower, ties half: their mean is the AUC.

    Args:
        members, non_members: float64 scores, at least one each.
    """
    ordered = np.sort(non_members)
    below = np.searchsorted(ordered, members, side="left")
    up_to = np.searchsorted(ordered, members, side="right")
    return (below + up_to) / (2 * len(ordered))


def auc(members: Floats, non_members: Floats) -> float:
    """Share of pairs in which the member scores higher, ties half (Mann & Whitney 1947).

    Equal to scikit-learn's `roc_auc_score`, and fast enough to be resampled.
    """
    return float(placements(members, non_members).mean())


def true_positive_rate(members: Floats, non_members: Floats, *, at: float = 0.01) -> float:
    """Share of members above a threshold that at most the share `at` of non-members reaches.

    The greatest true positive rate of scikit-learn's `roc_curve` at that false positive rate. With
    fewer than 1 / `at` non-members none of them may reach it.
    """
    allowed = int(len(non_members) * at)
    return float((members > np.sort(non_members)[-1 - allowed]).mean())


_Interval = tuple[float, float] | tuple[None, None]


def _intervals(members: Floats, non_members: Floats, seed: int) -> tuple[_Interval, _Interval]:
    """95 % bootstrap intervals of the AUC and of the true positive rate."""
    if min(len(members), len(non_members)) < MIN_SAMPLES:
        return (None, None), (None, None)
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(_RESAMPLES):
        some = generator.choice(members, len(members))
        others = generator.choice(non_members, len(non_members))
        found.append((auc(some, others), true_positive_rate(some, others)))
    low, high = np.quantile(np.array(found), [0.025, 0.975], axis=0)
    return (float(low[0]), float(high[0])), (float(low[1]), float(high[1]))


def attacks(
    members: Mapping[str, Floats], non_members: Mapping[str, Floats], *, seed: int
) -> list[Attack]:
    """`attack` for every score that both sides have, by name."""
    return [attack(name, members[name], non_members[name], seed=seed) for name in sorted(members)]
