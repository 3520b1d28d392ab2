"""The plan: which blocks a selection zeroes, and what other IDs would lose. Pure.

All collateral is known beforehand, because the sink map says who uses which block. A plan is a
record: it travels as JSON, and a forget that was killed continues from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from govern.audit.records import Count, Record, SequenceId
from govern.audit.statement import Alias, Collateral, HistogramBin, ManifestPin, ShareLost
from govern.forget.request import Kind
from govern.forget.run_view import RunView
from govern.forget.selection import CoveredDocument, Selection
from manifests import Manifest
from manifests.errors import CollateralError, SelectionError
from manifests.sequence_id import format_id, parse_id
from sinkmodel.allocation import SinkMap

_BINS = 10


@dataclass(frozen=True, kw_only=True)
class PlannedDocument(Record):
    """A document covered by the selection."""

    source: str
    doc_id: str
    uri: str
    sequence_id: SequenceId
    similarity: float
    how: Literal["requested", "duplicate"]


@dataclass(frozen=True, kw_only=True)
class PlannedQuotation(Record):
    """A sequence that has a share (0 to 1) of a forgotten text, and is not covered."""

    source: str
    doc_id: str
    sequence_id: SequenceId
    quotes: SequenceId
    share: float


@dataclass(frozen=True, kw_only=True)
class PlannedSequence(Record):
    """A sequence to forget: its blocks that nobody else uses, and those that kept IDs use too."""

    sequence_id: SequenceId
    policy: Literal["pooled", "private", "strict"]
    exclusive: tuple[Count, ...]
    shared: tuple[Count, ...]


@dataclass(frozen=True, kw_only=True)
class PlannedSubject(Record):
    """A subject of a request file, and the sequences that it selects."""

    reference: str
    reason: str
    requester: str | None
    sequence_ids: tuple[SequenceId, ...]


@dataclass(frozen=True, kw_only=True)
class Plan(Record):
    """What will be zeroed.

    Attributes:
        kind, query: The selection as it was asked for.
        manifest: The snapshot that the run was trained on, and the manifest's digest today.
        matched_rows: Documents that the request named itself.
        documents: Covered documents of the sequences to forget.
        other_documents: Selected documents of IDs for which nothing is zeroed.
        sequences: The sequences to forget.
        aliases: IDs that have another name today.
        without_sinks: Selected IDs of policy `shared`: nothing can be forgotten for them.
        already_forgotten: Selected IDs that were forgotten before.
        not_trained: Selected IDs that the run was not trained on.
        collateral: What kept sequences lose.
        layers, block_size, block_bytes: Shape of a block: it spans all layers.
        notes: How documents were found.
        quotations: Sequences that quote what is forgotten, not covered; None: nobody looked.
        subjects: Which sequences each subject of a request file selects; None without one.
    """

    kind: Kind
    query: str
    manifest: ManifestPin
    matched_rows: Count
    documents: tuple[PlannedDocument, ...]
    other_documents: tuple[PlannedDocument, ...] = ()
    sequences: tuple[PlannedSequence, ...]
    aliases: tuple[Alias, ...] = ()
    without_sinks: tuple[SequenceId, ...] = ()
    already_forgotten: tuple[SequenceId, ...] = ()
    not_trained: tuple[SequenceId, ...] = ()
    collateral: Collateral
    layers: Count
    block_size: Count
    block_bytes: Count
    notes: tuple[str, ...] = ()
    quotations: tuple[PlannedQuotation, ...] | None = None
    subjects: tuple[PlannedSubject, ...] | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """Sequence IDs to forget."""
        return tuple(parse_id(s.sequence_id) for s in self.sequences)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Block indices to zero, ascending."""
        return tuple(sorted({b for s in self.sequences for b in (*s.exclusive, *s.shared)}))

    @property
    def worst_share(self) -> float:
        """The largest share of its sinks that a kept sequence loses."""
        return max((item.share_lost for item in self.collateral.affected), default=0.0)


