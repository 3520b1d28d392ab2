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

from govern.ids.relink import Relinked
from govern.ids.sequences import (
    Sums,
    default_policies,
    sequence_rows,
    source_codes,
    sum_documents,
)
from govern.ids.standing import Standing
from govern.ids.store import Indices
from govern.ids.stored import Stored
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
from manifests.compact import merge_small_files
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
    """What was written.

    Attributes:
        tables: The tables after the addition.
        reassigned: Old documents that have another ID now, not counting merged ones.
        repeated_shared: Sequences of one document and policy `shared` that have copies now.
    """

    tables: Mapping[str, Files]
    reassigned: int
    repeated_shared: int


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
    tables["sequences"], repeated_shared = _amended_sequences(directory, addition, reserve)
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
    tables = {name: merge_small_files(directory, name, files) for name, files in tables.items()}
    reassigned = pc.sum(pc.equal(aliases["reason"], "reassigned")).as_py() or 0
    return Amended(tables=tables, reassigned=reassigned, repeated_shared=repeated_shared)


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


def _amended_sequences(directory: Path, addition: Addition, reserve: float) -> tuple[Files, int]:
    """Write `sequences`; also how many shared ones of one document have more now.

    A row that changes stays where it is, so that files stay sorted; one that became an alias goes.
    """
    sums, heads = _changed_sums(addition)
    policies = default_policies(sums.n_docs)
    since = np.full(len(sums.ids), addition.assigned.snapshot, dtype=np.int32)
    merged = np.sort(np.array(list(addition.standing.carried.merged), dtype=np.int64))
    repeated_shared = 0
    found = []
    for entry in addition.manifest.index.tables["sequences"]:
        rows = _read(addition.manifest, entry.path)
        ids = rows["sequence_id"].to_numpy()
        at, which = _matches(ids, sums.ids)
        known = rows.take(pa.array(at))
        policies[which] = known["policy"].to_numpy()
        since[which] = known["first_snapshot"].to_numpy()
        alone = (known["n_docs"].to_numpy() == 1) & (policies[which] == "shared")
        repeated_shared += int(alone.sum())
        found.append((entry, rows, at, which, _matches(ids, merged)[0]))
    for place, one in enumerate(sums.ids.tolist()):
        policies[place] = addition.standing.policies.get(one, policies[place])
    changed = sequence_rows(
        sums,
        addition.names(addition.standing_documents[heads]),
        policies=policies,
        forgotten=np.isin(sums.ids, addition.standing.forgotten),
        first_snapshots=since,
        reserve=reserve,
    )
    fresh = np.ones(len(sums.ids), dtype=np.bool_)
    files: Files = ()
    for entry, rows, at, which, gone in found:
        if not len(at) and not len(gone):
            files += (entry,)
            continue
        fresh[which] = False
        order = np.arange(len(rows))
        order[at] = len(rows) + which
        both = pa.concat_tables([rows, changed])
        files += write_table(directory, "sequences", both.take(pa.array(np.delete(order, gone))))
    if fresh.any():
        files += write_table(directory, "sequences", changed.filter(pa.array(fresh)))
    return files, repeated_shared


def _matches(ids: Indices, ascending: Indices) -> tuple[Indices, Indices]:
    """Places in `ids`, and in ascending IDs, of those that both have."""
    place = np.searchsorted(ascending, ids)
    inside = np.flatnonzero(place < len(ascending))
    inside = inside[ascending[place[inside]] == ids[inside]]
    return inside, place[inside]


def _changed_sums(addition: Addition) -> tuple[Sums, Indices]:
    """Sums of all sequences whose members changed, and the text that represents each."""
    stored, standing, assigned = addition.stored, addition.standing, addition.assigned
    representative = standing.representative
    new_documents = np.flatnonzero(assigned.settled.text_of >= 0)
    new_texts = addition.union.numbers[assigned.settled.text_of[new_documents]]
    # Sequences go by the text that represents them: no ID of a million needs to be looked up.
    concerned = np.zeros(len(representative), dtype=np.bool_)
    concerned[representative[new_texts]] = True
    concerned[representative[standing.restless]] = True
    old_documents = np.flatnonzero(concerned[representative[stored.text_of]])
    ids = standing.carried.sequence_ids
    columns = assigned.ingested.documents
    old_names = stored.names["source"].take(pa.array(old_documents))
    codes = source_codes([*old_names.chunks, *columns.column("source")])
    new_codes = codes[len(old_documents) :]
    n_bytes = np.concatenate([part.to_numpy() for part in columns.column("n_bytes")])
    sums = sum_documents(
        np.concatenate([ids[stored.text_of[old_documents]], ids[new_texts]]),
        np.concatenate([codes[: len(old_documents)], new_codes[new_documents]]),
        np.concatenate([stored.n_bytes[old_documents], n_bytes[new_documents]]),
    )
    heads = np.flatnonzero(concerned)
    return sums, heads[np.argsort(ids[heads])]


def _amended_links(directory: Path, addition: Addition) -> Files:
    files: Files = ()
    dropped = addition.relinked.dropped
    first = 0
    for entry in addition.manifest.index.tables["links"]:
        gone = dropped[slice(*np.searchsorted(dropped, [first, first + entry.rows]))] - first
        first += entry.rows
        if not len(gone):
            files += (entry,)
            continue
        kept = np.ones(entry.rows, dtype=np.bool_)
        kept[gone] = False
        rows = _read(addition.manifest, entry.path).filter(pa.array(kept))
        files += write_table(directory, "links", rows)
    parts = list(_new_links(addition))
    return files + write_links(directory, parts, addition.names) if parts else files


def _new_links(addition: Addition) -> Iterator[LinkRows]:
    """New pairs of texts, and every new copy with the document that stands for its text."""
    assigned, union, added = addition.assigned, addition.union, addition.relinked.added
    n_old, stands = len(addition.stored.text_of), addition.standing_documents
    for part in parts_of(len(added.a)):
        a, b = union.by_rank[added.a[part]], union.by_rank[added.b[part]]
        jaccard = np.asarray(added.jaccard[part])
        yield LinkRows(a=stands[a], b=stands[b], jaccard=jaccard, text_a=a, text_b=b)
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
    return pq.read_table(manifest.path / path, partitioning=None, memory_map=True)
