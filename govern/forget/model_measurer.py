"""The `Measurer` that loads runs and scores documents: the default behavioural evidence.

Thresholds are fixed here, by policy, before anything is measured. Documents are sampled by a keyed
hash where there are many, so that the cost of a report is bounded and the sample is reproducible.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from govern.audit.statement import MetricRow, Threshold
from govern.forget.measuring import DocumentChange, Measurements, MeasureRequest
from govern.ids.texts import read_texts
from manifests import Manifest
from manifests.errors import CheckpointError

if TYPE_CHECKING:
    import pyarrow as pa

    from sinkmodel.checkpoint import Run
    from sinkmodel.evaluate.probes import Probe, Probes
    from sinkmodel.evaluate.rows import Measured

DOCUMENTS_PER_SEQUENCE = 4
MAX_FORGOTTEN = MAX_KEPT = MAX_HELD_OUT = 100

# Wanted of each policy: share of the loss gap that the erase closes (see docs/results).
_GAP = {"strict": 0.99, "private": 0.9, "pooled": 0.5}
_EXTRACTION_EXCESS = 0.05
_PLACEBO_SHARE = 0.1

Key = tuple[str, str, int]  # source, document ID, sequence ID


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
        found = []
        for policy in sorted(set(request.policies.values()) - {"shared"}):
            group = f"forgotten:{policy}"
            found += [
                Threshold(
                    metric="loss_gap_closed", group=group, comparison=">=", bound=_GAP[policy]
                ),
                Threshold(
                    metric="extraction_strength_excess",
                    group=group,
                    comparison="<=",
                    bound=_EXTRACTION_EXCESS,
                ),
                Threshold(
                    metric="placebo_share",
                    group=group,
                    comparison="<=",
                    bound=_PLACEBO_SHARE,
                    on_breach="WARNED",
                ),
                Threshold(
                    metric="routing_advantage",
                    group=group,
                    comparison=">=",
                    bound=0.0,
                    on_breach="WARNED",
                ),
            ]
        if not request.share_lost:
            found.append(
                Threshold(metric="identical_losses", group="kept", comparison="==", bound=1.0)
            )
        found.append(
            Threshold(metric="worst_loss_change", group="held-out", comparison="<=", bound=0.0)
        )
        return tuple(found)

    def before(self, run: Path, request: MeasureRequest) -> bytes:
        """Measure the run as it is, with its controls; see `Measurer`."""
        from sinkmodel.checkpoint import load_run
        from sinkmodel.evaluate.archive import pack
        from sinkmodel.evaluate.measure import measure_before

        loaded = load_run(run)
        probes = self._probes(loaded, request)
        reference = self._reference(loaded)
        return pack(
            measure_before(
                loaded.model,
                probes,
                context_length=loaded.context_length,
                reference=None if reference is None else reference.model,
            )
        )

    def after(self, run: Path, request: MeasureRequest, before: bytes) -> Measurements:
        """Measure the erased run and compare; see `Measurer`."""
        from sinkmodel.checkpoint import load_run
        from sinkmodel.evaluate.archive import unpack
        from sinkmodel.evaluate.measure import measure_after

        loaded = load_run(run, settled=False)
        probes = self._probes(loaded, request)
        measured = measure_after(
            loaded.model, probes, unpack(before), context_length=loaded.context_length
        )
        changes: dict[int, list[float]] = {}
        for probe, change in measured.kept:
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
            ),
            kept={key: max(values, key=abs) for key, values in sorted(changes.items())},
        )

    # --- what is measured ------------------------------------------------------------------------

    def _reference(self, run: Run) -> Run | None:
        if self.reference is None:
            return None
        from sinkmodel.checkpoint import load_run

        reference = load_run(self.reference)
        if reference.tokenizer.get_vocab() != run.tokenizer.get_vocab():
            raise CheckpointError(
                f"reference run {self.reference}",
                expected="the tokenizer of the run",
                found="another vocabulary, under which losses cannot be compared",
                remedy="train the reference with --set tokenizer=RUN",
            )
        return reference

    def _probes(self, run: Run, request: MeasureRequest) -> Probes:
        from sinkmodel.evaluate.probes import Probes

        forgotten = self._sampled(request.forgotten, MAX_FORGOTTEN)
        owners = run.model.sink_map
        owning = {
            int(i)
            for i, blocks, active in zip(
                owners.sequence_ids,
                owners.table["blocks"].to_pylist(),
                owners.active,
                strict=True,
            )
            if blocks and active and int(i) not in request.policies
        }
        known = _documents(request.manifest)
        kept = self._sampled((key for key in known.keys if key[2] in owning), MAX_KEPT)
        held = self._sampled((key for key in known.keys if key[2] in known.reserved), MAX_HELD_OUT)
        texts = _texts({*forgotten, *kept, *held}, request.manifest, self.corpus)
        make = _ProbeMaker(run, texts)
        return Probes(
            forgotten=tuple(make(key, key[2]) for key in forgotten),
            policies=dict(request.policies),
            kept=tuple(make(key, key[2]) for key in kept),
            held_out=tuple(make(key, 0) for key in held),
            seed=self.seed,
        )

    def _sampled(self, keys: Iterable[Key], most: int) -> list[Key]:
        """At most `most` documents, `DOCUMENTS_PER_SEQUENCE` of each sequence, in keyed order."""

        def rank(key: Key) -> bytes:
            return hashlib.sha256(json.dumps([self.seed, *key[:2]]).encode()).digest()

        taken: dict[int, int] = {}
        chosen = []
        for key in sorted(keys, key=rank):
            if taken.get(key[2], 0) < DOCUMENTS_PER_SEQUENCE:
                taken[key[2]] = taken.get(key[2], 0) + 1
                chosen.append(key)
        return sorted(chosen[:most], key=lambda key: (key[2], key[0], key[1]))


@dataclass(frozen=True, kw_only=True)
class _Documents:
    keys: tuple[Key, ...]
    reserved: frozenset[int]


def _documents(manifest: Manifest) -> _Documents:
    documents = manifest.table("documents", ["source", "doc_id", "sequence_id"])
    sequences = manifest.table("sequences", ["sequence_id", "reserved"])
    reserved = sequences.filter(sequences["reserved"])["sequence_id"].to_pylist()
    columns = (documents[name].to_pylist() for name in ("source", "doc_id", "sequence_id"))
    return _Documents(keys=tuple(zip(*columns, strict=True)), reserved=frozenset(reserved))


def _texts(
    keys: Iterable[Key], manifest: Manifest, corpus: Sequence[str] | None
) -> Mapping[tuple[str, str], str]:
    wanted = {key[:2] for key in keys}
    found: dict[tuple[str, str], str] = {}
    batch: pa.RecordBatch
    for batch in read_texts(manifest, corpus):
        columns = (batch.column(name).to_pylist() for name in ("source", "doc_id", "text"))
        for source, doc_id, text in zip(*columns, strict=True):
            if (source, doc_id) in wanted:
                found[source, doc_id] = text
    return found


class _ProbeMaker:
    """Documents to probes, encoded as training encoded them."""

    def __init__(self, run: Run, texts: Mapping[tuple[str, str], str]) -> None:
        self._tokenizer = run.tokenizer
        self._texts = texts
        self._most = int(run.record["config"]["max_document_tokens"])

    def __call__(self, key: Key, sequence_id: int) -> Probe:
        from sinkmodel.evaluate.probes import Probe
        from sinkmodel.tokens import encode

        text = self._texts[key[:2]]
        return Probe(
            key=key[:2],
            sequence_id=sequence_id,
            tokens=encode([text], self._tokenizer, self._most)[0],
            text=text.encode(),
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