def make_plan(
    manifest: Manifest, selection: Selection, run: RunView, *, max_collateral: float
) -> Plan:
    """The plan for a selection. Reads the rows of the sink map that it needs.

    Args:
        manifest: For its digests.
        selection: What is to be forgotten.
        run: Gives rows of the sink map, and the block shape.
        max_collateral: The share of its sinks that a kept sequence may lose, 0 to 1.
    """
    sink_map = run.sinks_of(selection.sequence_ids)
    rows = _rows_of(sink_map, selection.sequence_ids)
    counts = np.diff(sink_map.lists.offsets)
    root = dict(selection.aliases)
    # An ID that the run never knew is no loss where it knows the same sequence by another name.
    known_roots = {root.get(i, i) for i in rows}
    groups: dict[str, list[str]] = {"without_sinks": [], "already_forgotten": [], "not_trained": []}
    erased: dict[int, int] = {}
    for sequence_id in selection.sequence_ids:
        row = rows.get(sequence_id)
        if row is None:
            if root.get(sequence_id, sequence_id) not in known_roots:
                groups["not_trained"].append(format_id(sequence_id))
        elif not counts[row]:
            groups["without_sinks"].append(format_id(sequence_id))
        elif not sink_map.active[row]:
            groups["already_forgotten"].append(format_id(sequence_id))
        else:
            erased[sequence_id] = row
    sequences, collateral = _blocks_and_collateral(sink_map, erased, max_collateral)
    documents, others = _split(selection.documents, erased)
    return Plan(
        kind=selection.request.kind,
        query=selection.request.query,
        manifest=ManifestPin(
            content_digest=run.content_digest,
            snapshot=run.snapshot,
            digest_before=manifest.digest,
        ),
        matched_rows=selection.matched_rows,
        documents=documents,
        other_documents=others,
        sequences=sequences,
        aliases=tuple(
            Alias(alias_id=format_id(old), sequence_id=format_id(new))
            for old, new in selection.aliases
        ),
        without_sinks=tuple(groups["without_sinks"]),
        already_forgotten=tuple(groups["already_forgotten"]),
        not_trained=tuple(groups["not_trained"]),
        collateral=collateral,
        layers=run.layers,
        block_size=run.block_size,
        block_bytes=run.block_bytes,
        notes=selection.notes,
        quotations=_quotations(selection),
        subjects=_subjects(selection),
    )


def _quotations(selection: Selection) -> tuple[PlannedQuotation, ...] | None:
    if selection.quotations is None:
        return None
    return tuple(
        PlannedQuotation(
            source=item.source,
            doc_id=item.doc_id,
            sequence_id=format_id(item.sequence_id),
            quotes=format_id(item.quotes),
            share=item.share,
        )
        for item in selection.quotations
    )


def _subjects(selection: Selection) -> tuple[PlannedSubject, ...] | None:
    if not selection.request.subjects:
        return None
    return tuple(
        PlannedSubject(
            reference=part.reference,
            reason=part.reason,
            requester=part.requester,
            sequence_ids=tuple(format_id(i) for i in ids),
        )
        for part, ids in zip(selection.request.parts, selection.by_part, strict=True)
    )


def require_executable(plan: Plan, run: Path | None = None) -> None:
    """Refuse a plan that erases nothing, or takes more from kept sequences than was allowed.

    Args:
        plan: The plan.
        run: Its run, where an error must say which of several it is.

    Raises:
        SelectionError: No selected ID owns sinks that are not zero already.
        CollateralError: Some kept sequence would lose more than `max_allowed`.
    """
    if not plan.sequences:
        raise _nothing_erasable(plan, run)
    if plan.worst_share > plan.collateral.max_allowed:
        worst = max(plan.collateral.affected, key=lambda item: item.share_lost)
        raise CollateralError(
            f"plan for {len(plan.sequences)} sequence IDs" + (f" in {run}" if run else ""),
            expected=f"kept IDs that lose at most {plan.collateral.max_allowed:g} of their sinks",
            found=f"{len(plan.collateral.affected)} kept IDs that lose some, "
            f"{worst.sequence_id} {worst.share_lost:.3g} of them",
            remedy="look at it with --plan; --max-collateral allows more and is recorded",
        )


