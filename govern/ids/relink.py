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

from govern.ids.lsh import Pairs, split_pairs
from govern.ids.minhash import Banding
from govern.ids.probe import BucketRule, Probe, changed_pairs, still_candidates
from govern.ids.sets import ShingleSets, chosen_sets, collect_sets, stored_sets
from govern.ids.store import Indices
from govern.ids.stored import Stored, StoredLinks, load_links, signature_blocks
from govern.ids.union import Union
from govern.ids.verify import Links, similarities
from manifests.reader import Manifest

_SHIFT = np.uint64(32)
_BLOCK = 65_536


@dataclass(frozen=True, kw_only=True)
class NewTexts:
    """The texts that an addition brings, in the order of their numbers.

    Attributes:
        signatures: Rows of them are looked up here ...
        rows: ... at these places.
        sets: Their shingle sets.
    """

    signatures: npt.NDArray[np.uint32]
    rows: Indices
    sets: ShingleSets


@dataclass(frozen=True, kw_only=True)
class Relinked:
    """Links after an addition.

    Attributes:
        links: All of them, by rank.
        added: The new ones, by text number.
        dropped: Old pairs that are none any more, as (text_a, text_b).
        candidates: How many pairs were verified.
    """

    links: Links
    added: StoredLinks
    dropped: frozenset[tuple[int, int]]
    candidates: int


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
    union: Union,
    new: NewTexts,
    work: Path,
    pool: ThreadPoolExecutor,
    workers: int,
    advance: Callable[[int], None],
) -> Relinked:
    """Find and verify the links that new texts bring.

    Args:
        manifest: The manifest.
        stored: Its texts.
        union: All texts.
        new: The new ones.
        work: A folder for working files.
        pool: Threads.
        workers: How many there are.
        advance: Called with the number of pairs that are verified.
    """
    rule = bucket_rule(manifest.parameters)
    old = load_links(manifest)

    def blocks() -> Iterator[tuple[npt.NDArray[np.uint32], Indices]]:
        rank_of_row = np.full(len(stored.text_of), -1, dtype=np.int64)
        rank_of_row[stored.standing] = union.rank[: union.n_old]
        for first, block in signature_blocks(manifest):
            yield block, rank_of_row[first : first + len(block)]
        ranks = union.rank[union.n_old :]
        for begin in range(0, len(new.rows), _BLOCK):
            part = slice(begin, begin + _BLOCK)
            yield new.signatures[new.rows[part]], ranks[part]

    if len(new.rows):
        is_new = np.ones(len(union.rank), dtype=np.bool_)
        is_new[union.rank[: union.n_old]] = False
        probe = Probe(new.signatures[new.rows], rule.banding)
        pairs, lost = changed_pairs(probe, blocks, is_new, rule)
    else:
        pairs = lost = np.zeros(0, dtype=np.uint64)
    added = _verified(manifest, stored, union, new, pairs, work, pool, workers, advance)
    keep, dropped = _without_lost(
        old, union, lost, lambda some: still_candidates(some, blocks, rule)
    )
    return Relinked(
        links=Links(
            a=union.rank[np.concatenate([old.a[keep], added.a])],
            b=union.rank[np.concatenate([old.b[keep], added.b])],
            jaccard=np.concatenate([old.jaccard[keep], added.jaccard]),
        ),
        added=added,
        dropped=dropped,
        candidates=len(pairs),
    )


def _verified(
    manifest: Manifest,
    stored: Stored,
    union: Union,
    new: NewTexts,
    pairs: Pairs,
    work: Path,
    pool: ThreadPoolExecutor,
    workers: int,
    advance: Callable[[int], None],
) -> StoredLinks:
    """The pairs that are links, by text number, ascending by rank."""
    a, b = (union.by_rank[ranks] for ranks in split_pairs(pairs))
    texts, places = np.unique(np.concatenate([a, b]), return_inverse=True)
    n_old = int(np.searchsorted(texts, union.n_old))
    rows = stored.standing[texts[:n_old]]
    by_row = np.argsort(rows)

    def parts() -> Iterator[tuple[Indices, ShingleSets]]:
        for at, sets in stored_sets(manifest, rows[by_row]):
            yield by_row[at], sets
        yield (
            np.arange(n_old, len(texts)),
            chosen_sets(new.sets, texts[n_old:] - union.n_old),
        )

    sets = collect_sets(work / "pairs.u64", len(texts), parts())
    threshold = float(manifest.parameters["threshold"])
    left, right = places[: len(a)], places[len(a) :]
    jaccard = similarities(sets, left, right, threshold, pool, workers, advance)
    linked = jaccard > 0
    return StoredLinks(a=a[linked], b=b[linked], jaccard=jaccard[linked])


def _without_lost(
    old: StoredLinks,
    union: Union,
    lost: Pairs,
    still: Callable[[Pairs], npt.NDArray[np.bool_]],
) -> tuple[npt.NDArray[np.bool_], frozenset[tuple[int, int]]]:
    """Which old links stay, bool [old links], and the others as pairs of text numbers."""
    keep = np.ones(len(old.a), dtype=np.bool_)
    if len(lost):
        ranks = union.rank[old.a].astype(np.uint64), union.rank[old.b].astype(np.uint64)
        keys = ranks[0] << _SHIFT | ranks[1]
        doubtful = np.flatnonzero(np.isin(keys, lost))
        keep[doubtful] = still(keys[doubtful])
    gone = np.flatnonzero(~keep)
    return keep, frozenset(zip(old.a[gone].tolist(), old.b[gone].tolist(), strict=True))
