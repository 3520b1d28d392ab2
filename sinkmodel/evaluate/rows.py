"""Rows of a report: what was measured, metric by metric, group by group, phase by phase."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sinkmodel.evaluate import membership
from sinkmodel.evaluate.comparisons import Phases, compare_phases
from sinkmodel.evaluate.generation import Recital
from sinkmodel.evaluate.metrics import (
    MIN_SAMPLES,
    Estimate,
    bootstrap_mean,
    exact_memorization,
    extraction_strength,
)
from sinkmodel.evaluate.probes import Probe, Probes, probe_digest
from sinkmodel.evaluate.scores import DocumentScore
from sinkmodel.evaluate.unlearning_scores import privacy_leakage

_SHOWN = 5  # reasons that a note spells out


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
class NotMeasured:
    """A metric that could not be measured, and why: said in the report, never left out silently."""

    metric: str
    group: str
    why: str


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


def values_of(scored: Scored, indices: Sequence[int]) -> dict[str, list[float]]:
    """The memorization metrics of these documents, one value a document.

    The last three only of documents that are long enough to be asked for 50 tokens after 50.
    """
    scores = [scored.scores[i] for i in indices]
    recitals = [scored.recitals[i] for i in indices] if scored.recitals else []
    able = [recital for recital in recitals if recital is not None]
    return {
        "loss": [item.loss for item in scores],
        "extraction_strength": [extraction_strength(item.hits) for item in scores],
        "exact_memorization": [exact_memorization(item.hits) for item in scores],
        "verbatim_tokens": [float(recital.verbatim) for recital in able],
        "extraction_50_50": [float(recital.exact) for recital in able],
        "rouge_l_50_50": [recital.rouge_l for recital in able],
    }


def forgotten_rows(
    probes: Probes, before: Before, after: Scored, routed: Scored | None
) -> Iterator[Measured]:
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
    reserved = values_of(before.held_out, range(len(before.held_out.scores)))
    for group, indices in probes.groups().items():
        base = Measured(
            metric="",
            group=group,
            phase="after",
            estimate=_plain(len(indices), 0.0),
            seed=probes.seed,
            probe_sha256=digest,
        )
        values = {phase: values_of(scored, indices) for phase, scored in phases.items()}
        for phase, metrics in values.items():
            for metric, numbers in metrics.items():
                if numbers:
                    estimate = bootstrap_mean(numbers, seed=probes.seed)
                    yield replace(base, metric=metric, phase=phase, estimate=estimate)
        compared = compare_phases(
            Phases(
                before=values["before"],
                after=values["after"],
                backbone=values["backbone"],
                placebo=values["placebo"],
                wrong=values_of(before.wrong, indices),
                routed=None if routed is None else values_of(routed, indices),
                reference=values.get("reference"),
                reserved=reserved,
            )
        )
        for item in compared:
            estimate = _plain(len(indices), item.value)
            yield replace(base, metric=item.metric, estimate=estimate, note=item.note)


def interval_rows(probes: Probes, *, reference: bool) -> Iterator[Measured]:
    """1 for each group whose figures want an interval and have too few documents for one.

    Where every covered document was measured the mean is exact and wants none, however few they
    are. Reserved documents always stand for others, unless a reference run replaces them.
    """
    sizes = [
        (group, len(indices), probes.covered.get(group, len(indices)))
        for group, indices in probes.groups().items()
    ]
    if not reference:
        sizes.append(("held-out", len(probes.held_out), -1))
    for group, count, covered in sizes:
        missing = count < MIN_SAMPLES and count != covered
        note = (
            f"{count} documents: too few for an interval"
            if missing
            else f"all {count} covered documents were measured"
            if count == covered
            else f"{count} documents"
        )
        yield Measured(
            metric="interval_missing",
            group=group,
            phase="after",
            estimate=_plain(count, float(missing)),
            seed=probes.seed,
            probe_sha256=probe_digest(probes.held_out if covered < 0 else probes.forgotten),
            note=note,
        )


def membership_rows(
    probes: Probes, scored: Scored, held_out: Scored, *, phase: str = "after"
) -> Iterator[Measured | NotMeasured]:
    """Membership inference: forgotten against reserved documents, which no training saw."""
    counts = len(probes.forgotten), len(probes.held_out)
    if min(counts) < 2:
        why = f"{counts[0]} documents against {counts[1]} reserved ones; two of each are needed"
        yield NotMeasured(metric="membership_auc", group="forgotten", why=why)
        return
    digest = probe_digest([*probes.forgotten, *probes.held_out])
    members = _membership_scores(probes.forgotten, scored)
    others = _membership_scores(probes.held_out, held_out)
    for name in sorted(members):
        if not (np.isfinite(members[name]).all() and np.isfinite(others[name]).all()):
            why = "a score is not finite"
            yield NotMeasured(metric=f"membership_auc_{name}", group="forgotten", why=why)
            continue
        found = membership.attack(name, members[name], others[name], seed=probes.seed)
        row = Measured(
            metric=f"membership_auc_{name}",
            group="forgotten",
            phase=phase,
            estimate=Estimate(n=sum(counts), value=found.auc, low=found.low, high=found.high),
            seed=probes.seed,
            probe_sha256=digest,
            note="other texts, so 0.5 is not expected",
        )
        yield row
        rate = replace(
            row.estimate, value=found.tpr_at_1_fpr, low=found.tpr_low, high=found.tpr_high
        )
        note = "true positive rate at 1 % false positives"
        yield replace(row, metric=f"membership_tpr_{name}", estimate=rate, note=note)


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


def privacy_rows(
    erased: Iterable[Measured], retrained: Iterable[Measured | NotMeasured]
) -> Iterator[Measured | NotMeasured]:
    """PrivLeak: 1 - the AUC of Min-K% after erasing, relative to a model never trained on it.

    Args:
        erased: Rows of the erased run.
        retrained: Membership rows of the reference.
    """
    name = "membership_auc_min_k"
    after = [row for row in erased if (row.metric, row.phase) == (name, "after")]
    never = [row for row in retrained if isinstance(row, Measured) and row.metric == name]
    for one, other in zip(after, never, strict=False):
        if other.estimate.value == 1:
            why = "it is relative to 1 - the reference's AUC, which is 0"
            yield NotMeasured(metric="privacy_leakage", group=one.group, why=why)
        else:
            value = privacy_leakage(one.estimate.value, other.estimate.value)
            note = "per cent; 0 is none, below 0 the texts still look trained on"
            estimate = _plain(one.estimate.n, value)
            yield replace(one, metric="privacy_leakage", estimate=estimate, note=note)


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
        worst = _plain(len(some), float(np.abs(changes).max()))
        yield replace(base, metric="worst_loss_change", estimate=worst)
        identical = bootstrap_mean(same, seed=probes.seed)
        yield replace(base, metric="identical_losses", estimate=identical)
        for phase, scored in (("before", old), ("after", new)):
            for metric, numbers in values_of(scored, range(len(some))).items():
                if numbers:
                    estimate = bootstrap_mean(numbers, seed=probes.seed)
                    yield replace(base, metric=metric, phase=phase, estimate=estimate)


def settled_rows(
    rows: Iterable[Measured | NotMeasured], probes: Probes, *, phase: str = "after"
) -> list[Measured]:
    """Rows whose numbers are numbers, and one row that counts and names what is not among them.

    Args:
        rows: Whatever was asked for.
        probes: That it was asked of.
        phase: Of the row that counts.
    """
    kept: list[Measured] = []
    missing: list[NotMeasured] = []
    for row in rows:
        if isinstance(row, NotMeasured):
            missing.append(row)
        elif not math.isfinite(row.estimate.value):
            why = f"its value {row.phase} is not a finite number"
            missing.append(NotMeasured(metric=row.metric, group=row.group, why=why))
        else:
            kept.append(row)
    names = list(dict.fromkeys(f"{item.metric} on {item.group}: {item.why}" for item in missing))
    if len(names) > _SHOWN:
        names[_SHOWN:] = [f"and {len(names) - _SHOWN} more"]
    count = Measured(
        metric="metrics_not_measured",
        group="report",
        phase=phase,
        estimate=_plain(len(kept) + len(missing), float(len(missing))),
        seed=probes.seed,
        probe_sha256=probe_digest(probes.forgotten),
        note="; ".join(names),
    )
    return [*kept, count]


def _plain(n: int, value: float) -> Estimate:
    """A value that is no mean, so no interval belongs to it."""
    return Estimate(n=n, value=value, low=None, high=None)
