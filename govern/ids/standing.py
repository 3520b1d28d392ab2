"""What becomes of sequences in an addition: IDs, policies, status.

IDs        carried over by their founding text (`carry`)
policy     an untouched sequence keeps its own; where old sequences come together or a text moves,
           the strictest of theirs, so that no promise is lost; defaults for new texts alone
status     a sequence is forgotten when it has text of a forgotten sequence, or a new text that
           is linked to such text; it gets that sequence's tombstone
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from govern.ids.carry import Carried, carry_ids, find_unrest, strictest
from govern.ids.cluster import Clusters
from govern.ids.forgotten import earliest
from govern.ids.store import Indices
from govern.ids.stored import Stored
from govern.ids.union import Union
from govern.ids.verify import Links
from manifests.reader import Manifest
from manifests.schema import SEQUENCES, TOMBSTONES


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Every text after an addition.

    Attributes:
        old_ids: int64 [texts], the ID before, 0 for a new text.
        carried: The IDs now.
        representative: int64 [texts], the text that represents its sequence.
        similarity: float64 [texts], to it.
        restless: bool [texts], old texts of sequences whose members changed in another way than by
            new texts alone.
        policies: Of sequences that restless ones went into.
        tombstones: New rows for the manifest.
        forgotten: IDs of all forgotten sequences now.
    """

    old_ids: Indices
    carried: Carried
    representative: Indices
    similarity: npt.NDArray[np.float64]
    restless: npt.NDArray[np.bool_]
    policies: Mapping[int, str]
    tombstones: pa.Table
    forgotten: Indices


def decide(
    manifest: Manifest, stored: Stored, union: Union, clusters: Clusters, added: Links
) -> Standing:
    """Decide about every text.

    Args:
        manifest: The manifest before the addition.
        stored: Its texts.
        union: All texts.
        clusters: Their clusters, by rank.
        added: The links with a new text, by rank.
    """
    old_ids = np.zeros(len(union.rank), dtype=np.int64)
    old_ids[: union.n_old] = stored.sequence_ids[stored.standing]
    representative = union.by_rank[clusters.representative[union.rank]]
    unrest = find_unrest(old_ids, representative)
    concerned = _sequences(manifest, unrest.ids)
    aliases = np.sort(manifest.table("aliases", ["alias_id"])["alias_id"].to_numpy())
    carried = carry_ids(
        old_ids,
        representative,
        union.rank,
        union.content,
        _mapping(concerned, "first_snapshot"),
        unrest,
        aliases,
    )
    stones = manifest.table("tombstones")
    tombstones = _new_tombstones(stones, old_ids, carried.sequence_ids, union, added)
    gone = pa.array(list(carried.merged), pa.int64())
    all_stones = pa.concat_tables([stones, tombstones])["sequence_id"]
    forgotten = all_stones.filter(pc.invert(pc.is_in(all_stones, value_set=gone)))
    return Standing(
        old_ids=old_ids,
        carried=carried,
        representative=representative,
        similarity=clusters.similarity[union.rank],
        restless=unrest.texts,
        policies=_policies(old_ids, carried, unrest.texts, _mapping(concerned, "policy")),
        tombstones=tombstones,
        forgotten=np.unique(forgotten.to_numpy()),
    )


def _sequences(manifest: Manifest, ids: Indices) -> pa.Table:
    """Columns sequence_id, first_snapshot and policy of some sequences."""
    if not len(ids):
        return SEQUENCES.empty_table()
    rows = manifest.table("sequences", ["sequence_id", "first_snapshot", "policy"])
    return rows.filter(pc.is_in(rows["sequence_id"], value_set=pa.array(ids)))


def _mapping(sequences: pa.Table, column: str) -> dict[int, Any]:
    ids, values = sequences["sequence_id"].to_pylist(), sequences[column].to_pylist()
    return dict(zip(ids, values, strict=True))


def _policies(
    old_ids: Indices,
    carried: Carried,
    restless: npt.NDArray[np.bool_],
    known: Mapping[int, str],
) -> dict[int, str]:
    pairs = {*zip(carried.sequence_ids[restless].tolist(), old_ids[restless].tolist(), strict=True)}
    of_new: dict[int, list[str]] = {}
    for new, old in pairs:
        of_new.setdefault(new, []).append(known[old])
    return {new: strictest(policies) for new, policies in of_new.items()}


def _new_tombstones(
    stones: pa.Table, old_ids: Indices, ids: Indices, union: Union, added: Links
) -> pa.Table:
    """Tombstones of sequences that hold forgotten text and have none yet."""
    if not stones.num_rows:
        return TOMBSTONES.empty_table()
    dead = np.isin(old_ids, stones["sequence_id"].to_numpy())
    texts = np.flatnonzero(dead)
    touched, causes = [texts], [texts]
    a, b = union.by_rank[added.a], union.by_rank[added.b]
    for one, other in ((a, b), (b, a)):
        # One end is new, or both are; a link of two old texts is not among the added ones.
        hit = dead[other] & (old_ids[one] == 0)
        touched.append(one[hit])
        causes.append(other[hit])
    pairs = np.stack([ids[np.concatenate(touched)], old_ids[np.concatenate(causes)]])
    pairs = np.unique(pairs, axis=1)
    place = pc.index_in(pa.array(pairs[1]), value_set=stones["sequence_id"])
    rows = stones.take(place)
    rows = rows.set_column(0, TOMBSTONES.field("sequence_id"), pa.array(pairs[0], pa.int64()))
    known = pc.is_in(rows["sequence_id"], value_set=stones["sequence_id"])
    return earliest(rows.filter(pc.invert(known)).cast(TOMBSTONES))
