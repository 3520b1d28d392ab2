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
from govern.ids.store import ChunkedRows, Indices
from govern.ids.stored import (
    Stored,
    StoredLinks,
    load_links,
    signature_blocks,
    stored_signatures,
)
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

    signatures: ChunkedRows
    rows: Indices
    sets: ShingleSets


@dataclass(frozen=True, kw_only=True)
class Relinked:
    """Links after an addition.

    Attributes:
        links: All of them, by rank.
        added: The new ones, by text number.
        dropped: Old pairs that are none any more, uint64 (text_a << 32 | text_b).
        candidates: How many pairs were verified.
    """

    links: Links
    added: StoredLinks
    dropped: Pairs
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

    def signatures_of(ranks: Indices) -> npt.NDArray[np.uint32]:
        rows = stored.standing[union.by_rank[ranks]]
        order = np.argsort(rows)
        found = np.empty((len(rows), new.signatures.shape[1]), dtype=np.uint32)
        found[order] = stored_signatures(manifest, rows[order])
        return found

    def still(doubtful: Pairs) -> npt.NDArray[np.bool_]:
        return still_candidates(doubtful, signatures_of, blocks, rule)

    added = _verified(manifest, stored, union, new, pairs, work, pool, workers, advance)
    keep, dropped = _without_lost(old, union, lost, still)
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
) -> tuple[npt.NDArray[np.bool_], Pairs]:
    """Which old links stay, bool [old links], and the others as pairs of text numbers."""
    keep = np.ones(len(old.a), dtype=np.bool_)
    if len(lost):
        keys = pack(union.rank[old.a], union.rank[old.b])
        # Few links begin at a text that a lost pair begins at.
        begins = np.zeros(len(union.rank), dtype=np.bool_)
        begins[split_pairs(lost)[0]] = True
        some = np.flatnonzero(begins[union.rank[old.a]])
        doubtful = some[np.isin(keys[some], lost)]
        keep[doubtful] = still(keys[doubtful])
    gone = np.flatnonzero(~keep)
    return keep, pack(old.a[gone], old.b[gone])


def pack(a: Indices, b: Indices) -> Pairs:
    """Pairs as uint64 (a << 32 | b)."""
    return a.astype(np.uint64) << _SHIFT | b.astype(np.uint64)