def _nothing_erasable(plan: Plan, run: Path | None) -> SelectionError:
    reasons = [
        f"{len(ids)} {what}"
        for ids, what in (
            (plan.without_sinks, "of policy shared, which own no sinks: nothing can be forgotten"),
            (plan.already_forgotten, "forgotten before"),
            (plan.not_trained, "that the run was not trained on"),
        )
        if ids
    ]
    return SelectionError(
        f"selection {plan.query[:80]}" + (f" in {run}" if run else ""),
        expected="sequence IDs with sinks that can be zeroed",
        found="IDs " + ", ".join(reasons) if reasons else "none",
        remedy="retrain without these documents, or train them as private or strict",
    )


def _blocks_and_collateral(
    sink_map: SinkMap, erased: dict[int, int], max_collateral: float
) -> tuple[tuple[PlannedSequence, ...], Collateral]:
    """Blocks of each erased sequence, and what every kept one loses by it."""
    offsets, blocks = sink_map.lists.offsets, sink_map.lists.blocks
    gone = np.zeros(len(sink_map), dtype=bool)
    gone[list(erased.values())] = True
    owner = np.repeat(np.arange(len(sink_map)), np.diff(offsets))
    size = int(blocks.max(initial=-1)) + 1
    zero_before, planned, used = (np.zeros(size, dtype=bool) for _ in range(3))
    zero_before[blocks[~sink_map.active[owner]]] = True
    planned[blocks[gone[owner]]] = True
    kept = sink_map.active & ~gone
    used[blocks[kept[owner]]] = True
    sequences = []
    for sequence_id, row in erased.items():
        own = np.unique(blocks[offsets[row] : offsets[row + 1]])
        sequences.append(
            PlannedSequence(
                sequence_id=format_id(sequence_id),
                policy=sink_map.policies[row],
                exclusive=tuple(own[~used[own]].tolist()),
                shared=tuple(own[used[own]].tolist()),
            )
        )
    # A block that an earlier request zeroed already cannot be lost again.
    lost = np.concatenate([[0], np.cumsum((planned & ~zero_before)[blocks])])
    counts = np.diff(offsets)
    shares = np.divide(np.diff(lost[offsets]), counts, out=np.zeros(len(counts)), where=counts > 0)
    hit = np.flatnonzero(kept & (shares > 0))
    affected = tuple(
        ShareLost(sequence_id=format_id(int(sink_map.sequence_ids[row])), share_lost=shares[row])
        for row in hit
    )
    collateral = Collateral(
        max_allowed=max_collateral,
        override=bool(affected) and float(shares[hit].max()) <= max_collateral,
        affected=affected,
        histogram=_histogram(shares[hit]),
    )
    return tuple(sequences), collateral


def _histogram(shares: npt.NDArray[np.float64]) -> tuple[HistogramBin, ...]:
    """Tenths; whoever loses everything has a bin of his own, from 1."""
    counts = Counter(int(share * _BINS + 1e-9) for share in shares)
    return tuple(
        HistogramBin(low=index / _BINS, high=(index + 1) / _BINS, count=counts[index])
        for index in sorted(counts)
    )


def _rows_of(sink_map: SinkMap, sequence_ids: Sequence[int]) -> dict[int, int]:
    wanted = np.isin(sink_map.sequence_ids, np.asarray(sequence_ids, dtype=np.int64))
    return {int(sink_map.sequence_ids[row]): int(row) for row in np.flatnonzero(wanted)}


def _split(
    documents: Sequence[CoveredDocument], erased: Collection[int]
) -> tuple[tuple[PlannedDocument, ...], tuple[PlannedDocument, ...]]:
    """Documents whose sequence is erased, and the others."""
    sides: tuple[list[PlannedDocument], list[PlannedDocument]] = ([], [])
    for item in documents:
        sides[item.sequence_id not in erased].append(
            PlannedDocument(
                source=item.source,
                doc_id=item.doc_id,
                uri=item.uri,
                sequence_id=format_id(item.sequence_id),
                similarity=item.similarity,
                how="requested" if item.how == "requested" else "duplicate",
            )
        )
    return tuple(sides[0]), tuple(sides[1])
