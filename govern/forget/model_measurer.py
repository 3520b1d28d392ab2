"""The `Measurer` that loads runs and scores documents: the default behavioural evidence.

Thresholds are fixed here, by policy, before anything is measured. What could not be measured, and
what stands on too few documents, has a threshold of its own, so that no report passes over it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from govern.audit.measured import MetricRow, Threshold
from govern.evaluate.probing import Chosen, load_reference, make_probes
from govern.forget.measuring import DocumentChange, Measurements, MeasureRequest
from sinkmodel.evaluate.probes import group_of

if TYPE_CHECKING:
    from sinkmodel.checkpoint import Run
    from sinkmodel.evaluate.probes import Probes
    from sinkmodel.evaluate.rows import Measured

# Wanted of each policy: share of the loss gap that the erase closes (see docs/results).
_GAP = {"strict": 0.99, "private": 0.9, "pooled": 0.5}
_EXTRACTION_EXCESS = 0.05
_SINK_RESIDUAL = 1e-3  # nats; erased sinks add nothing, so only rounding is allowed
_PLACEBO_SHARE = 0.1
_KEPT_COPY_SHARE = 0.5
_OVER_FORGETTING = 0.5


@dataclass(frozen=True, kw_only=True)
class ModelMeasurer:
    """Measures with the models themselves.

    Args:
        corpus: Where the text lies now; None: where the manifest was built from.
        reference: A run of the same recipe and tokenizer that never saw the forgotten documents.
            None measures against reserved documents.
        seed: Of samples and intervals.
    """

    corpus: Sequence[str] | None = None
    reference: Path | None = None
    seed: int = 0

    def thresholds(self, request: MeasureRequest) -> tuple[Threshold, ...]:
        """The bounds of the verdict, by policy; see `Measurer`."""
        found = [
            threshold
            for policy in sorted(set(request.policies.values()) - {"shared"})
            for threshold in self._of_policy(policy)
        ]
        if not request.share_lost:
            found.append(
                Threshold(metric="identical_losses", group="kept", comparison="==", bound=1.0)
            )
        found += [
            Threshold(metric="worst_loss_change", group="held-out", comparison="<=", bound=0.0),
            _warning("interval_missing", None, "<=", 0.0),
            _warning("metrics_not_measured", "report", "<=", 0.0),
        ]
        return tuple(found)

    def _of_policy(self, policy: str) -> list[Threshold]:
        group = group_of(policy)
        found = [
            Threshold(metric="loss_gap_closed", group=group, comparison=">=", bound=_GAP[policy]),
            Threshold(
                metric="extraction_strength_excess",
                group=group,
                comparison="<=",
                bound=_EXTRACTION_EXCESS,
            ),
            Threshold(metric="sink_residual", group=group, comparison="<=", bound=_SINK_RESIDUAL),
            _warning("placebo_share", group, "<=", _PLACEBO_SHARE),
            _warning("routing_advantage", group, ">=", 0.0),
            _warning("kept_copy_share", group, "<=", _KEPT_COPY_SHARE),
        ]
        if self.reference is not None:
            found.append(_warning("over_forgetting", group, "<=", _OVER_FORGETTING))
        return found

    def before(self, run: Path, request: MeasureRequest) -> bytes:
        """Measure the run as it is, with its controls; see `Measurer`."""
        from sinkmodel.checkpoint import load_run
        from sinkmodel.evaluate.archive import pack
        from sinkmodel.evaluate.measure import Subject, measure_before
        from sinkmodel.evaluate.scorer import Scorer

        loaded = load_run(run)
        probes = self._probes(loaded, request)
        ids = [probe.sequence_id for probe in probes.forgotten]
        reference = None if self.reference is None else load_reference(self.reference, loaded, ids)
        return pack(
            measure_before(
                Subject(model=loaded.model),
                probes,
                Scorer(context_length=loaded.context_length),
                reference=None if reference is None else Subject(model=reference.model),
            )
        )

    def after(self, run: Path, request: MeasureRequest, before: bytes) -> Measurements:
        """Measure the erased run and compare; see `Measurer`."""
        from govern.evaluate.neighbours import nearest_kept
        from sinkmodel.checkpoint import load_run
        from sinkmodel.evaluate.archive import unpack
        from sinkmodel.evaluate.measure import Subject, measure_after
        from sinkmodel.evaluate.scorer import Scorer

        loaded = load_run(run, settled=False)
        probes = self._probes(loaded, request)
        measured = measure_after(
            Subject(model=loaded.model),
            probes,
            unpack(before),
            Scorer(context_length=loaded.context_length),
            nearest=nearest_kept(loaded, probes.forgotten, request.policies.keys()),
        )
        # What is not finite is named in `metrics_not_measured`; a statement holds numbers only.
        changes: dict[int, list[float]] = {}
        for probe, change in measured.kept:
            if math.isfinite(change):
                changes.setdefault(probe.sequence_id, []).append(change)
        return Measurements(
            rows=tuple(_statement_row(row) for row in measured.rows),
            documents=tuple(
                DocumentChange(
                    source=probe.key[0],
                    doc_id=probe.key[1],
                    before=old,
                    after=new,
                    reference=reference,
                )
                for probe, old, new, reference in measured.documents
                if all(math.isfinite(loss) for loss in (old, new, reference or 0.0))
            ),
            kept={key: max(values, key=abs) for key, values in sorted(changes.items())},
        )

    # --- what is measured ------------------------------------------------------------------------

    def _probes(self, run: Run, request: MeasureRequest) -> Probes:
        chosen = Chosen(documents=request.forgotten, policies=request.policies)
        return make_probes(run, request.manifest, chosen, corpus=self.corpus, seed=self.seed)


def _warning(
    metric: str, group: str | None, comparison: Literal["<=", ">="], bound: float
) -> Threshold:
    return Threshold(
        metric=metric, group=group, comparison=comparison, bound=bound, on_breach="WARNED"
    )


def _statement_row(row: Measured) -> MetricRow:
    return MetricRow(
        metric=row.metric,
        group=row.group,
        phase=row.phase,  # type: ignore[arg-type]  # the phases of `rows` are those of a statement
        n=row.estimate.n,
        value=row.estimate.value,
        low=row.estimate.low,
        high=row.estimate.high,
        seed=row.seed,
        probe_sha256=row.probe_sha256,
        note=row.note,
    )
