"""Selection: which documents and sequence IDs a request means, closed over duplicates and aliases.

A run was trained on one snapshot of the manifest; the manifest may have moved on. Two kinds of rows
in `aliases` say how: `merged` (a whole ID became another) and `reassigned` (one document moved). So

    root(ID)         where merges lead from it
    trained(doc)     the ID of the document in the run's snapshot: what its first reassignment
                     after that snapshot took it from, else its ID of today
    selected roots   root(trained(d)) and root(today's ID) of every requested document d
    IDs to forget    every ID that merges into a selected root
    covered          every document whose trained or present ID has a selected root

No later re-clustering can hide trained text: whatever the ID was called then, it is in the set.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from govern.forget import lookup
from govern.forget.quoting import Quotation, find_quotations
from govern.forget.request import ForgetRequest
from govern.forget.run_view import RunView
from manifests import Manifest, queries
from manifests.errors import GovernError, ManyFaultsError, SelectionError
from manifests.sequence_id import format_id, parse_id

if TYPE_CHECKING:
    import pyarrow as pa

Key = tuple[str, str]
_COLUMNS = ["source", "doc_id", "uri", "sequence_id", "similarity", "n_bytes"]


@dataclass(frozen=True, kw_only=True)
class CoveredDocument:
    """A document whose text is among what will be forgotten.

    Attributes:
        source, doc_id, uri: Where it is from.
        sequence_id: The ID that the run knows it by, or today's where the run knows none.
        similarity: Exact Jaccard to the sequence's representative.
        how: `requested`, or `duplicate` of a requested one.
        n_bytes: Bytes of its text.
    """

    source: str
    doc_id: str
    uri: str
    sequence_id: int
    similarity: float
    how: str
    n_bytes: int

    @property
    def key(self) -> Key:
        """Source and document ID, which name a document."""
        return self.source, self.doc_id


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a request means.

    Attributes:
        request: The request.
        matched_rows: Documents that it named itself, before the closure.
        documents: Every covered document, by ID, source, document ID.
        sequence_ids: IDs to forget, ascending, whether or not the run knows them.
        aliases: (ID, the ID that stands for it today) where the two differ.
        notes: What a reader should know of how documents were found.
        quotations: Sequences that quote a selected one and are not covered; None where nobody
            looked for any.
        by_part: IDs that each of `request.parts` selects.
    """

    request: ForgetRequest
    matched_rows: int
    documents: tuple[CoveredDocument, ...]
    sequence_ids: tuple[int, ...]
    aliases: tuple[tuple[int, int], ...]
    notes: tuple[str, ...] = ()
    quotations: tuple[Quotation, ...] | None = None
    by_part: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Rows (source, document ID, ID of today) that one part names, and the roots of their IDs."""

    rows: list[tuple[str, str, int]]
    roots: set[int]
    notes: list[str]


@dataclass(frozen=True)
class _History:
    """How IDs moved since the run's snapshot."""

    merged: dict[int, int]
    reassigned: dict[Key, int]

    def root(self, sequence_id: int) -> int:
        seen = set()
        while sequence_id in self.merged and sequence_id not in seen:
            seen.add(sequence_id)
            sequence_id = self.merged[sequence_id]
        return sequence_id

    def merging_into(self, roots: Collection[int]) -> list[int]:
        """These IDs and all that merge into one of them, ascending."""
        return sorted({*roots, *(alias for alias in self.merged if self.root(alias) in roots)})

    def trained(self, key: Key, today: int) -> int:
        return self.reassigned.get(key, today)


