"""Forgotten text that comes back: found by its content, or by signature and exact Jaccard.

A manifest keeps the documents of a forgotten sequence: their signatures and shingle sets, never
their text. That is enough to recognise the text, or a near-duplicate of it, in another corpus.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from govern.ids.lsh import BUCKET_CAP, distinct, split_pairs
from govern.ids.minhash import Banding
from govern.ids.probe import Probe
from govern.ids.rules import require_comparable
from govern.ids.sets import chosen_sets, collect_sets, stored_sets
from govern.ids.store import Indices
from govern.ids.stored import Stored, load_stored, signature_rows
from govern.ids.tables import Assigned
from govern.ids.verify import similarities
from manifests.reader import Manifest, open_manifest
from manifests.schema import TOMBSTONES

_SHIFT = np.uint64(32)
_BLOCK = 65_536


@dataclass(frozen=True, kw_only=True)
class _Graves:
    """Forgotten texts of one manifest: their rows in `shingles` and their sequence's tombstone."""

    manifest: Manifest
    stored: Stored
    rows: Indices
    tombstones: pa.Table


def find_forgotten(
    paths: Sequence[Path],
    assigned: Assigned,
    parameters: Mapping[str, Any],
    work: Path,
    pool: ThreadPoolExecutor,
    workers: int,
) -> pa.Table:
    """Tombstones for the sequences that hold text which was forgotten in another manifest.

    Args:
        paths: The other manifests.
        assigned: The new documents, with the sequence IDs of their texts.
        parameters: The rules that made their signatures, and the threshold.
        work: A folder for working files.
        pool: Threads.
        workers: How many there are.

    Returns:
        Columns of `schema.TOMBSTONES` by ascending sequence ID: of several tombstones that a
        sequence's texts match, the earliest.

    Raises:
        ManifestError: Not a manifest, or one whose texts cannot be compared with these.
    """
    found = [TOMBSTONES.empty_table()]
    for path in paths:
        graves = _open(path, parameters)
        if graves is None:
            continue
        texts, which = _matches(graves, assigned, parameters, work, pool, workers)
        rows = graves.tombstones.take(pa.array(which))
        ids = pa.array(assigned.sequence_ids[texts], pa.int64())
        found.append(rows.set_column(0, TOMBSTONES.field("sequence_id"), ids))
    return earliest(pa.concat_tables(found))


def earliest(tombstones: pa.Table) -> pa.Table:
    """The earliest tombstone of each sequence, ascending by sequence."""
    ordered = tombstones.sort_by(
        [("sequence_id", "ascending"), ("forgotten_at", "ascending"), ("request", "ascending")]
    )
    ids = ordered["sequence_id"].to_numpy()
    first = np.ones(len(ids), dtype=bool)
    first[1:] = ids[1:] != ids[:-1]
    return ordered.filter(pa.array(first))


def _open(path: Path, parameters: Mapping[str, Any]) -> _Graves | None:
    manifest = open_manifest(path)
    tombstones = earliest(manifest.table("tombstones"))
    if not tombstones.num_rows:
        return None
    require_comparable(manifest, parameters)
    stored = load_stored(manifest)
    ids = stored.sequence_ids[stored.standing]
    forgotten = np.flatnonzero(np.isin(ids, tombstones["sequence_id"].to_numpy()))
    place = pc.index_in(pa.array(ids[forgotten]), value_set=tombstones["sequence_id"])
    rows = stored.standing[forgotten]
    order = np.argsort(rows)
    return _Graves(
        manifest=manifest,
        stored=stored,
        rows=rows[order],
        tombstones=tombstones.take(place).take(pa.array(order)),
    )


def _matches(
    graves: _Graves,
    assigned: Assigned,
    parameters: Mapping[str, Any],
    work: Path,
    pool: ThreadPoolExecutor,
    workers: int,
) -> tuple[Indices, Indices]:
    """Pairs (text of `assigned`, grave) with equal content or a similarity of the threshold."""
    same_text, same_grave = _equal_content(graves, assigned)
    banding = Banding(bands=parameters["bands"], rows=parameters["rows"])
    texts, which = _candidates(graves, assigned, banding)
    involved, left = np.unique(texts, return_inverse=True)
    dead, right = np.unique(which, return_inverse=True)
    mine = np.arange(len(involved))
    sets = collect_sets(
        work / "graves.u64",
        len(involved) + len(dead),
        (
            (places, sets)
            for parts in (
                [(mine, chosen_sets(assigned.sets, involved))],
                (
                    (places + len(involved), sets)
                    for places, sets in stored_sets(
                        graves.manifest, graves.rows[dead], pool, workers
                    )
                ),
            )
            for places, sets in parts
        ),
    )
    threshold = float(parameters["threshold"])
    jaccard = similarities(
        sets, left, right + len(involved), threshold, pool, workers, lambda _: None
    )
    near = jaccard > 0
    return np.concatenate([same_text, texts[near]]), np.concatenate([same_grave, which[near]])


def _equal_content(graves: _Graves, assigned: Assigned) -> tuple[Indices, Indices]:
    mine = np.asarray(assigned.ingested.content[assigned.settled.document_of])
    theirs = graves.stored.content[graves.stored.text_of[graves.rows]]
    mine_words, their_words = (
        pa.array([row.tobytes() for row in words], pa.binary(32)) for words in (mine, theirs)
    )
    place = pc.index_in(mine_words, value_set=their_words)
    texts = np.flatnonzero(place.is_valid().to_numpy(zero_copy_only=False))
    return texts, place.drop_null().to_numpy().astype(np.int64)


def _candidates(graves: _Graves, assigned: Assigned, banding: Banding) -> tuple[Indices, Indices]:
    """Pairs that share a band; of a bucket's graves at most the first `BUCKET_CAP`."""
    probe = Probe(signature_rows(graves.manifest)[graves.rows], banding)
    documents = assigned.settled.document_of

    def blocks() -> Any:
        for begin in range(0, len(documents), _BLOCK):
            some = documents[begin : begin + _BLOCK]
            yield assigned.ingested.signatures[some], np.arange(begin, begin + len(some))

    members = probe.find(blocks())
    buckets = probe.buckets.ravel()
    order = np.argsort(buckets, kind="stable")
    wanted = (members >> _SHIFT).astype(np.int64)
    begins = np.searchsorted(buckets[order], wanted)
    counts = np.searchsorted(buckets[order], wanted, side="right") - begins
    counts = np.minimum(counts, BUCKET_CAP)
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    which = order[np.repeat(begins, counts) + within] % len(graves.rows)
    texts = np.repeat(members & np.uint64(0xFFFFFFFF), counts)
    return split_pairs(distinct([texts << _SHIFT | which.astype(np.uint64)]))
