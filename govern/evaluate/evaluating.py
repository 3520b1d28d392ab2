"""Evaluate: choose documents, measure them with every control, and return tables. One call.

What forgetting would do is simulated in memory (`erased`: the chosen documents' sinks zeroed), so
that any run can be asked, and a run that has forgotten them answers the same before and after.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from govern.evaluate.neighbours import nearest_kept
from govern.evaluate.probing import MAX_DOCUMENTS, Chosen, load_reference, make_probes, read_nearest
from govern.forget.run_view import read_run, require_trained_on
from manifests import Manifest, open_manifest
from manifests.errors import SelectionError
from manifests.files import sha256_file
from manifests.queries import documents_where
from sinkmodel.evaluate.probes import Probe, Probes, probe_digest

if TYPE_CHECKING:
    from sinkmodel.checkpoint import Run
    from sinkmodel.evaluate.measure import Measurement, Subject
    from sinkmodel.evaluate.rows import Before, Measured, Scored
    from sinkmodel.evaluate.scorer import Scorer

STEPS = 10  # probe sets that a default evaluation scores; two more with a reference run
_METRICS = pa.schema(
    [
        *((name, pa.string()) for name in ("metric", "group", "phase")),
        ("n", pa.int64()),
        *((name, pa.float64()) for name in ("value", "low", "high")),
        ("seed", pa.int64()),
        ("probe_sha256", pa.string()),
        ("note", pa.string()),
    ]
)
_PER_DOCUMENT = (
    *("loss", "extraction_strength", "exact_memorization"),
    *("verbatim_tokens", "extraction_50_50", "rouge_l_50_50"),
)
_DOCUMENTS = pa.schema(
    [
        *((name, pa.string()) for name in ("source", "doc_id")),
        ("sequence_id", pa.int64()),
        *((name, pa.string()) for name in ("policy", "group", "phase")),
        ("n_tokens", pa.int64()),
        *((name, pa.float64()) for name in _PER_DOCUMENT),
    ]
)


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """What to evaluate.

    Args:
        run: The run directory.
        manifest: That it was trained on.
        where: Condition on `document_sequences`; None: everything that owns sinks.
        corpus: Where the text lies now; empty: where the manifest was built from.
        reference: A run that never saw the chosen documents; None measures against reserved ones.
        most: Documents of each kind at most.
        full: Also attack the erased run.
        seed: Of samples and intervals.
    """

    run: Path
    manifest: Path
    where: str | None = None
    corpus: tuple[str, ...] = ()
    reference: Path | None = None
    most: int = MAX_DOCUMENTS
    full: bool = False
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured.

    Args:
        request: What was asked.
        metrics: metric, group, phase, n, value, low, high (95 % interval, null where there is
            none), seed, probe_sha256, note. Phases: before, erased, backbone, placebo, reference.
        documents: One row for each measured document and phase, with its metrics.
        attacks: What attacks brought out (`attacking.SCHEMA`); None where none were asked for.
        checkpoint: Digest of the run's weights and sink map.
        probes: Digest of the documents measured.
        chosen: Documents that matched, were trained on, and were measured.
    """

    request: EvaluateRequest
    metrics: pa.Table
    documents: pa.Table
    attacks: pa.Table | None
    checkpoint: str
    probes: str
    chosen: Mapping[str, int]


