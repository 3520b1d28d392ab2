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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sinkmodel.evaluate.controls import other_sequences, reactivated, zeroed
from sinkmodel.evaluate.generation import recite
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
from sinkmodel.evaluate.scores import no_sinks, own_sinks, score
from sinkmodel.modeling_sink import SinkForCausalLM

PREFIX = LENGTH = 50  # the 50/50 extraction of arXiv 2202.07646


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The result: rows for the statement, and what its plots show.

    Args:
        rows: Every metric by group and phase.
        documents: For each forgotten probe: loss before, after, and on the reference run.
        kept: For each kept probe: change of its loss.
    """

    rows: tuple[Measured, ...]
    documents: tuple[tuple[Probe, float, float, float | None], ...]
    kept: tuple[tuple[Probe, float], ...]


def measure_before(
    model: SinkForCausalLM,
    probes: Probes,
    *,
    context_length: int,
    reference: SinkForCausalLM | None = None,
) -> Before:
    """Measure the run before the erase, and its controls.

    Args:
        model: The run to forget from.
        probes: What to measure.
        context_length: Tokens a row had in training.
        reference: A run of the same recipe that never saw the forgotten documents, if there is one.
    """

    def scored(
        which: SinkForCausalLM, some: Sequence[Probe], route: Callable[[Probe], int]
    ) -> Scored:
        return _scored(which, some, route, context_length)

    others = other_sequences(model.sink_map, set(probes.policies), probes.seed)
    wrong = dict(zip(sorted(probes.policies), others, strict=False)) if others else {}
    with zeroed(model, others[: len(probes.policies)]):
        placebo = scored(model, probes.forgotten, own_sinks)
    return Before(
        own=scored(model, probes.forgotten, own_sinks),
        backbone=scored(model, probes.forgotten, no_sinks),
        placebo=placebo,
        wrong=scored(model, probes.forgotten, lambda p: wrong.get(p.sequence_id, 0)),
        kept=scored(model, probes.kept, own_sinks),
        held_out=scored(model, probes.held_out, no_sinks),
        reference=None if reference is None else scored(reference, probes.forgotten, no_sinks),
    )


def measure_after(
    model: SinkForCausalLM,
    probes: Probes,
    before: Before,
    *,
    context_length: int,
    nearest: Mapping[int, int] | None = None,
) -> Measurement:
    """Measure the erased run and set it beside what was before.

    The forgotten IDs are routed to their erased blocks again, in memory only: whoever has the files
    could do the same.

    Args:
        model: The erased run.
        probes: As given to `measure_before`.
        before: What that returned.
        context_length: Tokens a row had in training.
        nearest: Forgotten sequence -> the kept one that resembles it most, 0 if none does; None
            where the run has no index to look in.
    """
    with reactivated(model, probes.policies):
        after = _scored(model, probes.forgotten, own_sinks, context_length)
    kept = _scored(model, probes.kept, own_sinks, context_length)
    held_out = _scored(model, probes.held_out, no_sinks, context_length)
    routed = None
    if nearest is not None:
        routed = _scored(
            model, probes.forgotten, lambda p: nearest[p.sequence_id], context_length, recites=False
        )
    rows = settled_rows(
        [
            *forgotten_rows(probes, before, after, routed),
            *interval_rows(probes, reference=before.reference is not None),
            *membership_rows(probes, after, held_out),
            *kept_rows(probes, before, kept, held_out),
        ],
        probes,
    )
    reference = before.reference
    references = reference.losses() if reference else [None] * len(probes.forgotten)
    return Measurement(
        rows=tuple(rows),
        documents=tuple(
            zip(probes.forgotten, before.own.losses(), after.losses(), references, strict=True)
        ),
        kept=tuple(
            (probe, new - old)
            for probe, old, new in zip(
                probes.kept, before.kept.losses(), kept.losses(), strict=True
            )
        ),
    )


def _scored(
    model: SinkForCausalLM,
    probes: Sequence[Probe],
    route: Callable[[Probe], int],
    context_length: int,
    *,
    recites: bool = True,
) -> Scored:
    scores = score(model, probes, context_length=context_length, route=route)
    if not recites:
        return Scored(scores=tuple(scores))
    recitals = recite(
        model,
        [probe.tokens for probe in probes],
        [route(probe) for probe in probes],
        prefix=PREFIX,
        length=LENGTH,
    )
    return Scored(scores=tuple(scores), recitals=tuple(recitals))
