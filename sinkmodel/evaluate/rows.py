"""Rows of a report: what was measured, metric by metric, group by group, phase by phase."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from sinkmodel.evaluate import membership
from sinkmodel.evaluate.generation import Recital
from sinkmodel.evaluate.metrics import (
    Estimate,
    bootstrap_mean,
    exact_memorization,
    extraction_strength,
    loss_gap_closed,
)
from sinkmodel.evaluate.probes import Probe, Probes, probe_digest
from sinkmodel.evaluate.scores import DocumentScore


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One value, as a statement records it (losses in nats per token)."""

    metric: str
    group: str
    phase: str
    estimate: Estimate
    seed: int
    probe_sha256: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A probe set under one routing: token scores and, where asked, greedy recitals."""

    scores: tuple[DocumentScore, ...]
    recitals: tuple[Recital | None, ...] = ()

    def losses(self) -> list[float]:
        """Mean loss of each document, nats per token."""
        return [item.loss for item in self.scores]


@dataclass(frozen=True, kw_only=True)
class Before:
    """Everything that must be measured while the sinks still hold something."""

    own: Scored
    backbone: Scored
    placebo: Scored
    wrong: Scored
    kept: Scored
    held_out: Scored
    reference: Scored | None


def _values(scored: Scored, indices: Sequence[int]) -> dict[str, list[float]]:
    """The four memorization metrics, one value a document."""
    scores = [scored.scores[i] for i in indices]
    recitals = [scored.recitals[i] for i in indices]
    able = [recital for recital in recitals if recital is not None]
    return {
        "loss": [item.loss for item in scores],
        "extraction_strength": [extraction_strength(item.hits) for item in scores],
        "exact_memorization": [exact_memorization(item.hits) for item in scores],
        "verbatim_tokens": [float(recital.verbatim) for recital in able],
        "extraction_50_50": [float(recital.exact) for recital in able],
        "rouge_l_50_50": [recital.rouge_l for recital in able],
    }


def forgotten_rows(probes: Probes, before: Before, after: Scored) -> Iterator[Measured]:
    """Every memorization metric of the forgotten documents by phase, and the comparisons."""
    digest = probe_digest(probes.forgotten)
    phases = {
        "before": before.own,
        "after": after,
        "backbone": before.backbone,
        "placebo": before.placebo,
    }
    if before.reference is not None:
        phases["reference"] = before.reference
    for group, indices in probes.groups().items():
        base = Measured(
            metric="",
            group=group,
            phase="",
            estimate=bootstrap_mean([], seed=0),
            seed=probes.seed,
            probe_sha256=digest,
        )
        values = {phase: _values(scored, indices) for phase, scored in phases.items()}
        for phase, metrics in values.items():
            for metric, numbers in metrics.items():
                if numbers:
                    estimate = bootstrap_mean(numbers, seed=probes.seed)
                    yield replace(base, metric=metric, phase=phase, estimate=estimate)
        yield from _comparisons(base, values, _values(before.wrong, indices), before.held_out)


def _comparisons(
    base: Measured,
    values: Mapping[str, Mapping[str, list[float]]],
    wrong: Mapping[str, list[float]],
    held_out: Scored,
) -> Iterator[Measured]:
    """What thresholds are set on: differences between phases."""

    def row(metric: str, value: float, note: str) -> Measured:
        count = len(values["before"]["loss"])
        estimate = Estimate(n=count, value=value, low=None, high=None)
        return replace(base, metric=metric, phase="after", estimate=estimate, note=note)

    loss = {phase: fmean(metrics["loss"]) for phase, metrics in values.items()}
    reserved = _values(held_out, range(len(held_out.scores)))
    if "reference" in loss:
        wanted, against = loss["reference"], "a run that never saw these documents"
    elif reserved["loss"]:
        wanted, against = fmean(reserved["loss"]), "reserved documents"
    else:
        wanted, against = float("nan"), ""
    if np.isfinite(wanted) and wanted > loss["before"]:
        closed = loss_gap_closed(loss["before"], loss["after"], wanted)
        yield row("loss_gap_closed", closed, f"reference: {against}")
    floors = [reserved["extraction_strength"]] if reserved["extraction_strength"] else []
    if "reference" in values:
        floors.append(values["reference"]["extraction_strength"])
    if floors:
        floor = max(fmean(numbers) for numbers in floors)
        excess = fmean(values["after"]["extraction_strength"]) - floor
        yield row("extraction_strength_excess", excess, "above never-trained text")
    if loss["after"] != loss["before"]:
        share = (loss["placebo"] - loss["before"]) / (loss["after"] - loss["before"])
        yield row("placebo_share", share, "effect of erasing other sequences instead")
    advantage = fmean(wrong["loss"]) - loss["before"]
    yield row("routing_advantage", advantage, "loss under another sequence's sinks, minus own")


def membership_rows(probes: Probes, after: Scored, held_out: Scored) -> Iterator[Measured]:
    """Membership inference on the erased run: forgotten against reserved documents."""
    if len(probes.forgotten) < 2 or len(probes.held_out) < 2:
        return
    digest = probe_digest([*probes.forgotten, *probes.held_out])
    members = _membership_scores(probes.forgotten, after)
    others = _membership_scores(probes.held_out, held_out)
    for found in membership.attacks(members, others, seed=probes.seed):
        estimate = Estimate(
            n=found.n_members + found.n_non_members,
            value=found.auc,
            low=found.low,
            high=found.high,
        )
        yield Measured(
            metric=f"membership_auc_{found.score}",
            group="forgotten",
            phase="after",
            estimate=estimate,
            seed=probes.seed,
            probe_sha256=digest,
            note=f"TPR at 1 % FPR {found.tpr_at_1_fpr:.3f}; other texts, so 0.5 is not expected",
        )


def _membership_scores(probes: Sequence[Probe], scored: Scored) -> dict[str, np.ndarray]:
    pairs = list(zip(probes, scored.scores, strict=True))
    return {
        "loss": np.array([membership.loss_score(s.losses) for _, s in pairs]),
        "zlib": np.array([membership.zlib_score(s.losses, p.text) for p, s in pairs]),
        "min_k": np.array([membership.min_k_score(s.losses) for _, s in pairs]),
        "min_k_plus": np.array(
            [membership.min_k_plus_score(s.losses, s.means, s.deviations) for _, s in pairs]
        ),
    }


def kept_rows(probes: Probes, before: Before, kept: Scored, held_out: Scored) -> Iterator[Measured]:
    """What the erase did to documents that were not to be forgotten."""
    sides = (
        ("kept", probes.kept, before.kept, kept),
        ("held-out", probes.held_out, before.held_out, held_out),
    )
    for group, some, old, new in sides:
        if not some:
            continue
        changes = [b - a for a, b in zip(old.losses(), new.losses(), strict=True)]
        same = [
            float(np.array_equal(a.losses, b.losses) and np.array_equal(a.hits, b.hits))
            for a, b in zip(old.scores, new.scores, strict=True)
        ]
        base = Measured(
            metric="loss_change",
            group=group,
            phase="after",
            estimate=bootstrap_mean(changes, seed=probes.seed),
            seed=probes.seed,
            probe_sha256=probe_digest(some),
        )
        yield base
        worst = Estimate(n=len(some), value=max(map(abs, changes)), low=None, high=None)
        yield replace(base, metric="worst_loss_change", estimate=worst)
        identical = bootstrap_mean(same, seed=probes.seed)
        yield replace(base, metric="identical_losses", estimate=identical)
        for phase, scored in (("before", old), ("after", new)):
            for metric, numbers in _values(scored, range(len(some))).items():
                if numbers:
                    estimate = bootstrap_mean(numbers, seed=probes.seed)
                    yield replace(base, metric=metric, phase=phase, estimate=estimate)
