"""A plan as a person reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from govern.forget.plan import Plan, PlannedDocument
from govern.forget.quoting import QUOTED_FROM

_SHOWN = 12
_WIDTH = 72


def plan_text(plan: Plan) -> str:
    """Several lines: what is covered, what is zeroed, what others lose, what cannot be done."""
    return "\n".join(
        [
            *_selection(plan),
            *_zeroed(plan),
            *_collateral(plan),
            *_not_erased(plan),
            *_quoted(plan),
        ]
    )


def also_text(run: Path, plan: Plan, first: Plan) -> str:
    """The plan for another checkpoint beside the one for the first, which it mostly equals."""
    if plan == first:
        return f"Also       {run}: the same plan"
    return f"Also       {run}\n{plan_text(plan)}"


def _selection(plan: Plan) -> Iterable[str]:
    count = len(plan.documents)
    copies = sum(document.how == "duplicate" for document in plan.documents)
    yield f"Selection  {_plain(plan.query)}"
    yield f"  {plan.matched_rows} documents named, {count} covered ({copies} of them duplicates)"
    yield from (f"  {_plain(note)}" for note in plan.notes)
    for subject in (plan.subjects or ())[:_SHOWN]:
        yield f"    {_plain(subject.reference)}: {len(subject.sequence_ids)} sequence IDs"
    if plan.subjects and len(plan.subjects) > _SHOWN:
        yield f"    and {len(plan.subjects) - _SHOWN} more subjects"
    yield from _documents(plan.documents)
    for alias in plan.aliases[:_SHOWN]:
        yield f"  {alias.alias_id} is called {alias.sequence_id} today"


def _documents(documents: Sequence[PlannedDocument]) -> Iterable[str]:
    requested_first = sorted(documents, key=lambda d: d.how == "duplicate")
    for document in requested_first[:_SHOWN]:
        name = _plain(f"{document.source}/{document.doc_id}")
        yield (
            f"    {document.sequence_id}  {document.how:<9}  J {document.similarity:.3f}  {name}"
        )
    if len(documents) > _SHOWN:
        yield f"    and {len(documents) - _SHOWN} more"


def _zeroed(plan: Plan) -> Iterable[str]:
    policies = Counter(sequence.policy for sequence in plan.sequences)
    named = ", ".join(f"{count} {policy}" for policy, count in sorted(policies.items()))
    size = len(plan.blocks) * plan.block_bytes
    yield f"Erase      {len(plan.sequences)} sequence IDs ({named or 'none'})"
    yield (
        f"  {len(plan.blocks)} blocks of {plan.block_size} sink neurons in each of "
        f"{plan.layers} layers, {size:,} bytes and their optimizer state"
    )
    for sequence in plan.sequences[:_SHOWN]:
        yield (
            f"    {sequence.sequence_id}  {sequence.policy:<7}  {len(sequence.exclusive)} blocks "
            f"of its own, {len(sequence.shared)} shared with kept IDs"
        )
    if len(plan.sequences) > _SHOWN:
        yield f"    and {len(plan.sequences) - _SHOWN} more"


def _collateral(plan: Plan) -> Iterable[str]:
    affected = plan.collateral.affected
    if not affected:
        yield "Collateral none: no kept sequence uses any of these blocks"
        return
    worst = max(affected, key=lambda item: item.share_lost)
    yield (
        f"Collateral {len(affected)} kept IDs lose sinks, at worst {worst.share_lost:.1%} "
        f"({worst.sequence_id}); allowed are {plan.collateral.max_allowed:.1%}"
    )
    most = max(item.count for item in plan.collateral.histogram)
    for item in plan.collateral.histogram:
        name = "all" if item.low >= 1 else f"{item.low:.0%}-{item.high:.0%}"
        yield f"    {name:>8}  {'#' * max(1, round(24 * item.count / most)):<24} {item.count}"
    if plan.worst_share > plan.collateral.max_allowed:
        yield "  This is more than allowed: executing the plan would be refused."


def _not_erased(plan: Plan) -> Iterable[str]:
    if plan.without_sinks:
        yield (
            f"Shared     {len(plan.without_sinks)} selected IDs have policy shared: they own no "
            "sinks, nothing can be forgotten for them"
        )
    if plan.already_forgotten:
        yield f"Before     {len(plan.already_forgotten)} selected IDs were forgotten already"
    if plan.not_trained:
        yield f"Untrained  {len(plan.not_trained)} selected IDs were never trained into this run"
    yield from _documents(plan.other_documents)


def _quoted(plan: Plan) -> Iterable[str]:
    if plan.quotations is None:
        yield "Quoted     nobody looked whether other sequences quote what is forgotten"
        return
    if not plan.quotations:
        yield f"Quoted     in no other sequence by {QUOTED_FROM:.0%} of a text or more"
        return
    yield (
        f"Quoted     {len(plan.quotations)} other sequences have {QUOTED_FROM:.0%} or more of a "
        "forgotten text: they are not covered"
    )
    for item in plan.quotations[:_SHOWN]:
        name = _plain(f"{item.source}/{item.doc_id}")
        yield f"    {item.sequence_id}  {item.share:>4.0%} of {item.quotes}  {name}"
    if len(plan.quotations) > _SHOWN:
        yield f"    and {len(plan.quotations) - _SHOWN} more"


def _plain(text: str) -> str:
    """One printable line: control characters of a hostile name are shown, not obeyed."""
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: 4 * _WIDTH]
    )
    return shown if len(shown) <= _WIDTH else shown[: _WIDTH - 1] + "…"
