"""The links of a manifest and an addition together, verified where they are new.

Links of the union = old links - those that no band gives any more + verified pairs with a new text:
exactly the links of one build over all documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from govern.ids.ingest import ordered_map
from govern.ids.lsh import Pairs, merge_pairs
from govern.ids.minhash import Banding
from govern.ids.probe import (
    BucketRule,
    Flags,
    Members,
    Probe,
    added_pairs,
    gathered,
    still_candidates,
)
from govern.ids.sets import ShingleSets, chosen_sets, collect_sets, stored_sets
from govern.ids.store import ArrayFile, ChunkedRows, Indices
from govern.ids.stored import (
    Stored,
    StoredLinks,
    group_signatures,
    row_groups,
    stored_signatures,
)
from govern.ids.union import Union
from govern.ids.verify import Links, verify
from manifests.reader import Manifest

_SHIFT = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_BLOCK = 65_536
Signatures = npt.NDArray[np.uint32]


@dataclass(frozen=True, kw_only=True)
class NewTexts:
    """The texts that an addition brings, in the order of their numbers.

    Attributes:
        signatures: Rows of them are looked up here ...
        rows: ... at these places.
        sets: Their shingle sets.
    """

    signatures: ChunkedRows
    rows: Indices
    sets: ShingleSets


@dataclass(frozen=True, kw_only=True)
class Relinked:
    """Links after an addition.

    Attributes:
        links: All of them, by rank.
        added: The new ones, by rank.
        dropped: Rows of `links` that are none any more, ascending.
        candidates: How many pairs were verified.
    """

    links: Links
    added: Links
    dropped: Indices
    candidates: int


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the work is done with.

    Attributes:
        work: A folder for working files.
        pool: Threads.
        workers: How many there are.
        held: About how many candidate pairs may be in memory.
        advance: Called with the number of pairs that are verified.
    """

    work: Path
    pool: ThreadPoolExecutor
    workers: int
    held: int
    advance: Callable[[int], None]


def bucket_rule(parameters: Mapping[str, Any]) -> BucketRule:
    """The rule that a manifest was built by."""
    return BucketRule(
        banding=Banding(bands=parameters["bands"], rows=parameters["rows"]),
        cap=parameters["bucket_cap"],
        pivots=parameters["pivots"],
    )


def relink(
    manifest: Manifest,
    stored: Stored,
    old: StoredLinks,
    union: Union,
    new: NewTexts,
    resources: Resources,
) -> Relinked:
    """Find and verify the links that new texts bring.

    Args:
        manifest: The manifest.
        stored: Its texts.
        old: Its links.
        union: All texts.
        new: The new ones.
        resources: A folder, threads, memory.
    """
    nothing = np.zeros(0, dtype=np.int64)
    added, candidates = Links(a=nothing, b=nothing, jaccard=np.zeros(0)), 0
    keep = np.ones(len(old.a), dtype=np.bool_)
    a, b = union.rank[old.a], union.rank[old.b]
    if len(new.rows):
        texts = _Texts(manifest, stored, union, new, resources)
        rule = bucket_rule(manifest.parameters)
        probe = Probe(new.signatures[new.rows], rule.banding)
        members = texts.find(probe)
        displaced = np.zeros(len(union.rank), dtype=np.bool_)
        runs = list(
            _runs(added_pairs(probe, members, texts.is_new, rule, displaced), resources.work)
        )
        added, candidates = _verified(texts, runs)
        doubtful = np.flatnonzero(displaced[a])
        pairs = a[doubtful].astype(np.uint64) << _SHIFT | b[doubtful].astype(np.uint64)
        keep[doubtful] = still_candidates(pairs, texts.signatures, probe, members, texts.find, rule)
    return Relinked(
        links=Links(
            a=np.concatenate([a[keep], added.a]),
            b=np.concatenate([b[keep], added.b]),
            jaccard=np.concatenate([old.jaccard[keep], added.jaccard]),
        ),
        added=added,
        dropped=old.row[~keep],
        candidates=candidates,
    )


@dataclass(frozen=True)
class _Texts:
    """Signatures and shingle sets of old and new texts, by rank."""

    manifest: Manifest
    stored: Stored
    union: Union
    new: NewTexts
    resources: Resources

    @property
    def is_new(self) -> Flags:
        """bool [texts]."""
        flags = np.ones(len(self.union.rank), dtype=np.bool_)
        flags[self.union.rank[: self.union.n_old]] = False
        return flags

    def find(self, probe: Probe) -> Members:
        """Who of all texts lies in the buckets of a probe."""
        rank_of_row = np.full(len(self.stored.text_of), -1, dtype=np.int64)
        rank_of_row[self.stored.standing] = self.union.rank[: self.union.n_old]
        ranks, new = self.union.rank[self.union.n_old :], self.new
        olds = ordered_map(
            self.resources.pool,
            lambda g: probe.find_in(group_signatures(g), rank_of_row[g.first : g.end]),
            row_groups(self.manifest, "signatures"),
            self.resources.workers,
        )
        blocks = [slice(at, at + _BLOCK) for at in range(0, len(ranks), _BLOCK)]
        news = (probe.find_in(new.signatures[new.rows[some]], ranks[some]) for some in blocks)
        return gathered([*olds, *news])

    def signatures(self, ranks: Indices) -> Signatures:
        """The signatures of ascending ranks of old texts."""
        rows = self.stored.standing[self.union.by_rank[ranks]]
        order = np.argsort(rows)
        found = np.empty((len(rows), self.new.signatures.shape[1]), dtype=np.uint32)
        found[order] = stored_signatures(self.manifest, rows[order])
        return found

    def sets(self, wanted: Flags) -> ShingleSets:
        """The shingle sets of some texts, by rank; the others have none."""
        union, resources = self.union, self.resources
        texts = union.by_rank[np.flatnonzero(wanted)]
        olds, news = texts[texts < union.n_old], texts[texts >= union.n_old]
        rows = self.stored.standing[olds]
        order = np.argsort(rows)

        def parts() -> Iterator[tuple[Indices, ShingleSets]]:
            ordered = olds[order]
            for at, sets in stored_sets(
                self.manifest, rows[order], resources.pool, resources.workers
            ):
                yield union.rank[ordered[at]], sets
            yield union.rank[news], chosen_sets(self.new.sets, news - union.n_old)

        return collect_sets(resources.work / "pairs.u64", len(wanted), parts())


def _runs(bands: Iterator[Pairs], work: Path) -> Iterator[Pairs]:
    """The pairs of each band in a working file of its own."""
    for band, pairs in enumerate(bands):
        file = ArrayFile(work / f"added-{band}.u64", np.uint64)
        file.append(pairs)
        yield file.finish()


def _verified(texts: _Texts, runs: list[Pairs]) -> tuple[Links, int]:
    """The pairs that are links, ascending by rank, and how many pairs were looked at."""
    resources = texts.resources
    wanted = np.zeros(len(texts.union.rank), dtype=np.bool_)
    for pairs in runs:
        wanted[pairs >> _SHIFT] = True
        wanted[pairs & _LOW] = True
    return verify(
        texts.sets(wanted),
        merge_pairs(runs, held=resources.held),
        float(texts.manifest.parameters["threshold"]),
        resources.work,
        resources.pool,
        resources.workers,
        resources.advance,
    )