def evaluate(
    request: EvaluateRequest,
    *,
    cache: Path | None = None,
    report: Callable[[str], None] | None = None,
    announce: Callable[[int, float], None] | None = None,
) -> Evaluation:
    """Measure what a run remembers of chosen documents, with every control.

    Args:
        request: What to evaluate.
        cache: Where scores are kept, so that the same question is answered at once.
        report: Called after each step.
        announce: Told before the attacks of a full evaluation how many tasks they are, and the
            seconds that those not done yet will take.

    Raises:
        SelectionError: The run was trained on none of the documents.
        CheckpointError, ManifestError, InputError: Something given cannot be used.
    """
    from sinkmodel.evaluate.controls import reactivated, zeroed
    from sinkmodel.evaluate.measure import Subject, measure_after, measure_before
    from sinkmodel.evaluate.scorer import Scorer

    asked = _prepare(request)
    run, probes = asked.run, asked.probes
    scorer = Scorer(context_length=run.context_length, cache=cache, report=report)
    with reactivated(run.model, probes.policies):
        subject = Subject(model=run.model, checkpoint=asked.checkpoint)
        before = measure_before(subject, probes, scorer, reference=asked.reference)
        nearest = nearest_kept(run, probes.forgotten, probes.policies.keys())
        with zeroed(run.model, list(probes.policies)):
            name = f"{asked.checkpoint} without {sorted(probes.policies)}"
            erased = replace(subject, checkpoint=name)
            measured = measure_after(erased, probes, before, scorer, nearest=nearest)
        attacked = _attack(asked, nearest, scorer, announce) if request.full else None
    rows = [*measured.rows, *_membership(asked, before, measured, scorer)]
    return Evaluation(
        request=request,
        metrics=pa.Table.from_pylist([_metric(row) for row in rows], schema=_METRICS),
        documents=_documents(probes, before, measured),
        attacks=attacked,
        checkpoint=asked.checkpoint,
        probes=probe_digest([*probes.forgotten, *probes.kept, *probes.held_out]),
        chosen=asked.counts,
    )


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What a request comes to: the run, the documents, and whom they are compared with."""

    request: EvaluateRequest
    manifest: Manifest
    run: Run
    probes: Probes
    checkpoint: str
    reference: Subject | None
    counts: Mapping[str, int]


def _prepare(request: EvaluateRequest) -> _Asked:
    from sinkmodel.checkpoint import load_run
    from sinkmodel.evaluate.measure import Subject

    manifest = open_manifest(request.manifest)
    require_trained_on(read_run(request.run), manifest)
    run = load_run(request.run)
    chosen, matched = choose(manifest, run, request.where)
    corpus = list(request.corpus) or None
    probes = make_probes(run, manifest, chosen, corpus=corpus, most=request.most, seed=request.seed)
    reference = None
    if request.reference is not None:
        ids = [probe.sequence_id for probe in probes.forgotten]
        loaded = load_reference(request.reference, run, ids)
        digest = checkpoint_digest(request.reference)
        reference = Subject(model=loaded.model, checkpoint=digest)
    return _Asked(
        request=request,
        manifest=manifest,
        run=run,
        probes=probes,
        checkpoint=checkpoint_digest(request.run),
        reference=reference,
        counts={
            "matched": matched,
            "trained": len(chosen.documents),
            "measured": len(probes.forgotten),
        },
    )


def _membership(
    asked: _Asked, before: Before, measured: Measurement, scorer: Scorer
) -> Iterator[Measured]:
    """Membership inference on the run as it is and on the reference, and PrivLeak between them."""
    from sinkmodel.evaluate.rows import membership_rows, privacy_rows, settled_rows
    from sinkmodel.evaluate.scores import no_sinks

    probes, reference = asked.probes, asked.reference
    rows = [*membership_rows(probes, before.own, before.held_out, phase="before")]
    if reference is not None and before.reference is not None:
        held_out = scorer(
            "reference: reserved",
            reference.model,
            probes.held_out,
            no_sinks,
            checkpoint=reference.checkpoint,
            recites=False,
        )
        never = [*membership_rows(probes, before.reference, held_out, phase="reference")]
        rows += [*never, *privacy_rows(measured.rows, never)]
    yield from settled_rows(rows, probes, phase="before")


def _attack(
    asked: _Asked,
    nearest: Mapping[int, int] | None,
    scorer: Scorer,
    announce: Callable[[int, float], None] | None,
) -> pa.Table:
    """Every attack on the run as it would be erased, and on the reference."""
    from govern.evaluate.attacking import estimate_seconds, plan_attacks, run_attacks
    from sinkmodel.evaluate.suite import ERASED, REFERENCE, Target

    request = asked.request
    corpus = list(request.corpus) or None
    near = read_nearest(asked.run, asked.manifest, nearest or {}, corpus=corpus, seed=request.seed)
    probes = replace(asked.probes, nearest=near)
    erase = tuple(probes.policies)
    targets = [Target(name=ERASED, model=asked.run.model, checkpoint=asked.checkpoint, erase=erase)]
    if asked.reference is not None:
        asked_for = (*probes.forgotten, *probes.kept, *near.values())
        ids = {*probes.policies, *(probe.sequence_id for probe in asked_for)}
        known = asked.reference.model.sink_map.sequence_ids.tolist()
        targets.append(
            Target(
                name=REFERENCE,
                model=asked.reference.model,
                checkpoint=asked.reference.checkpoint,
                unknown=frozenset(ids.difference(known)),
            )
        )
    tasks = plan_attacks(targets)
    if announce is not None:
        announce(len(tasks), estimate_seconds(tasks, probes, scorer, scorer.cache))
    return run_attacks(tasks, probes, scorer, cache=scorer.cache, report=scorer.report)


def choose(manifest: Manifest, run: Run, where: str | None) -> tuple[Chosen, int]:
    """The documents that the run was trained on among those that match, and how many match.

    Raises:
        SelectionError: There are none.
    """
    table = run.model.sink_map.table
    columns = (table[name].to_pylist() for name in ("sequence_id", "policy", "blocks"))
    policies = {i: p for i, p, blocks in zip(*columns, strict=True) if blocks or where is not None}
    found = documents_where(manifest, "NOT reserved" if where is None else where)
    keys = zip(
        *(found[name].to_pylist() for name in ("source", "doc_id", "sequence_id")), strict=True
    )
    documents = tuple(key for key in keys if key[2] in policies)
    if not documents:
        raise SelectionError(
            "documents to evaluate",
            expected="some that the run was trained on"
            + (" and that own sinks" if where is None else ""),
            found=f"none among {found.num_rows} that match",
            remedy="choose others with --where, for example --where \"policy = 'private'\"",
        )
    ids = {key[2] for key in documents}
    return Chosen(documents=documents, policies={i: policies[i] for i in sorted(ids)}), (
        found.num_rows
    )


def checkpoint_digest(run: Path) -> str:
    """SHA-256 over the names and digests of what a run's answers depend on."""
    files = [
        path
        for path in sorted(run.iterdir())
        if path.suffix in (".safetensors", ".parquet", ".json") and path.is_file()
    ]
    return hashlib.sha256(
        json.dumps([[path.name, sha256_file(path)] for path in files]).encode()
    ).hexdigest()


