"""The default measurement of a forget report: before, after, and the controls that keep it honest.

    Probes        which documents are measured: forgotten, kept, reserved
    measure_before   on the run as it is, with its controls (needs the run once, before the erase)
    measure_after    on the erased run, with its sinks switched on again, and compared

Controls:
    backbone    the forgotten documents with all sinks off: what the shared neurons hold
    placebo     as many random other sequences erased in memory instead: a real effect is far larger
    wrong sinks the forgotten documents under another sequence's sinks: a wrong map looks like this
    after       the erased sinks are routed to *again*: switching the routing off is not forgetting
    routed      the forgotten documents under the kept sequence that resembles each most: a copy
                that was kept under another ID still recites the text
    held-out    reserved documents, before and after: a broken model forgets everything
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sinkmodel.evaluate.controls import other_sequences, reactivated, zeroed
from sinkmodel.evaluate.probes import Probe, Probes
from sinkmodel.evaluate.rows import (
    Before,
    Measured,
    Scored,
    forgotten_rows,
    interval_rows,
    kept_rows,
    membership_rows,
    settled_rows,
)
from sinkmodel.evaluate.scorer import Scorer
from sinkmodel.evaluate.scores import no_sinks, own_sinks
from sinkmodel.modeling_sink import SinkForCausalLM


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to measure, and the name of its weights.

    Args:
        model: In eval mode.
        checkpoint: Digest of what its weights are; "" where nothing may be kept of the scores.
    """

    model: SinkForCausalLM
    checkpoint: str = ""


@dataclass(frozen=True, kw_only=True)
class After:
    """What was scored after the erase; `routed` is None where no index says where to look."""

    own: Scored
    kept: Scored
    held_out: Scored
    routed: Scored | None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The result: rows for the statement, and what its plots show.

    Args:
        rows: Every metric by group and phase.
        documents: For each forgotten probe: loss before, after, and on the reference run.
        kept: For each kept probe: change of its loss.
        after: The scores behind them.
    """

    rows: tuple[Measured, ...]
    documents: tuple[tuple[Probe, float, float, float | None], ...]
    kept: tuple[tuple[Probe, float], ...]
    after: After


def measure_before(
    subject: Subject, probes: Probes, scorer: Scorer, *, reference: Subject | None = None
) -> Before:
    """Measure the run before the erase, and its controls.

    Args:
        subject: The run to forget from.
        probes: What to measure.
        scorer: Scores it.
        reference: A run of the same recipe that never saw the forgotten documents, if there is one.
    """
    model, name = subject.model, subject.checkpoint
    others = other_sequences(model.sink_map, set(probes.policies), probes.seed)
    wrong = dict(zip(sorted(probes.policies), others, strict=False)) if others else {}
    placebo_ids = others[: len(probes.policies)]
    erased = f"{name} without {placebo_ids}" if name else ""
    with zeroed(model, placebo_ids):
        placebo = scorer("placebo", model, probes.forgotten, own_sinks, checkpoint=erased)
    return Before(
        own=scorer("own sinks", model, probes.forgotten, own_sinks, checkpoint=name),
        backbone=scorer("sinks off", model, probes.forgotten, no_sinks, checkpoint=name),
        placebo=placebo,
        wrong=scorer(
            "wrong sinks",
            model,
            probes.forgotten,
            lambda p: wrong.get(p.sequence_id, 0),
            checkpoint=name,
            recites=False,
        ),
        kept=scorer("kept", model, probes.kept, own_sinks, checkpoint=name),
        held_out=scorer("reserved", model, probes.held_out, no_sinks, checkpoint=name),
        reference=None
        if reference is None
        else scorer(
            "reference",
            reference.model,
            probes.forgotten,
            no_sinks,
            checkpoint=reference.checkpoint,
        ),
    )


def measure_after(
    subject: Subject,
    probes: Probes,
    before: Before,
    scorer: Scorer,
    *,
    nearest: Mapping[int, int] | None = None,
) -> Measurement:
    """Measure the erased run and set it beside what was before.

    The forgotten IDs are routed to their erased blocks again, in memory only: whoever has the files
    could do the same.

    Args:
        subject: The erased run.
        probes: As given to `measure_before`.
        before: What that returned.
        scorer: Scores it.
        nearest: Forgotten sequence -> the kept one that resembles it most, 0 if none does; None
            where the run has no index to look in.
    """
    after = _score_after(subject, probes, scorer, nearest)
    rows = settled_rows(
        [
            *forgotten_rows(probes, before, after.own, after.routed),
            *interval_rows(probes, reference=before.reference is not None),
            *membership_rows(probes, after.own, after.held_out),
            *kept_rows(probes, before, after.kept, after.held_out),
        ],
        probes,
    )
    reference = before.reference
    references = reference.losses() if reference else [None] * len(probes.forgotten)
    losses = before.own.losses(), after.own.losses(), references
    kept = zip(probes.kept, before.kept.losses(), after.kept.losses(), strict=True)
    return Measurement(
        rows=tuple(rows),
        documents=tuple(zip(probes.forgotten, *losses, strict=True)),
        kept=tuple((probe, new - old) for probe, old, new in kept),
        after=after,
    )


def _score_after(
    subject: Subject, probes: Probes, scorer: Scorer, nearest: Mapping[int, int] | None
) -> After:
    model, name = subject.model, subject.checkpoint
    with reactivated(model, probes.policies):
        own = scorer("after: own sinks", model, probes.forgotten, own_sinks, checkpoint=name)
    routed = None
    if nearest is not None:
        routed = scorer(
            "after: nearest kept",
            model,
            probes.forgotten,
            lambda p: nearest[p.sequence_id],
            checkpoint=name,
            recites=False,
        )
    return After(
        own=own,
        kept=scorer("after: kept", model, probes.kept, own_sinks, checkpoint=name),
        held_out=scorer("after: reserved", model, probes.held_out, no_sinks, checkpoint=name),
        routed=routed,
    )
