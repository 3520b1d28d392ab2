"""The checks of a report by itself and against the ledger: who signed what, and where it stands."""

from __future__ import annotations

import hashlib
from functools import partial

from govern.audit.disclosure import disclosure_faults
from govern.audit.findings import Check, NotCheckableError, run_check
from govern.audit.ledger import Ledger, LedgerProof, parse_head
from govern.audit.opened import OpenedReport
from govern.audit.signing import signers
from govern.audit.statement import subjects
from govern.audit.verdict import understated
from manifests import merkle
from manifests.errors import GovernError


def record_checks(opened: OpenedReport) -> list[Check]:
    """Every question that the report and its ledger can answer."""
    questions = {
        "signatures": _signatures,
        "signed by a trusted key": _trusted,
        "disclosure": _disclosure,
        "verdict follows from the figures": _verdict,
        "inner consistency": _consistency,
        "ledger receipt": _receipt,
        "ledger": _ledger,
    }
    return [run_check(name, partial(question, opened)) for name, question in questions.items()]


# --- the report by itself ------------------------------------------------------------------------


def _signatures(opened: OpenedReport) -> str | list[str]:
    signed = opened.signed_by
    named = set(opened.statement.predicate.operator.key_ids)
    faults = [f"key {key[:16]}… is named but did not sign" for key in sorted(named - signed)]
    faults += [f"key {key[:16]}… is carried but did not sign" for key in
               sorted(set(opened.keys) - signed)]  # fmt: skip
    if len(opened.keys) != len(opened.report.public_keys):
        faults.append("a key is carried twice")
    return faults or f"{len(signed)} valid, over the statement {opened.statement_sha256[:16]}…"


def _trusted(opened: OpenedReport) -> str | list[str]:
    if not opened.trusted:
        raise NotCheckableError(
            "who signed is unknown without --public-key; the signatures fit the enclosed keys only"
        )
    known = {key.key_id for key in opened.trusted} & opened.signed_by
    if known:
        return ", ".join(f"key {key[:16]}…" for key in sorted(known))
    others = ", ".join(f"key {key[:16]}…" for key in sorted(opened.signed_by))
    return [f"none of the trusted keys signed, but {others}"]


def _disclosure(opened: OpenedReport) -> str | list[str]:
    disclosure = opened.report.disclosure
    if disclosure is None:
        raise NotCheckableError("withheld; its digest is in the statement")
    faults = disclosure_faults(disclosure, opened.statement.predicate)
    return faults or f"{len(disclosure.documents)} names fit the keyed hashes"


def _verdict(opened: OpenedReport) -> str | list[str]:
    stated = opened.statement.predicate.verdict
    derived = understated(opened.statement.predicate)
    if derived is None:
        return stated.result
    return [
        f"the statement says {stated.result}, its figures {derived.result}: {derived.reasons[0]}"
    ]


def _consistency(opened: OpenedReport) -> str | list[str]:
    """What the parts of a statement say about each other."""
    statement, predicate = opened.statement, opened.statement.predicate
    faults = []
    if statement.subject != subjects(predicate.integrity.files):
        faults.append("the subjects are not the files after the erase")
    faults += [
        f"{file.name} is called untouched but its digest changed"
        for file in predicate.integrity.files
        if not file.touched and file.digest_before != file.digest_after
    ]
    selected = set(predicate.selection.sequence_ids)
    planned: set[int] = set()
    for sequence in predicate.blocks.sequences:
        planned.update(sequence.exclusive, sequence.shared)
        if sequence.sequence_id not in selected:
            faults.append(f"{sequence.sequence_id} was erased but not selected")
    faults += [
        f"block {change.block} in {bank.file} changed without being planned"
        for bank in predicate.integrity.banks
        for change in bank.changed
        if change.block not in planned
    ]
    faults += [
        f"document {document.document_hmac[:16]}… belongs to no selected sequence"
        for document in predicate.selection.documents
        if document.sequence_id not in selected
    ]
    return faults or f"{len(selected)} sequence IDs, {len(planned)} blocks"


# --- the ledger ----------------------------------------------------------------------------------


def _receipt(opened: OpenedReport) -> str | list[str]:
    proof, entry = opened.report.ledger, opened.entry
    if hashlib.sha256(entry).hexdigest() != proof.entry_sha256:
        return ["the receipt belongs to another envelope"]
    head = parse_head(proof.tree_head, "report tree head")
    # The head is signed by somebody who signed the statement, so trust in one reaches the other.
    keys = {key_id: key for key_id, key in opened.keys.items() if key_id in opened.signed_by}
    signers(proof.tree_head, keys, "report tree head")
    path = [bytes.fromhex(sibling) for sibling in proof.inclusion_path]
    root = merkle.root_from_inclusion(
        merkle.leaf_hash(entry), proof.entry_index, proof.tree_size, path
    )
    if head.tree_size != proof.tree_size or root is None or root.hex() != head.root:
        return ["the audit path does not lead to the signed tree head"]
    return f"entry {proof.entry_index} of a tree of {proof.tree_size}, signed {head.time}"


def _ledger(opened: OpenedReport) -> str | list[str]:
    ledger = opened.ledger
    if ledger is None:
        raise NotCheckableError("without --ledger only the receipt is checked, not its later state")
    if isinstance(ledger, GovernError):
        raise ledger
    proof: LedgerProof = opened.report.ledger
    size, entry = len(ledger.entries), opened.entry
    if size < proof.tree_size:
        return [f"the ledger has {size} entries, the report's signed head covers {proof.tree_size}"]
    if ledger.entries[proof.entry_index : proof.entry_index + 1] != (entry,):
        return [f"ledger entries/{proof.entry_index:08d}.json is not this report's envelope"]
    if ledger.heads[proof.tree_size - 1] != proof.tree_head:
        return [f"ledger heads/{proof.tree_size:08d}.json is not the report's tree head"]
    faults = _newest_head(opened, ledger)
    return faults or f"whole: {size} entries, this is number {proof.entry_index}"


def _newest_head(opened: OpenedReport, ledger: Ledger) -> list[str]:
    """The newest head must be signed by a key that is known from outside the ledger."""
    known = {key.key_id for key in opened.trusted} | set(opened.keys)
    strangers = {s.keyid for s in ledger.heads[-1].signatures} - known
    name = f"ledger heads/{len(ledger.heads):08d}.json"
    return [
        f"{name} is signed by the unknown key {key[:16]}… (a later key of the same holder? "
        "then give it with --public-key too)"
        for key in sorted(strangers)
    ]