def _metric(row: Measured) -> dict[str, object]:
    return {
        "metric": row.metric,
        "group": _group(row.group),
        "phase": _phase(row.phase),
        "n": row.estimate.n,
        "value": row.estimate.value,
        "low": row.estimate.low,
        "high": row.estimate.high,
        "seed": row.seed,
        "probe_sha256": row.probe_sha256,
        "note": _group(row.note),
    }


def _group(name: str) -> str:
    return name.replace("forgotten", "chosen")


def _phase(name: str) -> str:
    """Nothing was forgotten here: `after` is what erasing in memory leaves."""
    return "erased" if name == "after" else name


def _documents(probes: Probes, before: Before, measured: Measurement) -> pa.Table:
    after = measured.after
    chosen: dict[str, Scored | None] = {
        "before": before.own,
        "erased": after.own,
        "backbone": before.backbone,
        "placebo": before.placebo,
        "wrong": before.wrong,
        "routed": after.routed,
        "reference": before.reference,
    }
    others = {
        "kept": (probes.kept, {"before": before.kept, "erased": after.kept}),
        "held-out": (probes.held_out, {"before": before.held_out}),
    }
    rows = list(_rows("chosen", probes.forgotten, probes.policies, chosen))
    for group, (some, phases) in others.items():
        rows += _rows(group, some, {}, phases)
    return pa.Table.from_pylist(rows, schema=_DOCUMENTS)


def _rows(
    group: str,
    probes: Sequence[Probe],
    policies: Mapping[int, str],
    phases: Mapping[str, Scored | None],
) -> Iterator[dict[str, object]]:
    from sinkmodel.evaluate.rows import values_of

    for phase, scored in phases.items():
        for index, probe in enumerate(probes if scored is not None else ()):
            assert scored is not None
            metrics = values_of(scored, [index])
            yield {
                "source": probe.key[0],
                "doc_id": probe.key[1],
                "sequence_id": probe.sequence_id,
                "policy": policies.get(probe.sequence_id),
                "group": group,
                "phase": phase,
                "n_tokens": len(probe.tokens),
                **{name: values[0] if values else None for name, values in metrics.items()},
            }
