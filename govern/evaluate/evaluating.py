"""Evaluate: choose documents, measure them with every control, and return tables. One call.

What forgetting would do is simulated in memory (`erased`: the chosen documents' sinks zeroed), so
that any run can be asked, and a run that has forgotten them answers the same before and after.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from govern.evaluate.neighbours import nearest_kept
from govern.evaluate.probing import MAX_DOCUMENTS, Chosen, load_reference, make_probes, read_nearest
from govern.evaluate.question_file import QuestionFile, read_questions
from govern.evaluate.tables import documents_table, metrics_table
from govern.forget.run_view import read_run, require_trained_on
from manifests import Manifest, open_manifest
from manifests.errors import SelectionError
from manifests.files import sha256_file
from manifests.queries import documents_where
from sinkmodel.evaluate.probes import Probes, probe_digest

if TYPE_CHECKING:
    from govern.evaluate.asking import Answers, Asking
    from sinkmodel.allocation import SinkMap
    from sinkmodel.checkpoint import Run
    from sinkmodel.evaluate.measure import Measurement, Subject
    from sinkmodel.evaluate.rows import Before, Measured, NotMeasured
    from sinkmodel.evaluate.scorer import Scorer

_STEPS = 10  # probe sets that a default evaluation scores


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
        questions: A file of questions to ask as well (`govern.evaluate.question_file`).
        template: What stands before an answer; None: as `sinkmodel.evaluate.questions` has it.
        seed: Of samples and intervals.
    """

    run: Path
    manifest: Path
    where: str | None = None
    corpus: tuple[str, ...] = ()
    reference: Path | None = None
    most: int = MAX_DOCUMENTS
    full: bool = False
    questions: Path | None = None
    template: str | None = None
    seed: int = 0


def count_steps(request: EvaluateRequest) -> int:
    """How often `evaluate` reports, attacks aside."""
    reference, questions = request.reference is not None, request.questions is not None
    return _STEPS + 2 * reference + questions * (2 + reference)


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
    from sinkmodel.evaluate.rows import settled_rows
    from sinkmodel.evaluate.scorer import Scorer

    asked = _prepare(request)
    run, probes = asked.run, asked.probes
    scorer = Scorer(context_length=run.context_length, cache=cache, report=report)
    questions = _Questions(asked, scorer)
    with reactivated(run.model, probes.policies):
        subject = Subject(model=run.model, checkpoint=asked.checkpoint)
        before = measure_before(subject, probes, scorer, reference=asked.reference)
        questions.put("before", subject)
        nearest = nearest_kept(run, probes.forgotten, probes.policies.keys())
        with zeroed(run.model, list(probes.policies)):
            name = f"{asked.checkpoint} without {sorted(probes.policies)}"
            erased = replace(subject, checkpoint=name)
            measured = measure_after(erased, probes, before, scorer, nearest=nearest)
            questions.put("after", erased)
        attacked = _attack(asked, nearest, scorer, announce) if request.full else None
    if asked.reference is not None:
        questions.put("reference", asked.reference)
    others = [*_membership(asked, before, measured, scorer), *questions.rows()]
    rows = [*measured.rows, *settled_rows(others, probes, phase="before")]
    return Evaluation(
        request=request,
        metrics=metrics_table(rows),
        documents=documents_table(probes, before, measured),
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
    questions: QuestionFile | None
    checkpoint: str
    reference: Subject | None
    counts: Mapping[str, int]

    def unknown_to_reference(self, sequence_ids: Iterable[int]) -> frozenset[int]:
        """Those that the reference has no sinks for: their documents run with sinks off there."""
        assert self.reference is not None  # the caller asked
        known = self.reference.model.sink_map.sequence_ids.tolist()
        return frozenset(sequence_ids).difference(known)


def _prepare(request: EvaluateRequest) -> _Asked:
    from sinkmodel.checkpoint import load_run
    from sinkmodel.evaluate.measure import Subject

    manifest = open_manifest(request.manifest)
    require_trained_on(read_run(request.run), manifest)
    # Before any model is loaded: a broken line should not cost a minute.
    questions = None if request.questions is None else read_questions(request.questions, manifest)
    run = load_run(request.run)
    chosen, matched = choose(manifest, run.model.sink_map, request.where)
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
        questions=questions,
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
) -> Iterator[Measured | NotMeasured]:
    """Membership inference on the run as it is and on the reference, and PrivLeak between them."""
    from sinkmodel.evaluate.rows import membership_rows, privacy_rows
    from sinkmodel.evaluate.scores import no_sinks

    probes, reference = asked.probes, asked.reference
    yield from membership_rows(probes, before.own, before.held_out, phase="before")
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
        yield from never
        yield from privacy_rows(measured.rows, never)


class _Questions:
    """The questions of a request, put to one model after another; nothing where there are none."""

    def __init__(self, asked: _Asked, scorer: Scorer) -> None:
        self._asked = asked
        self._report = scorer.report
        self._asking: Asking | None = None
        self._phases: dict[str, Answers] = {}
        if asked.questions is not None:
            from govern.evaluate.asking import Asking
            from sinkmodel.evaluate.questions import TEMPLATE

            template = asked.request.template
            self._asking = Asking(
                file=asked.questions,
                chosen=frozenset(asked.probes.policies),
                known=_routable(asked),
                tokenizer=asked.run.tokenizer,
                template=TEMPLATE if template is None else template,
                longest=asked.run.context_length,
                cache=scorer.cache,
                seed=asked.request.seed,
            )

    def put(self, phase: str, subject: Subject) -> None:
        """Ask `subject`, which is the run in this phase."""
        if self._asking is None:
            return
        known = self._asking.known
        unknown = self._asked.unknown_to_reference(known) if phase == "reference" else frozenset()
        self._phases[phase] = self._asking.put(subject, unknown=unknown)
        if self._report is not None:
            self._report(f"questions, {phase}")

    def rows(self) -> Iterator[Measured | NotMeasured]:
        """Every figure, once all models were asked."""
        if self._asking is not None:
            from govern.evaluate.asking import question_rows

            yield from question_rows(self._asking, self._phases)


def _routable(asked: _Asked) -> frozenset[int]:
    """Sequences whose sinks a question may be asked under: not those that were forgotten before."""
    sink_map = asked.run.model.sink_map
    return frozenset(sink_map.sequence_ids[sink_map.active].tolist()).union(asked.probes.policies)


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
        targets.append(
            Target(
                name=REFERENCE,
                model=asked.reference.model,
                checkpoint=asked.reference.checkpoint,
                unknown=asked.unknown_to_reference(ids),
            )
        )
    tasks = plan_attacks(targets)
    if announce is not None:
        announce(len(tasks), estimate_seconds(tasks, probes, scorer, scorer.cache))
    return run_attacks(tasks, probes, scorer, cache=scorer.cache, report=scorer.report)


def choose(manifest: Manifest, sink_map: SinkMap, where: str | None) -> tuple[Chosen, int]:
    """The documents that the run was trained on among those that match, and how many match.

    Raises:
        SelectionError: There are none.
    """
    table = sink_map.table
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
