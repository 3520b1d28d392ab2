"""Comparisons between phases: the numbers that thresholds are set on.

Each compares documents with themselves, so that no choice of reserved text can hide a fault:

    loss_gap_closed             mean loss after, between before (0) and the reference (1)
    over_forgetting             by how much it is above 1, where a reference run was given
    extraction_strength_excess  mean extraction strength after, above that of never-trained text
    sink_residual               worst document: what its erased sinks still change, nats
    placebo_share               effect of erasing as many other sequences, as a share of the effect
    routing_advantage           loss under another sequence's sinks minus own, before
    kept_copy_share             worst document: how much of its recall a kept sequence gives back
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from sinkmodel.evaluate.metrics import loss_gap_closed

# Below this a document was not remembered, and shares of its recall mean nothing.
_MIN_RECALL = 0.1  # nats per token

Values = Mapping[str, Sequence[float]]  # metric -> one number for each document


@dataclass(frozen=True, kw_only=True)
class Phases:
    """One group of forgotten documents in every phase, by metric.

    Args:
        before, after, backbone, placebo, wrong: As `sinkmodel.evaluate.measure` describes them.
        routed: After, under the kept sequence that resembles each document most; None if no
            such sequences were looked for.
        reference: On a run that never saw the documents; None if there is none.
        reserved: Reserved documents; empty lists if there are none.
    """

    before: Values
    after: Values
    backbone: Values
    placebo: Values
    wrong: Values
    routed: Values | None
    reference: Values | None
    reserved: Values


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One comparison."""

    metric: str
    value: float
    note: str


def compare_phases(phases: Phases) -> Iterator[Compared]:
    """Every comparison that these phases allow; what they do not allow is left out, not guessed."""
    before, after = fmean(phases.before["loss"]), fmean(phases.after["loss"])
    yield from _gap(phases, before, after)
    yield from _excess(phases)
    yield Compared(
        metric="sink_residual",
        value=float(np.abs(_difference(phases.after, phases.backbone)).max()),
        note="worst document: loss with its erased sinks on again, against all sinks off",
    )
    if after != before:
        yield Compared(
            metric="placebo_share",
            value=(fmean(phases.placebo["loss"]) - before) / (after - before),
            note="effect of erasing other sequences instead",
        )
    yield Compared(
        metric="routing_advantage",
        value=fmean(phases.wrong["loss"]) - before,
        note="loss under another sequence's sinks, minus own",
    )
    yield from _kept_copies(phases)


def _gap(phases: Phases, before: float, after: float) -> Iterator[Compared]:
    if phases.reference is not None:
        wanted, against = fmean(phases.reference["loss"]), "a run that never saw these documents"
    elif phases.reserved["loss"]:
        wanted, against = fmean(phases.reserved["loss"]), "reserved documents"
    else:
        return
    if not wanted > before:
        return  # no gap to close: the run did not remember these documents
    closed = loss_gap_closed(before, after, wanted)
    yield Compared(metric="loss_gap_closed", value=closed, note=f"reference: {against}")
    if phases.reference is not None:
        note = "loss above that of a run that never saw these documents, as a share of the gap"
        yield Compared(metric="over_forgetting", value=max(0.0, closed - 1.0), note=note)


def _excess(phases: Phases) -> Iterator[Compared]:
    name = "extraction_strength"
    floors = [phases.reserved[name]] if phases.reserved[name] else []
    if phases.reference is not None:
        floors.append(phases.reference[name])
    if floors:
        excess = fmean(phases.after[name]) - max(map(fmean, floors))
        yield Compared(metric=f"{name}_excess", value=excess, note="above never-trained text")


def _kept_copies(phases: Phases) -> Iterator[Compared]:
    if phases.routed is None:
        return
    recall = _difference(phases.backbone, phases.before)
    returned = _difference(phases.backbone, phases.routed)
    remembered = recall >= _MIN_RECALL
    if not remembered.any():
        return
    yield Compared(
        metric="kept_copy_share",
        value=float((returned[remembered] / recall[remembered]).max()),
        note="worst document: share of its recall that the most similar kept sequence gives back",
    )


def _difference(a: Values, b: Values) -> np.ndarray:
    return np.asarray(a["loss"]) - np.asarray(b["loss"])
