"""The links of a manifest and an addition together, verified where they are new.

Links of the union = old links - those that no band gives any more + verified pairs with a new text:
exactly the links of one build over all documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from govern.ids.cluster import Clusters, recentred
from govern.ids.ingest import ordered_map
from govern.ids.jit import compiled
from govern.ids.lsh import Pairs, join_pairs, merge_pairs
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
    link_similarities,
    signature_rows,
)
from govern.ids.union import Union
from govern.ids.verify import Links, verify
from manifests.plain_pages import fixed_rows, pages_of
from manifests.reader import Manifest

_SHIFT = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_BLOCK = 16_384
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
        old: Those that were there, by rank; -1 where a row is no link of two texts any more.
        added: The new ones, by rank.
        dropped: Rows of `links` that are none any more, ascending.
        candidates: How many pairs were verified.
    """

    old: StoredLinks
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
    dropped = nothing
    # From here on links go by rank; the arrays are large, so they are changed where they are.
    _renumber(old.a, old.b, union.rank)
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
        doubtful = np.flatnonzero(displaced[old.a] & (old.a >= 0))
        pairs = join_pairs(old.a[doubtful], old.b[doubtful])
        # Every text gives its own pairs in ascending order, but files hold several snapshots'.
        order = np.argsort(pairs)
        keep = np.ones(len(pairs), dtype=np.bool_)
        keep[order] = still_candidates(
            pairs[order], texts.signatures, probe, members, texts.find, rule
        )
        dropped = doubtful[~keep]
        old.a[dropped] = -1
    return Relinked(old=old, added=added, dropped=dropped, candidates=candidates)


def reclustered(
    manifest: Manifest, n_texts: int, relinked: Relinked, pool: ThreadPoolExecutor
) -> Clusters:
    """The clusters of all links. Similarities are read of those links that joined a text to its."""
    old, added = relinked.old, relinked.added
    representative, reason = recentred(
        n_texts,
        np.concatenate([old.a, added.a.astype(np.int32)]),
        np.concatenate([old.b, added.b.astype(np.int32)]),
    )
    similarity = np.ones(n_texts, dtype=np.float64)
    by_old = np.flatnonzero((reason >= 0) & (reason < len(old.a)))
    by_new = np.flatnonzero(reason >= len(old.a))
    similarity[by_old] = link_similarities(manifest, reason[by_old], pool)
    similarity[by_new] = added.jaccard[reason[by_new] - len(old.a)]
    return Clusters(representative=representative, similarity=similarity)


@compiled()
def _renumber(a, b, rank):  # type: ignore[no-untyped-def]
    """From numbers of texts to their ranks, in place."""
    for link in range(len(a)):
        if a[link] >= 0:
            a[link], b[link] = rank[a[link]], rank[b[link]]


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
        """Who of all texts lies in the buckets of a probe.

        Of the old ones the halves of the band keys pass by, and signatures only of those that hit.
        """
        pool, workers = self.resources.pool, self.resources.workers
        ranks, new = self.union.rank[self.union.n_old :], self.new
        touched = ordered_map(
            pool,
            lambda page: page.first + np.flatnonzero(probe.touches(fixed_rows(page, "<u4"))),
            pages_of(self.manifest, "signatures", "bands"),
            workers,
        )
        rows = np.concatenate([np.zeros(0, dtype=np.int64), *touched])
        texts = self.stored.text_of[rows]
        stands = self.stored.standing[texts] == rows
        rows, old_ranks = rows[stands], self.union.rank[texts[stands]]

        def found(of: ChunkedRows, places: Indices, ranks: Indices) -> Iterator[Members]:
            blocks = (slice(at, at + _BLOCK) for at in range(0, len(ranks), _BLOCK))
            return ordered_map(
                pool, lambda some: probe.find_in(of[places[some]], ranks[some]), blocks, workers
            )

        olds = found(self.old_signatures, rows, old_ranks)
        return gathered(chain(olds, found(new.signatures, new.rows, ranks)))

    @cached_property
    def old_signatures(self) -> ChunkedRows:
        """The stored signatures, by row."""
        return signature_rows(self.manifest)

    def signatures(self, ranks: Indices) -> Signatures:
        """The signatures of some ranks of old texts."""
        return self.old_signatures[self.stored.standing[self.union.by_rank[ranks]]]

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
