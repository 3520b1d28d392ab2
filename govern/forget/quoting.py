"""Which other sequences quote the texts that will be forgotten, and so are not covered.

A sequence stands for whole texts that are near-duplicates. A text that only holds a passage of
another is a sequence of its own, and forgetting the one leaves the other. It is found by
containment (Broder 1997): the share of a forgotten text's shingles that the other text has too.

Every stored shingle set of the manifest is read once, and each hash looked up in a table of the
wanted ones: a few seconds for a million documents of 260 words on two cores.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from manifests import Manifest

# A fifth of a text is a passage, not a phrase.
QUOTED_FROM = 0.2
# At least this many table entries for each wanted hash keep false hits below two in a hundred.
_ENTRIES_PER_HASH = 64
_LARGEST_TABLE_BITS = 28
_PAIRS_AT_ONCE = 1 << 22
Hashes = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Quotation:
    """A sequence that has part of a forgotten text.

    Attributes:
        source, doc_id: The document of it that has most.
        sequence_id: The sequence.
        quotes: The forgotten sequence.
        share: Share (0 to 1) of the forgotten text's shingles that the document has.
    """

    source: str
    doc_id: str
    sequence_id: int
    quotes: int
    share: float


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """Shingles of forgotten texts, by hash, with the text of each; `sizes` and `ids` by text."""

    hashes: Hashes
    owners: Rows
    sizes: Rows
    ids: Rows


def find_quotations(
    manifest: Manifest,
    sequence_ids: Collection[int],
    covered: Collection[tuple[str, str]],
    least: float = QUOTED_FROM,
) -> tuple[Quotation, ...] | None:
    """Sequences outside `sequence_ids` that have at least `least` of a text of one of them.

    Args:
        manifest: The manifest.
        sequence_ids: What will be forgotten, under the names of today.
        covered: Source and document ID of every covered document.
        least: Smallest containment that counts, above 0 to 1.

    Returns:
        One for each such sequence, the largest share first; None where the manifest stores no
        shingle sets.
    """
    if manifest.rows("shingles") != manifest.rows("documents"):
        return None
    ids = manifest.table("documents", ["sequence_id"])["sequence_id"].to_numpy()
    forgotten = np.isin(ids, np.fromiter(sequence_ids, dtype=np.int64))
    wanted = _wanted(manifest, np.flatnonzero(forgotten), ids)
    if not len(wanted.hashes):
        return ()
    hits = [hit for hit in _scan(manifest, wanted, least) if not forgotten[hit[0]]]
    if not hits:
        return ()
    names = manifest.table("documents", ["source", "doc_id"]).take([row for row, _, _ in hits])
    best: dict[int, Quotation] = {}
    for (row, text, share), name in zip(hits, names.to_pylist(), strict=True):
        known = best.get(int(ids[row]))
        if (name["source"], name["doc_id"]) not in covered and (not known or known.share < share):
            best[int(ids[row])] = Quotation(
                **name, sequence_id=int(ids[row]), quotes=int(wanted.ids[text]), share=share
            )
    return tuple(sorted(best.values(), key=lambda q: (-q.share, q.sequence_id)))


def _wanted(manifest: Manifest, rows: Rows, ids: Rows) -> _Wanted:
    from govern.ids.sets import stored_sets
    from govern.ids.stored import first_rows

    text_of = manifest.table("shingles", ["text"])["text"].to_numpy()
    standing = np.unique(first_rows(text_of)[text_of[rows]])
    hashes, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    sizes = np.zeros(len(standing), np.int64)
    for places, sets in stored_sets(manifest, standing):
        sizes[places] = sets.sizes
        for place, begin, size in zip(places, sets.begins, sets.sizes, strict=True):
            hashes.append(sets.values[begin : begin + size])
            owners.append(np.full(size, place))
    values = np.concatenate(hashes)
    order = np.argsort(values, kind="stable")
    return _Wanted(
        hashes=values[order], owners=np.concatenate(owners)[order], sizes=sizes, ids=ids[standing]
    )


def _scan(manifest: Manifest, wanted: _Wanted, least: float) -> Iterable[tuple[int, int, float]]:
    """(row, forgotten text, share) wherever a stored text has enough of a forgotten one."""
    from govern.ids.sets import ShingleSets, each_stored_set

    distinct = np.unique(wanted.hashes)
    bits = min(_LARGEST_TABLE_BITS, int(len(distinct) * _ENTRIES_PER_HASH).bit_length())
    shift = np.uint64(64 - bits)
    table = np.zeros(1 << bits, dtype=bool)
    table[distinct >> shift] = True
    fewest = max(1, int(np.ceil(least * wanted.sizes.min())))

    def examine(first: int, sets: ShingleSets) -> tuple[int, Rows, Hashes]:
        """The hits in texts with enough of them: a row of the group for each, and the hash."""
        entries = (sets.values >> shift).view(np.int64)  # as an index, without a second copy
        places = np.flatnonzero(table.take(entries, mode="clip"))
        places = places[_among(sets.values[places], distinct)]
        rows = np.searchsorted(sets.begins, places, side="right") - 1
        enough = np.bincount(rows, minlength=len(sets.sizes))[rows] >= fewest
        return first, rows[enough], sets.values[places[enough]]

    for first, rows, values in each_stored_set(manifest, examine, os.cpu_count() or 1):
        for row, text, share in _shares(wanted, rows, values, least):
            yield first + row, text, share


def _among(values: Hashes, ascending: Hashes) -> npt.NDArray[np.bool_]:
    """Which of the values are in an ascending array that is not empty."""
    at = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    found: npt.NDArray[np.bool_] = ascending[at] == values
    return found


def _shares(
    wanted: _Wanted, rows: Rows, values: Hashes, least: float
) -> Iterable[tuple[int, int, float]]:
    """(row, forgotten text, containment) where that is at least `least`; `rows` ascend."""
    begins = np.searchsorted(wanted.hashes, values, side="left")
    counts = np.searchsorted(wanted.hashes, values, side="right") - begins
    # A shingle that many forgotten texts have gives many pairs: so many rows at a time as fit.
    before = np.concatenate([[0], np.cumsum(counts)])
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    batch = before[starts] // _PAIRS_AT_ONCE
    for some in np.split(starts, np.flatnonzero(np.diff(batch)) + 1):
        if not len(some):
            continue
        end = int(np.searchsorted(rows, rows[some[-1]], side="right"))
        here = slice(int(some[0]), end)
        number = counts[here]
        within = np.arange(int(number.sum())) - np.repeat(np.cumsum(number) - number, number)
        texts = wanted.owners[np.repeat(begins[here], number) + within]
        pairs = np.repeat(rows[here], number) * len(wanted.sizes) + texts
        found, shared = np.unique(pairs, return_counts=True)
        row, text = np.divmod(found, len(wanted.sizes))
        share = shared / wanted.sizes[text]
        much = share >= least
        yield from zip(row[much].tolist(), text[much].tolist(), share[much].tolist(), strict=True)
