"""The log: a ledger as people and their scripts read it, with RFC 6962 proofs on request.

    entries         what each statement says, in order
    tree head       the newest one, with whoever signed it
    inclusion       that an entry is in the tree of that head
    consistency     that the tree which somebody saw earlier is a beginning of it

Whoever kept a tree head needs no copy of the ledger: a consistency proof shows that nothing that it
covered was altered, dropped or reordered since.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from govern.audit.ledger import Ledger, TreeHead, parse_head
from govern.audit.opened import statement_of
from govern.audit.records import Count, Record, Sha256, Utc
from govern.audit.statement import Outstanding
from manifests import merkle
from manifests.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LogEntry(Record):
    """One statement of the ledger, in short.

    `outstanding` counts what was still open when it was signed.
    """

    index: Count
    reference: str
    received_at: Utc
    executed_at: Utc
    operator: str
    signed_by: tuple[Sha256, ...]
    verdict: str
    reasons: tuple[str, ...]
    sequence_ids: Count
    documents: Count
    outstanding: Count
    statement_sha256: Sha256


@dataclass(frozen=True, kw_only=True)
class InclusionProof(Record):
    """That an entry is leaf `entry_index` of the tree under `root` (RFC 9162 section 2.1.3)."""

    entry_index: Count
    entry_sha256: Sha256
    leaf: Sha256
    tree_size: Count
    root: Sha256
    path: tuple[Sha256, ...]


@dataclass(frozen=True, kw_only=True)
class ConsistencyProof(Record):
    """That the tree of `old_size` entries is a prefix of this one (RFC 9162 section 2.1.4)."""

    old_size: Count
    old_root: Sha256
    tree_size: Count
    root: Sha256
    path: tuple[Sha256, ...]


def log_entries(ledger: Ledger) -> tuple[LogEntry, ...]:
    """Every entry, in order.

    Raises:
        IntegrityError: An entry holds no statement.
    """
    return tuple(_entry(index, data) for index, data in enumerate(ledger.entries))


def outstanding_of(ledger: Ledger) -> tuple[tuple[int, Outstanding], ...]:
    """Entry index and item of everything that no later statement of the ledger has closed."""
    found: dict[tuple[str, str], tuple[int, Outstanding]] = {}
    for index, data in enumerate(ledger.entries):
        for item in statement_of(data).predicate.outstanding:
            key = (item.item, item.location)
            if item.state == "closed":
                found.pop(key, None)
            else:
                found[key] = (index, item)
    return tuple(sorted(found.values(), key=lambda pair: pair[0]))


def newest_head(ledger: Ledger) -> TreeHead | None:
    """The newest tree head; `read_ledger` has checked its signature. None for an empty ledger."""
    return parse_head(ledger.heads[-1], "tree head") if ledger.heads else None


def prove_inclusion(ledger: Ledger, index: int) -> InclusionProof:
    """The proof that entry `index` is in the newest tree.

    Raises:
        InputError: There is no such entry.
    """
    leaves = ledger.leaves()
    if not 0 <= index < len(leaves):
        raise _none_such("--proof", "an entry", index, f"0 to {len(leaves) - 1}", len(leaves))
    return InclusionProof(
        entry_index=index,
        entry_sha256=hashlib.sha256(ledger.entries[index]).hexdigest(),
        leaf=leaves[index].hex(),
        tree_size=len(leaves),
        root=merkle.tree_root(leaves).hex(),
        path=tuple(node.hex() for node in merkle.inclusion_path(leaves, index)),
    )


def prove_consistency(ledger: Ledger, old_size: int) -> ConsistencyProof:
    """The proof that the tree of the first `old_size` entries is a beginning of the newest.

    Raises:
        InputError: The ledger never had that size.
    """
    leaves = ledger.leaves()
    if not 0 < old_size <= len(leaves):
        raise _none_such("--since", "a tree size", old_size, f"1 to {len(leaves)}", len(leaves))
    return ConsistencyProof(
        old_size=old_size,
        old_root=merkle.tree_root(leaves[:old_size]).hex(),
        tree_size=len(leaves),
        root=merkle.tree_root(leaves).hex(),
        path=tuple(node.hex() for node in merkle.consistency_path(leaves, old_size)),
    )


def _entry(index: int, data: bytes) -> LogEntry:
    statement = statement_of(data)
    predicate = statement.predicate
    return LogEntry(
        index=index,
        reference=predicate.request.reference,
        received_at=predicate.request.received_at,
        executed_at=predicate.request.executed_at,
        operator=predicate.operator.name,
        signed_by=predicate.operator.key_ids,
        verdict=predicate.verdict.result,
        reasons=predicate.verdict.reasons,
        sequence_ids=len(predicate.selection.sequence_ids),
        documents=len(predicate.selection.documents),
        outstanding=sum(item.state == "open" for item in predicate.outstanding),
        statement_sha256=statement.canonical_sha256(),
    )


def _none_such(option: str, what: str, given: int, wanted: str, size: int) -> InputError:
    return InputError(
        f"{option} {given}",
        expected=f"{what} of this ledger, {wanted}" if size else "a ledger with entries",
        found=f"a ledger of {size} entries",
        remedy="`govern audit log --ledger DIR` lists them",
    )
