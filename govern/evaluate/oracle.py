"""The oracle: a run of the same recipe, trained here without the chosen documents.

It answers what no other control can: what the run would be had it never seen them. It is trained on
what the run was trained on, less the chosen sequences, with the run's own configuration, seed and
tokenizer, and kept below the evaluation under a name that says which run and which sequences it
belongs to. So it is trained once, and a training that was interrupted goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from govern.evaluate.evaluating import EvaluateRequest, choose
from govern.evaluate.question_file import read_questions
from govern.forget.run_view import read_run, require_trained_on
from govern.ids.texts import read_texts
from manifests import Manifest, open_manifest
from manifests.errors import ManifestError, SelectionError, TrainingError
from manifests.sequence_id import parse_id
from sinkmodel.run_record import RECORD, read_record

if TYPE_CHECKING:
    from sinkmodel.allocation import SinkMap
    from sinkmodel.train import Progress


@dataclass(frozen=True, kw_only=True)
class Oracle:
    """What will be trained, or was.

    Args:
        path: The run directory.
        without: Chosen sequences, which it never sees.
        documents: That it is trained on.
        trained: Whether it is there already.
    """

    path: Path
    without: frozenset[int]
    documents: int
    trained: bool


def plan_oracle(request: EvaluateRequest, out: Path) -> Oracle:
    """Which oracle a request needs, and whether the manifest still is what the run was trained on.

    Args:
        request: What is evaluated.
        out: The evaluation's directory, in which the oracle lies.

    Raises:
        ManifestError: Sequences, documents or policies have changed since the run was trained, so
            that no training could give a run that differs in the chosen sequences alone.
        SelectionError: The run was trained on none of the documents, or on no others.
        InputError: A question file that cannot be used.
    """
    from sinkmodel.allocation import SINK_MAP_FILE, SinkMap
    from sinkmodel.tokens import trainable_documents

    manifest = open_manifest(request.manifest)
    require_trained_on(read_run(request.run), manifest)
    if request.questions is not None:
        read_questions(request.questions, manifest)  # a broken line should not cost a training
    sink_map = SinkMap.read(request.run / SINK_MAP_FILE)
    record = read_record(request.run)
    chosen, _ = choose(manifest, sink_map, request.where)
    without = frozenset(chosen.policies)
    _require_same_corpus(manifest, sink_map, record, without)
    excluded = without | _left_out(record)
    # The record names configuration, seed, manifest and what was left out: all that an oracle is.
    name = hashlib.sha256(
        (request.run / RECORD).read_bytes() + json.dumps(sorted(without)).encode()
    ).hexdigest()
    path = out / f"oracle-{name[:16]}"
    documents = trainable_documents(manifest, excluded).num_rows
    if not documents:
        raise SelectionError(
            "documents of the oracle",
            expected="some that the run was trained on and that are not chosen",
            found="none: every document is chosen",
            remedy="choose fewer with --where, or leave out --oracle",
        )
    return Oracle(
        path=path, without=without, documents=documents, trained=(path / RECORD).is_file()
    )


def train_oracle(
    request: EvaluateRequest,
    oracle: Oracle,
    *,
    report: Callable[[Progress], None] | None = None,
) -> Path:
    """Train what `plan_oracle` found, unless it is there; one that was interrupted goes on.

    Args:
        request: As given to `plan_oracle`.
        oracle: What that returned.
        report: Called after each micro-batch.

    Raises:
        TrainingError: The training was stopped; its state is kept.
    """
    from sinkmodel.recipes import TrainConfig
    from sinkmodel.saves import saves_in
    from sinkmodel.train import train

    if oracle.trained:
        return oracle.path
    manifest = open_manifest(request.manifest)
    record = read_record(request.run)
    # Resolved, as a training that goes on must have the same configuration wherever it is begun.
    tokenizer = str(request.run.resolve())
    config = dataclasses.replace(
        TrainConfig.from_json(record["config"]), tokenizer=tokenizer, tracker="none"
    )
    work = oracle.path.parent / f".{oracle.path.name}.training"
    try:
        return train(
            manifest,
            read_texts(manifest, list(request.corpus) or None),
            oracle.path,
            config,
            recipe=str(record["recipe"]),
            exclude=oracle.without | _left_out(record),
            resume=bool(saves_in(work)),
            report=report,
        )
    except TrainingError as error:
        if not saves_in(work):
            raise
        raise TrainingError(
            f"the oracle {oracle.path}",
            expected=error.expected,
            found=error.found,
            remedy="run the same command again to go on",
        ) from error


def _left_out(record: Mapping[str, Any]) -> frozenset[int]:
    """Sequences that the run itself left out of what it was trained on."""
    return frozenset(parse_id(name) for name in record["corpus"]["excluded_sequences"])


def _require_same_corpus(
    manifest: Manifest, sink_map: SinkMap, record: Mapping[str, Any], without: Collection[int]
) -> None:
    """Whatever is not chosen must be in the manifest as the run was trained on it."""
    from sinkmodel.tokens import trainable_documents

    trained = dict(
        zip(sink_map.sequence_ids.tolist(), sink_map.table["policy"].to_pylist(), strict=True)
    )
    now = trainable_documents(manifest, _left_out(record))
    policies = dict(zip(now["sequence_id"].to_pylist(), now["policy"].to_pylist(), strict=True))
    changed = {
        i for i in {*trained, *policies}.difference(without) if trained.get(i) != policies.get(i)
    }
    ids = manifest.table("documents", ["sequence_id"])["sequence_id"]
    documents = pc.sum(pc.is_in(ids, value_set=sink_map.table["sequence_id"].combine_chunks()))
    count, wanted = int(documents.as_py() or 0), int(record["corpus"]["documents"])
    if changed or count != wanted:
        found = (
            f"{len(changed)} other sequences that were added, forgotten or given another policy"
            if changed
            else f"{count} documents of the sequences that it was trained on, instead of {wanted}"
        )
        raise ManifestError(
            f"manifest {manifest.path}",
            expected="what the run was trained on, so that an oracle can be trained beside it",
            found=found,
            remedy="give a manifest of that state, or a reference of your own with --reference",
        )