def select(manifest: Manifest, request: ForgetRequest, run: RunView) -> Selection:
    """Resolve a request.

    Args:
        manifest: The manifest that the run was trained on, at any later snapshot.
        request: What is asked for.
        run: Tells the snapshot, and the IDs that the run knows.

    Raises:
        SelectionError: Nothing was found, or a document ID that several sources have.
        InputError: A malformed ID or SQL condition, or a text file that cannot be read.
    """
    history = _history(manifest, run.snapshot)
    parts = _parts(manifest, request, run, history)
    rows = list(dict.fromkeys(row for part in parts for row in part.rows))
    roots = set().union(*(part.roots for part in parts))
    notes = [note for part in parts for note in part.notes]
    ids = history.merging_into(roots)
    documents = _covered(manifest, history, ids, roots, run, {(s, d) for s, d, _ in rows})
    return Selection(
        request=request,
        matched_rows=len(rows),
        documents=documents,
        sequence_ids=tuple(ids),
        aliases=tuple((i, history.root(i)) for i in ids if history.root(i) != i),
        notes=tuple(notes),
        quotations=_quotations(manifest, request, ids, documents),
        by_part=tuple(tuple(history.merging_into(part.roots)) for part in parts),
    )


def _parts(
    manifest: Manifest, request: ForgetRequest, run: RunView, history: _History
) -> list[_Part]:
    """What each part of the request names; all faults are found before any is raised."""
    parts, faults = [], []
    doc_ids = [v for asked in request.parts if asked.kind == "doc-id" for v in asked.values]
    by_name = lookup.documents_named(manifest, doc_ids) if doc_ids else None
    for asked in request.parts:
        try:
            table, given, notes = _requested(manifest, asked, run, by_name)
            rows = _rows(table)
            roots = {history.root(i) for i in given}
            for source, doc_id, today in rows:
                trained = history.trained((source, doc_id), today)
                roots |= {history.root(today), history.root(trained)}
            if not roots:
                raise _nothing(manifest, asked)
            parts.append(_Part(rows=rows, roots=roots, notes=notes))
        except GovernError as error:
            faults.append(_of_subject(asked, error) if request.subjects else error)
    if len(faults) > 1:
        raise ManyFaultsError(faults)
    if faults:
        raise faults[0]
    return parts


def _of_subject(asked: ForgetRequest, error: GovernError) -> GovernError:
    return type(error)(
        f"subject {_short(asked.reference)!r}: {error.what}",
        expected=error.expected,
        found=error.found,
        remedy=error.remedy,
    )


def _quotations(
    manifest: Manifest,
    request: ForgetRequest,
    ids: Collection[int],
    documents: Iterable[CoveredDocument],
) -> tuple[Quotation, ...] | None:
    if not request.quotations or request.kind == "all-sinks":
        return None
    return find_quotations(manifest, ids, {document.key for document in documents})


def _history(manifest: Manifest, snapshot: int) -> _History:
    merged: dict[int, int] = {}
    reassigned: dict[Key, int] = {}
    rows = manifest.table("aliases").sort_by([("snapshot", "ascending")]).to_pylist()
    for row in rows:
        if row["reason"] == "merged":
            merged[row["alias_id"]] = row["sequence_id"]
        elif row["snapshot"] > snapshot:
            # The first move after the snapshot started from the ID that the run knew.
            reassigned.setdefault((row["source"], row["doc_id"]), row["alias_id"])
    return _History(merged, reassigned)


def _covered(
    manifest: Manifest,
    history: _History,
    ids: Iterable[int],
    roots: Set[int],
    run: RunView,
    requested: Collection[Key],
) -> tuple[CoveredDocument, ...]:
    by_root: dict[int, int] = {}
    for i in sorted(run.known(ids)):
        by_root.setdefault(history.root(i), i)
    found = []
    rows = lookup.documents_of(manifest, ids, _COLUMNS).to_pylist()
    trained_ids = {history.trained((row["source"], row["doc_id"]), 0) for row in rows}
    known = run.known({*ids, *trained_ids, *(row["sequence_id"] for row in rows)})
    for row in rows:
        key, today = (row["source"], row["doc_id"]), row["sequence_id"]
        trained = history.trained(key, today)
        if roots.isdisjoint((history.root(today), history.root(trained))):
            continue  # It left one of these IDs before the run was trained.
        names = (trained, today, by_root.get(history.root(trained)), by_root.get(today))
        found.append(
            CoveredDocument(
                source=row["source"],
                doc_id=row["doc_id"],
                uri=row["uri"],
                sequence_id=next((i for i in names if i in known), today),
                similarity=row["similarity"],
                how="requested" if key in requested else "duplicate",
                n_bytes=row["n_bytes"],
            )
        )
    return tuple(sorted(found, key=lambda d: (d.sequence_id, d.source, d.doc_id)))


