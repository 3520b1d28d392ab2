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
        founded: IDs that did not exist before.
    """

    sequence_ids: Indices
    merged: Mapping[int, int]
    founded: Collection[int]


def carry_ids(
    old_ids: Indices,
    representative: Indices,
    rank: Indices,
    content: npt.NDArray[np.uint64],
    first_snapshots: Mapping[int, int],
    used: Collection[int],
) -> Carried:
    """The sequence ID of each text after an addition.

    Args:
        old_ids: int64 [texts], the ID before; 0 for a text that was not there.
        representative: int64 [texts], the text that represents its cluster now.
        rank: int64 [texts], the place of its content hash among all.
        content: uint64 [texts, 4], content hashes as big-endian words.
        first_snapshots: Of every old ID that is not calm (see `_calm`); others are not asked for.
        used: IDs that were ever used.

    Raises:
        ManifestError: An old ID has no founding text among its members.
    """
    of_cluster, restless = _calm(old_ids, representative)
    founders = _founders(restless, old_ids, content)
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
    taken, founded = set(used), []
    for head in heads[of_cluster[heads] == 0].tolist():
        of_cluster[head] = _fresh_id(_hash_of(content, head), taken)
        taken.add(int(of_cluster[head]))
        founded.append(int(of_cluster[head]))
    return Carried(sequence_ids=of_cluster[representative], merged=merged, founded=founded)


def restless_ids(old_ids: Indices, representative: Indices) -> Indices:
    """Old IDs whose cluster is not simply the same cluster with more texts."""
    return _calm(old_ids, representative)[1]


def _calm(old_ids: Indices, representative: Indices) -> tuple[Indices, Indices]:
    """The ID of each cluster (by its representative) that has one old sequence whole and no other.

    Returns:
        int64 [texts], the ID at each such representative and 0 elsewhere; the other old IDs.
    """
    old = np.flatnonzero(old_ids > 0)
    ids, place = np.unique(old_ids[old], return_inverse=True)
    pairs = np.unique(place.astype(np.uint64) << np.uint64(32) | representative[old].astype("u8"))
    which, cluster = (pairs >> np.uint64(32)).astype(np.int64), (pairs & 0xFFFFFFFF).astype("i8")
    whole = np.bincount(which, minlength=len(ids))[which] == 1
    alone = np.bincount(cluster, minlength=len(representative))[cluster] == 1
    calm = whole & alone
    of_cluster = np.zeros(len(representative), dtype=np.int64)
    of_cluster[cluster[calm]] = ids[which[calm]]
    return of_cluster, np.unique(ids[which[~calm]])


def _founders(wanted: Indices, old_ids: Indices, content: npt.NDArray[np.uint64]) -> dict[int, int]:
    """The founding text of each of these IDs."""
    missing = set(wanted.tolist())
    members = np.flatnonzero(np.isin(old_ids, wanted)).tolist()
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
