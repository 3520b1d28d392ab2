"""The tables of an added snapshot: new rows in new files, and the files that a change touches.

Files are immutable: one that holds a changed row is written anew, every other one stays as it is.
Row order within `documents` never changes, so it stays that of `signatures` and `shingles`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from govern.ids.relink import Relinked, pack
from govern.ids.sequences import default_policies, sequence_rows, source_codes, sum_documents
from govern.ids.standing import Standing
from govern.ids.store import Indices
from govern.ids.stored import Stored, link_texts
from govern.ids.tables import (
    Assigned,
    Files,
    LinkRows,
    copy_links,
    copy_parts,
    parts_of,
    sorted_rejects,
    write_documents,
    write_links,
)
from govern.ids.union import Union
from manifests import schema
from manifests.reader import Manifest
from manifests.writer import write_table


@dataclass(frozen=True, kw_only=True)
class Addition:
    """Everything that was decided about an addition: the input of `write_addition`."""

    manifest: Manifest
    stored: Stored
    union: Union
    relinked: Relinked
    standing: Standing
    assigned: Assigned

    @property
    def standing_documents(self) -> Indices:
        """The document of each text, int64 [texts]; new documents are numbered behind the old."""
        fresh = self.assigned.settled.document_of[self.union.fresh]
        return np.concatenate([self.stored.standing, len(self.stored.text_of) + fresh])

    def names(self, documents: Indices) -> pa.Table:
        """Columns source and doc_id of old and new documents."""
        n_old = len(self.stored.text_of)
        old = documents < n_old
        order = np.argsort(~old, kind="stable")
        both = pa.concat_tables(
            [
                self.stored.names.take(pa.array(documents[old])),
                self.assigned.names(documents[~old] - n_old).cast(self.stored.names.schema),
            ]
        )
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return both.take(pa.array(back))


@dataclass(frozen=True, kw_only=True)
class Amended:
    """The tables after an addition, and how many documents were reassigned."""

    tables: Mapping[str, Files]
    reassigned: int


def write_addition(
    directory: Path, addition: Addition, *, reserve: float, advance: Callable[[int], None]
) -> Amended:
    """Write what an addition changes.

    Args:
        directory: The manifest's directory.
        addition: What was decided.
        reserve: Fraction of sequences that are set aside.
        advance: Called with the number of new documents that are written.
    """
    tables = dict(addition.manifest.index.tables)
    target = pq.read_schema(addition.manifest.files("documents")[0])
    appended = write_documents(directory, addition.assigned, target, advance)
    tables["documents"] = _amended_documents(directory, addition)
    for name, files in appended.items():
        tables[name] += files
    tables["sequences"] = _amended_sequences(directory, addition, reserve)
    tables["links"] = _amended_links(directory, addition)
    aliases = _aliases(addition)
    rejects = sorted_rejects(
        [addition.assigned.ingested.rejects, addition.assigned.settled.rejects]
    )
    for name, rows in (("aliases", aliases), ("rejects", rejects)):
        if rows.num_rows:
            tables[name] += write_table(directory, name, rows)
    if addition.standing.tombstones.num_rows:
        stones = [addition.manifest.table("tombstones"), addition.standing.tombstones]
        tables["tombstones"] = write_table(
            directory, "tombstones", pa.concat_tables(stones).sort_by("sequence_id")
        )
    reassigned = pc.sum(pc.equal(aliases["reason"], "reassigned")).as_py() or 0
    return Amended(tables=tables, reassigned=reassigned)


def _amended_documents(directory: Path, addition: Addition) -> Files:
    stored, standing = addition.stored, addition.standing
    texts = stored.text_of
    ids = standing.carried.sequence_ids[texts]
    similarity = standing.similarity[texts].astype(np.float32)
    stands = addition.standing_documents[standing.representative[texts]]
    represents = stands == np.arange(len(texts))
    changed = (ids != stored.sequence_ids) | (similarity != stored.similarity)
    changed |= represents != stored.is_representative
    files: Files = ()
    first = 0
    for entry in addition.manifest.index.tables["documents"]:
        part = slice(first, first + entry.rows)
        first += entry.rows
        if not changed[part].any():
            files += (entry,)
            continue
        rows = _read(addition.manifest, entry.path)
        values = {
            "sequence_id": ids[part],
            "is_representative": represents[part],
            "similarity": similarity[part],
        }
        for name, column in values.items():
            position = rows.schema.get_field_index(name)
            rows = rows.set_column(position, rows.schema.field(position), pa.array(column))
        files += write_table(directory, "documents", rows)
    return files


def _amended_sequences(directory: Path, addition: Addition, reserve: float) -> Files:
    changed = _changed_sequences(addition, reserve)
    merged = pa.array(sorted(addition.standing.carried.merged), pa.int64())
    files: Files = ()
    known = pa.array([], pa.int64())
    for entry in addition.manifest.index.tables["sequences"]:
        rows = _read(addition.manifest, entry.path)
        ids = rows["sequence_id"]
        hit = pc.is_in(ids, value_set=changed["sequence_id"])
        stale = pc.or_(hit, pc.is_in(ids, value_set=merged))
        if not pc.any(stale).as_py():
            files += (entry,)
            continue
        known = pa.concat_arrays([known, *ids.filter(hit).chunks])
        new = changed.filter(pc.is_in(changed["sequence_id"], value_set=ids))
        rest = rows.filter(pc.invert(stale))
        files += write_table(
            directory, "sequences", pa.concat_tables([rest, new]).sort_by("sequence_id")
        )
    fresh = changed.filter(pc.invert(pc.is_in(changed["sequence_id"], value_set=known)))
    return files + write_table(directory, "sequences", fresh) if fresh.num_rows else files


def _changed_sequences(addition: Addition, reserve: float) -> pa.Table:
    """The rows of all sequences whose members changed, ascending by ID."""
    stored, standing, assigned = addition.stored, addition.standing, addition.assigned
    ids = standing.carried.sequence_ids
    new_documents = np.flatnonzero(assigned.settled.text_of >= 0)
    new_ids = assigned.sequence_ids[assigned.settled.text_of[new_documents]]
    restless = np.isin(standing.old_ids, standing.restless)
    concerned = np.unique(np.concatenate([new_ids, ids[restless]]))
    old_ids = ids[stored.text_of]
    old_documents = np.flatnonzero(np.isin(old_ids, concerned))
    columns = assigned.ingested.documents
    codes = source_codes([*stored.names["source"].chunks, *columns.column("source")])
    n_bytes = np.concatenate([part.to_numpy() for part in columns.column("n_bytes")])
    n_old = len(stored.text_of)
    sums = sum_documents(
        np.concatenate([old_ids[old_documents], new_ids]),
        np.concatenate([codes[:n_old][old_documents], codes[n_old:][new_documents]]),
        np.concatenate([stored.n_bytes[old_documents], n_bytes[new_documents]]),
    )
    heads = np.flatnonzero(standing.representative == np.arange(len(ids)))
    heads = heads[np.isin(ids[heads], sums.ids)]
    heads = heads[np.argsort(ids[heads])]
    policies, first_snapshots = default_policies(sums.n_docs).tolist(), []
    known = _known_sequences(addition.manifest, sums.ids)
    for place, one in enumerate(sums.ids.tolist()):
        policy, since = known.get(one, (policies[place], assigned.snapshot))
        policies[place] = standing.policies.get(one, policy)
        first_snapshots.append(since)
    return sequence_rows(
        sums,
        addition.names(addition.standing_documents[heads]),
        policies=np.array(policies),
        forgotten=np.isin(sums.ids, standing.forgotten),
        first_snapshots=np.array(first_snapshots, dtype=np.int32),
        reserve=reserve,
    )


def _known_sequences(manifest: Manifest, ids: Indices) -> dict[int, tuple[str, int]]:
    """Policy and first snapshot of those sequences that the manifest has."""
    rows = manifest.table("sequences", ["sequence_id", "policy", "first_snapshot"])
    rows = rows.filter(pc.is_in(rows["sequence_id"], value_set=pa.array(ids)))
    columns = (rows[name].to_pylist() for name in rows.column_names)
    return {i: (policy, since) for i, policy, since in zip(*columns, strict=True)}


def _amended_links(directory: Path, addition: Addition) -> Files:
    files: Files = ()
    dropped = addition.relinked.dropped
    for entry in addition.manifest.index.tables["links"]:
        if len(dropped):
            rows = _read(addition.manifest, entry.path)
            a, b = link_texts(rows)
            gone = (a >= 0) & np.isin(pack(a, b), dropped)
            if gone.any():
                files += write_table(directory, "links", rows.filter(pa.array(~gone)))
                continue
        files += (entry,)
    parts = list(_new_links(addition))
    return files + write_links(directory, parts, addition.names) if parts else files


def _new_links(addition: Addition) -> Iterator[LinkRows]:
    """New pairs of texts, and every new copy with the document that stands for its text."""
    assigned, union, added = addition.assigned, addition.union, addition.relinked.added
    n_old, stands = len(addition.stored.text_of), addition.standing_documents
    order = np.lexsort((union.rank[added.b], union.rank[added.a]))
    for part in parts_of(len(order)):
        a, b = added.a[order[part]], added.b[order[part]]
        yield LinkRows(
            a=stands[a], b=stands[b], jaccard=added.jaccard[order[part]], text_a=a, text_b=b
        )
    copies, of_new = copy_links(assigned)
    documents = np.flatnonzero(assigned.settled.text_of >= 0)
    again = documents[~union.fresh[assigned.settled.text_of[documents]]]
    of_old = stands[union.numbers[assigned.settled.text_of[again]]]
    copies = np.concatenate([copies, again])
    yield from copy_parts(
        np.concatenate([n_old + of_new, of_old]),
        n_old + copies,
        union.rank[union.numbers[assigned.settled.text_of[copies]]],
        np.asarray(assigned.ingested.keys)[copies],
    )


def _aliases(addition: Addition) -> pa.Table:
    """What became of IDs: rows `merged` for whole sequences, `reassigned` for single documents."""
    stored, carried = addition.stored, addition.standing.carried
    snapshot = addition.assigned.snapshot
    now = carried.sequence_ids[stored.text_of]
    moved = np.flatnonzero(now != stored.sequence_ids)
    named = stored.names.take(pa.array(moved)).to_pylist()
    rows = [
        {"alias_id": old, "sequence_id": new, "snapshot": snapshot, "reason": "merged",
         "source": None, "doc_id": None}
        for old, new in sorted(carried.merged.items())
    ]  # fmt: skip
    reassigned = [
        {"alias_id": old, "sequence_id": new, "snapshot": snapshot, "reason": "reassigned", **name}
        for old, new, name in zip(
            stored.sequence_ids[moved].tolist(), now[moved].tolist(), named, strict=True
        )
        if carried.merged.get(old) != new
    ]
    rows += sorted(reassigned, key=lambda row: (row["alias_id"], row["source"], row["doc_id"]))
    return pa.Table.from_pylist(rows, schema.ALIASES)


def _read(manifest: Manifest, path: str) -> pa.Table:
    return pq.read_table(manifest.path / path, partitioning=None)