# --- the kinds of request ------------------------------------------------------------------------


def _requested(
    manifest: Manifest, request: ForgetRequest, run: RunView, by_name: pa.Table
) -> tuple[pa.Table | None, list[int], list[str]]:
    """Documents that the request names, IDs that it names, and notes.

    `by_name` has the documents of every document ID that any part asks for.
    """
    if request.kind == "doc-id":
        import pyarrow as pa

        named = [_by_doc_id(manifest, by_name, value) for value in request.values]
        return pa.concat_tables(named), [], []
    if request.kind == "where":
        return queries.documents_where(manifest, request.values[0]), [], []
    if request.kind == "text-file":
        import pyarrow as pa

        from govern.forget.text_file import documents_with_text

        found = [
            documents_with_text(manifest, Path(value), request.min_similarity)
            for value in request.values
        ]
        notes = [note for _, some in found for note in some]
        return pa.concat_tables([table for table, _ in found]), [], notes
    if request.kind == "all-sinks":
        return None, run.owners(), []
    given = [parse_id(value) for value in request.values]
    resolved = lookup.resolve(manifest, given)
    known = run.known(given)
    for sequence_id in given:
        if sequence_id not in resolved and sequence_id not in known:
            raise SelectionError(
                f"sequence {format_id(sequence_id)}",
                expected="an ID of the manifest or one of its aliases",
                found="none like it",
                remedy="look the document up with `govern manifest find`",
            )
    return lookup.documents_of(manifest, given, _COLUMNS), given, []


def _by_doc_id(manifest: Manifest, documents: pa.Table, doc_id: str) -> pa.Table:
    import pyarrow.compute as pc

    found = documents.filter(pc.equal(documents["doc_id"], doc_id))
    if found.num_rows == 0:
        near = _nearest(manifest, doc_id)
        hint = f"; the nearest is {near[1]!r} of source {near[0]!r}" if near else ""
        raise SelectionError(
            f"document {_short(doc_id)!r}",
            expected=f"a document of manifest {manifest.path}",
            found=f"none with this ID{hint}",
            remedy="check the ID, or look for its text with --text-file",
        )
    if found.num_rows > 1 and len(set(found["sequence_id"].to_pylist())) > 1:
        sources = ", ".join(repr(_short(s)) for s in found["source"].to_pylist()[:5])
        raise SelectionError(
            f"document {_short(doc_id)!r}",
            expected="one source that has this ID",
            found=f"{found.num_rows} sources: {sources}",
            remedy="say which with --where \"source = '…' AND doc_id = '…'\"",
        )
    return found


def _nearest(manifest: Manifest, doc_id: str) -> Key | None:
    """The document whose ID looks most like the given one (Jaro-Winkler), or None."""
    with manifest.connect() as connection:
        # Long hostile IDs would cost their product; the beginning is enough for a hint.
        row = connection.execute(
            "SELECT source, doc_id FROM documents WHERE length(doc_id) > 0 "
            "ORDER BY jaro_winkler_similarity(left(doc_id, 200), ?) DESC, doc_id, source LIMIT 1",
            [doc_id[:200]],
        ).fetchone()
    return (_short(row[0]), _short(row[1])) if row else None


def _rows(table: pa.Table | None) -> list[tuple[str, str, int]]:
    if table is None:
        return []
    columns = (table[name].to_pylist() for name in ("source", "doc_id", "sequence_id"))
    return list(dict.fromkeys(zip(*columns, strict=True)))


def _nothing(manifest: Manifest, request: ForgetRequest) -> SelectionError:
    what = _short(request.values[0]) if request.values else "all sinks"
    return SelectionError(
        f"selection {request.kind} {what!r}",
        expected=f"at least one of {manifest.rows('documents')} documents",
        found="none",
        remedy="try the condition with `govern manifest query`"
        if request.kind == "where"
        else "check the selection",
    )


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "…"
