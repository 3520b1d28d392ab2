"""Carry sequence IDs from one partition over to the next.

A sequence was founded by the text whose content hash gives its ID. Then

    a cluster with one founding text        keeps that ID
    a cluster with several                  keeps the oldest ID, the others become aliases of it
    a cluster with none                     founds a sequence: the ID of its representative
    an ID that was ever used                is never given again

"Oldest" is the smallest first snapshot, then the smallest content hash of the founding text. Since
a founding text is in exactly one cluster, every old ID lives on or becomes an alias: none vanishes.
Pure: arrays in, arrays out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from manifests import sequence_id
from manifests.errors import ManifestError

Indices = npt.NDArray[np.int64]
_GENERATIONS = 1000


@dataclass(frozen=True, kw_only=True)
class Carried:
    """IDs after an addition.

    Attributes:
        sequence_ids: int64 [texts].
        merged: Old ID -> the ID that it became.
        founded: int64, IDs that did not exist before.
    """

    sequence_ids: Indices
    merged: Mapping[int, int]
    founded: Indices


@dataclass(frozen=True, kw_only=True)
class Unrest:
    """Where a partition did not simply grow.

    Attributes:
        known: int64, all old IDs, ascending.
        of_cluster: int64 [texts], at the representative of a cluster that has one old sequence
            whole, and no other, its ID; 0 elsewhere.
        texts: bool [texts], old texts whose sequence is in no such cluster.
        ids: int64, the IDs of those, ascending.
    """

    known: Indices
    of_cluster: Indices
    texts: npt.NDArray[np.bool_]
    ids: Indices


def find_unrest(old_ids: Indices, representative: Indices) -> Unrest:
    """Tell old sequences that only got more texts from all others.

    Args:
        old_ids: int64 [texts], the ID before; 0 for a text that was not there.
        representative: int64 [texts], the text that represents its cluster now.
    """
    old = np.flatnonzero(old_ids > 0)
    known, place = np.unique(old_ids[old], return_inverse=True)
    cluster = representative[old]
    # Of several writes to one place any stays: members that differ from it tell a mixture.
    a_cluster = np.zeros(len(known), dtype=np.int64)
    a_cluster[place] = cluster
    a_place = np.zeros(len(representative), dtype=np.int64)
    a_place[cluster] = place
    whole = np.ones(len(known), dtype=np.bool_)
    whole[place[cluster != a_cluster[place]]] = False
    alone = np.ones(len(representative), dtype=np.bool_)
    alone[cluster[place != a_place[cluster]]] = False
    calm = whole & alone[a_cluster]
    of_cluster = np.zeros(len(representative), dtype=np.int64)
    of_cluster[a_cluster[calm]] = known[calm]
    texts = np.zeros(len(old_ids), dtype=np.bool_)
    texts[old] = ~calm[place]
    return Unrest(known=known, of_cluster=of_cluster, texts=texts, ids=known[~calm])


def carry_ids(
    old_ids: Indices,
    representative: Indices,
    rank: Indices,
    content: npt.NDArray[np.uint64],
    first_snapshots: Mapping[int, int],
    unrest: Unrest,
    aliases: Indices,
) -> Carried:
    """The sequence ID of each text after an addition.

    Args:
        old_ids: int64 [texts], the ID before; 0 for a text that was not there.
        representative: int64 [texts], the text that represents its cluster now.
        rank: int64 [texts], the place of its content hash among all.
        content: uint64 [texts, 4], content hashes as big-endian words.
        first_snapshots: Of every ID in `unrest.ids`.
        unrest: Of these IDs and clusters.
        aliases: int64, IDs that were given before and are no sequence's any more, ascending.

    Raises:
        ManifestError: An old ID has no founding text among its members.
    """
    of_cluster = unrest.of_cluster.copy()
    founders = _founders(unrest, old_ids, content)
    by_cluster: dict[int, list[tuple[int, int, int]]] = {}
    for old, text in founders.items():
        age = (first_snapshots[old], int(rank[text]), old)
        by_cluster.setdefault(int(representative[text]), []).append(age)
    merged: dict[int, int] = {}
    for cluster, ages in by_cluster.items():
        (_, _, oldest), *others = sorted(ages)
        of_cluster[cluster] = oldest
        merged.update({old: oldest for _, _, old in others})
    heads = np.flatnonzero(representative == np.arange(len(representative)))
    founding = heads[of_cluster[heads] == 0]
    founded = _fresh_ids(content[founding], unrest.known, aliases)
    of_cluster[founding] = founded
    return Carried(sequence_ids=of_cluster[representative], merged=merged, founded=founded)


def _founders(unrest: Unrest, old_ids: Indices, content: npt.NDArray[np.uint64]) -> dict[int, int]:
    """The founding text of each restless ID."""
    missing = set(unrest.ids.tolist())
    members = np.flatnonzero(unrest.texts).tolist()
    found: dict[int, int] = {}
    for generation in range(_GENERATIONS):
        if not missing:
            break
        for text in members:
            old = int(old_ids[text])
            if old in missing and sequence_id.derive(_hash_of(content, text), generation) == old:
                found[old] = text
                missing.discard(old)
    if missing:
        raise ManifestError(
            f"sequence {sequence_id.format_id(min(missing))}",
            expected="its founding text among its documents",
            found="none whose content gives this ID",
            remedy="run `govern manifest check`, or rebuild the manifest",
        )
    return found


def _fresh_ids(content: npt.NDArray[np.uint64], *used: Indices) -> Indices:
    """An ID for each of these founding texts that was never used; int64 [founding texts]."""
    hashes = [_hash_of(content, text) for text in range(len(content))]
    ids = np.array([sequence_id.derive(one) for one in hashes], dtype=np.int64)
    if len(set(ids.tolist())) < len(ids) or any(_among(some, ids) for some in used):
        taken = {used_id for some in used for used_id in some.tolist()}
        for text, one in enumerate(hashes):
            ids[text] = _fresh_id(one, taken)
            taken.add(int(ids[text]))
    return ids


def _among(ascending: Indices, ids: Indices) -> bool:
    """Whether any of some IDs is among ascending ones."""
    place = np.searchsorted(ascending, ids)
    inside = place < len(ascending)
    return bool((ascending[place[inside]] == ids[inside]).any())


def _fresh_id(content_hash: bytes, taken: Collection[int]) -> int:
    for generation in range(_GENERATIONS):
        found = sequence_id.derive(content_hash, generation)
        if found not in taken:
            return found
    raise AssertionError("a thousand hashes that are all taken")


def _hash_of(content: npt.NDArray[np.uint64], text: int) -> bytes:
    return content[text].astype(">u8").tobytes()


def strictest(policies: Iterable[str]) -> str:
    """The policy that promises most."""
    order = ("shared", "pooled", "private", "strict")
    return max(policies, key=order.index)
