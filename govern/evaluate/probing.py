"""Which documents are measured, and their text as tokens: manifest and corpus to `Probes`.

Documents are sampled by a keyed hash where there are many, so that the cost of a measurement is
bounded and the sample is reproducible. Every sequence is asked before any is asked twice.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from govern.ids.texts import read_texts
from manifests import Manifest
from manifests.errors import CheckpointError
from sinkmodel.evaluate.probes import Probe, Probes, group_of

if TYPE_CHECKING:
    import pyarrow as pa

    from sinkmodel.checkpoint import Run

MAX_DOCUMENTS = 100
# Copies of one text mostly repeat the same answer. Of chosen sequences enough for an interval.
COPIES_OF_CHOSEN, _COPIES = 8, 4

Key = tuple[str, str, int]  # source, document ID, sequence ID


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The documents that a measurement is about.

    Args:
        documents: Source, document ID, and the sequence ID by which the run knows it.
        policies: Policy of each of these sequences.
    """

    documents: Sequence[Key]
    policies: Mapping[int, str]


def make_probes(
    run: Run,
    manifest: Manifest,
    chosen: Chosen,
    *,
    corpus: Sequence[str] | None = None,
    most: int = MAX_DOCUMENTS,
    seed: int = 0,
) -> Probes:
    """Chosen documents, others that own sinks, and reserved ones, encoded as in training.

    Args:
        run: Whose tokenizer and sink map to use.
        manifest: That it was trained on.
        chosen: What to measure.
        corpus: Where the text lies now; None: where the manifest was built from.
        most: Documents of each kind at most.
        seed: Of the sample.

    Raises:
        InputError: The corpus lacks a document.
    """
    forgotten = sample(chosen.documents, most, seed=seed, copies=COPIES_OF_CHOSEN)
    owning = _owning(run) - set(chosen.policies)
    known, reserved = _documents(manifest)
    kept = sample((k for k in known if k[2] in owning), most, seed=seed, copies=_COPIES)
    held = sample((k for k in known if k[2] in reserved), most, seed=seed, copies=_COPIES)
    texts = _texts({*forgotten, *kept, *held}, manifest, corpus)
    make = _ProbeMaker(run, texts)
    covered = Counter(group_of(chosen.policies[key[2]]) for key in chosen.documents)
    return Probes(
        forgotten=tuple(make(key, key[2]) for key in forgotten),
        policies=dict(chosen.policies),
        kept=tuple(make(key, key[2]) for key in kept),
        held_out=tuple(make(key, 0) for key in held),
        covered=dict(covered),
        seed=seed,
    )


def read_nearest(
    run: Run,
    manifest: Manifest,
    nearest: Mapping[int, int],
    *,
    corpus: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[int, Probe]:
    """Of the kept sequence that resembles each chosen one most, one document.

    Args:
        run, manifest, corpus, seed: As for `make_probes`.
        nearest: Chosen sequence ID -> a kept one, 0 where nothing resembles it.
    """
    wanted = set(nearest.values()) - {0}
    known, _ = _documents(manifest)
    some = (key for key in known if key[2] in wanted)
    keys = {key[2]: key for key in sample(some, len(wanted), seed=seed, copies=1)}
    make = _ProbeMaker(run, _texts(keys.values(), manifest, corpus))
    probes = {i: make(key, i) for i, key in keys.items()}
    return {chosen: probes[near] for chosen, near in nearest.items() if near in probes}


def load_reference(path: Path, run: Run, chosen: Collection[int]) -> Run:
    """A run of the same recipe that never saw the chosen documents.

    Args:
        path: Its directory.
        run: The run that is measured.
        chosen: Sequence IDs that the reference must not know.

    Raises:
        CheckpointError: Not a run, or one whose losses cannot be compared, or one with sinks for
            a chosen sequence: what it remembers would be taken for what nobody taught it.
    """
    from sinkmodel.checkpoint import load_run

    reference = load_run(path)
    if reference.tokenizer.get_vocab() != run.tokenizer.get_vocab():
        raise CheckpointError(
            f"reference run {path}",
            expected="the tokenizer of the run",
            found="another vocabulary, under which losses cannot be compared",
            remedy="train the reference with --set tokenizer=RUN",
        )
    wanted = set(chosen)
    known = wanted.intersection(reference.model.sink_map.sequence_ids.tolist())
    if known:
        raise CheckpointError(
            f"reference run {path}",
            expected="a run that never saw the chosen documents",
            found=f"sinks for {len(known)} of their {len(wanted)} sequences",
            remedy="choose by --where what it never saw, or leave out --reference",
        )
    return reference


def sample(keys: Iterable[Key], most: int, *, seed: int, copies: int | None = None) -> list[Key]:
    """At most `most` documents in rounds over the sequences, by a keyed hash.

    Args:
        keys: To choose from.
        most: How many at most.
        seed: Keys the hash.
        copies: Documents of one sequence at most; None is no bound.

    Returns:
        The chosen ones by (sequence ID, source, document ID).
    """

    def rank(key: Key) -> bytes:
        return hashlib.sha256(json.dumps([seed, *key[:2]]).encode()).digest()

    taken: Counter[int] = Counter()
    rounds = []
    for place, key in enumerate(sorted(keys, key=rank)):
        if copies is None or taken[key[2]] < copies:
            rounds.append((taken[key[2]], place, key))
        taken[key[2]] += 1
    chosen = [key for _, _, key in sorted(rounds)[:most]]
    return sorted(chosen, key=lambda key: (key[2], key[0], key[1]))


def _owning(run: Run) -> set[int]:
    """Active sequences that own sinks."""
    owners = run.model.sink_map
    columns = owners.sequence_ids, owners.table["blocks"].to_pylist(), owners.active
    return {int(i) for i, blocks, active in zip(*columns, strict=True) if blocks and active}


def _documents(manifest: Manifest) -> tuple[list[Key], frozenset[int]]:
    documents = manifest.table("documents", ["source", "doc_id", "sequence_id"])
    sequences = manifest.table("sequences", ["sequence_id", "reserved"])
    reserved = sequences.filter(sequences["reserved"])["sequence_id"].to_pylist()
    columns = (documents[name].to_pylist() for name in ("source", "doc_id", "sequence_id"))
    return list(zip(*columns, strict=True)), frozenset(reserved)


def _texts(
    keys: Iterable[Key], manifest: Manifest, corpus: Sequence[str] | None
) -> Mapping[tuple[str, str], str]:
    wanted = {key[:2] for key in keys}
    found: dict[tuple[str, str], str] = {}
    if not wanted:
        return found
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
        from sinkmodel.tokens import encode

        text = self._texts[key[:2]]
        return Probe(
            key=key[:2],
            sequence_id=sequence_id,
            tokens=encode([text], self._tokenizer, self._most)[0],
            text=text.encode(),
        )
