"""Verify a report offline, as somebody who trusts neither its writer nor the files.

    report -> form, signatures, disclosure, verdict, inner consistency, ledger receipt
    + ledger, + checkpoint, + manifest, whichever are at hand

Needs no training text, no network and no torch, and shares with the code that erases only the
format definitions (`sinkmodel.bank_format`) and the Merkle hashing. `docs/verify.md` describes the
same algorithm for whoever wants to write it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from govern.audit.checkpoint_files import scan_run
from govern.audit.disclosure import disclosure_faults
from govern.audit.findings import Check, NotCheckableError, Verification, run_check
from govern.audit.ledger import Ledger, LedgerProof, parse_head, read_ledger
from govern.audit.records import parse_canonical
from govern.audit.report_file import Report, read_report
from govern.audit.signing import Envelope, PublicKey, load_public_key, parse_public_key, signers
from govern.audit.statement import Statement, subjects
from govern.audit.verdict import understated
from govern.audit.verify_checkpoint import CheckpointChecks
from manifests import merkle
from manifests.errors import GovernError, InputError
from manifests.sequence_id import format_id

__all__ = ["Check", "Verification", "verify_report"]


@dataclass(frozen=True, kw_only=True)
class _Evidence:
    """The report, opened, and what there is to hold it against."""

    report: Report
    statement: Statement
    trusted: tuple[PublicKey, ...]
    ledger: Ledger | GovernError | None

    def keys(self) -> dict[str, PublicKey]:
        """The keys that travel in the report, by id."""
        pems = self.report.public_keys
        parsed = [parse_public_key(pem, f"report public_keys[{i}]") for i, pem in enumerate(pems)]
        return {key.key_id: key for key in parsed}

    def signed_by(self) -> frozenset[str]:
        """Ids of the keys that signed the statement."""
        return signers(self.report.envelope, self.keys(), "report envelope")


def verify_report(
    report: Path | str,
    *,
    model: Path | str | None = None,
    manifest: Path | str | None = None,
    public_key: Path | str | Sequence[Path | str] | None = None,
    ledger: Path | str | None = None,
) -> Verification:
    """Check everything about a report that can be checked with what is given.

    Args:
        report: REPORT.json.
        model: The run directory after the erase.
        manifest: The manifest that the selection was made on, with its tombstones.
        public_key: PEM file, or several, of keys trusted to sign; one of them must have.
        ledger: The ledger directory, as it is now.

    Returns:
        One check per question. `Verification.failed` is empty when nothing contradicts the report.

    Raises:
        InputError: A given path does not exist or is not a key. Whatever is wrong *inside* the
            files is a failed check, never an exception.
    """
    report = Path(report)
    keys = [public_key] if isinstance(public_key, (str, Path)) else list(public_key or ())
    trusted = tuple(load_public_key(Path(key)) for key in keys)
    for path, option in ((model, "--model"), (manifest, "--manifest"), (ledger, "--ledger")):
        if path is not None and not Path(path).is_dir():
            raise InputError(
                f"{option} {path}",
                expected="a directory",
                found="a file" if Path(path).exists() else "nothing",
                remedy="check the path",
            )
    try:
        opened = read_report(report)
        statement = opened.statement()
    except InputError:
        raise
    except GovernError as error:
        return _unreadable(error)
    evidence = _Evidence(
        report=opened,
        statement=statement,
        trusted=trusted,
        ledger=None if ledger is None else _open_ledger(Path(ledger)),
    )
    checks = [
        Check(
            name="report form", outcome="passed", detail="canonical JSON, every field as published"
        ),
        *_report_checks(evidence),
        *_checkpoint_checks(evidence, None if model is None else Path(model)),
        *_manifest_checks(evidence, None if manifest is None else Path(manifest)),
    ]
    return Verification(checks=tuple(checks))


def _open_ledger(path: Path) -> Ledger | GovernError:
    """The ledger, or why it cannot be used: the check named `ledger` reports that."""
    try:
        return read_ledger(path)
    except GovernError as error:
        return error


def _unreadable(error: GovernError) -> Verification:
    rest = Check(
        name="everything else", outcome="not checkable", detail="the report cannot be relied on"
    )
    failed = Check(name="report form", outcome="failed", detail=str(error))
    return Verification(checks=(failed, rest))


def _report_checks(evidence: _Evidence) -> list[Check]:
    questions = {
        "signatures": _signatures,
        "signed by a trusted key": _trusted,
        "disclosure": _disclosure,
        "verdict follows from the figures": _verdict,
        "inner consistency": _consistency,
        "ledger receipt": _receipt,
        "ledger": _ledger,
    }
    return [run_check(name, partial(question, evidence)) for name, question in questions.items()]


# --- the report by itself ------------------------------------------------------------------------


def _signatures(evidence: _Evidence) -> str | list[str]:
    signed = evidence.signed_by()
    named = set(evidence.statement.predicate.operator.key_ids)
    faults = [f"key {key[:16]}… is named but did not sign" for key in sorted(named - signed)]
    faults += [f"key {key[:16]}… is carried but did not sign" for key in
               sorted(set(evidence.keys()) - signed)]  # fmt: skip
    if len(evidence.keys()) != len(evidence.report.public_keys):
        faults.append("a key is carried twice")
    return (
        faults
        or f"{len(signed)} valid, over the statement {evidence.statement.canonical_sha256()[:16]}…"
    )


def _trusted(evidence: _Evidence) -> str | list[str]:
    if not evidence.trusted:
        raise NotCheckableError(
            "who signed is unknown without --public-key; the signatures fit the enclosed keys only"
        )
    known = {key.key_id for key in evidence.trusted} & evidence.signed_by()
    if known:
        return ", ".join(f"key {key[:16]}…" for key in sorted(known))
    others = ", ".join(f"key {key[:16]}…" for key in sorted(evidence.signed_by()))
    return [f"none of the trusted keys signed, but {others}"]


def _disclosure(evidence: _Evidence) -> str | list[str]:
    disclosure = evidence.report.disclosure
    if disclosure is None:
        raise NotCheckableError("withheld; its digest is in the statement")
    faults = disclosure_faults(disclosure, evidence.statement.predicate)
    return faults or f"{len(disclosure.documents)} names fit the keyed hashes"


def _verdict(evidence: _Evidence) -> str | list[str]:
    stated = evidence.statement.predicate.verdict
    derived = understated(evidence.statement.predicate)
    if derived is None:
        return stated.result
    return [
        f"the statement says {stated.result}, its figures {derived.result}: {derived.reasons[0]}"
    ]


def _consistency(evidence: _Evidence) -> str | list[str]:
    """What the parts of a statement say about each other."""
    statement, predicate = evidence.statement, evidence.statement.predicate
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


def _receipt(evidence: _Evidence) -> str | list[str]:
    proof, entry = evidence.report.ledger, evidence.report.envelope.canonical()
    if hashlib.sha256(entry).hexdigest() != proof.entry_sha256:
        return ["the receipt belongs to another envelope"]
    head = parse_head(proof.tree_head, "report tree head")
    # The head is signed by somebody who signed the statement, so trust in one reaches the other.
    keys = {
        key_id: key for key_id, key in evidence.keys().items() if key_id in evidence.signed_by()
    }
    signers(proof.tree_head, keys, "report tree head")
    path = [bytes.fromhex(sibling) for sibling in proof.inclusion_path]
    root = merkle.root_from_inclusion(
        merkle.leaf_hash(entry), proof.entry_index, proof.tree_size, path
    )
    if head.tree_size != proof.tree_size or root is None or root.hex() != head.root:
        return ["the audit path does not lead to the signed tree head"]
    return f"entry {proof.entry_index} of a tree of {proof.tree_size}, signed {head.time}"


def _ledger(evidence: _Evidence) -> str | list[str]:
    ledger = evidence.ledger
    if ledger is None:
        raise NotCheckableError("without --ledger only the receipt is checked, not its later state")
    if isinstance(ledger, GovernError):
        raise ledger
    proof: LedgerProof = evidence.report.ledger
    size, entry = len(ledger.entries), evidence.report.envelope.canonical()
    if size < proof.tree_size:
        return [f"the ledger has {size} entries, the report's signed head covers {proof.tree_size}"]
    if ledger.entries[proof.entry_index : proof.entry_index + 1] != (entry,):
        return [f"ledger entries/{proof.entry_index:08d}.json is not this report's envelope"]
    if ledger.heads[proof.tree_size - 1] != proof.tree_head:
        return [f"ledger heads/{proof.tree_size:08d}.json is not the report's tree head"]
    faults = _newest_head(evidence, ledger)
    return faults or f"whole: {size} entries, this is number {proof.entry_index}"


def _newest_head(evidence: _Evidence, ledger: Ledger) -> list[str]:
    """The newest head must be signed by a key that is known from outside the ledger."""
    known = {key.key_id for key in evidence.trusted} | set(evidence.keys())
    strangers = {s.keyid for s in ledger.heads[-1].signatures} - known
    name = f"ledger heads/{len(ledger.heads):08d}.json"
    return [
        f"{name} is signed by the unknown key {key[:16]}… (a later key of the same holder? "
        "then give it with --public-key too)"
        for key in sorted(strangers)
    ]


def _earlier_statements(evidence: _Evidence) -> list[Statement]:
    """Statements that precede this one in the ledger, newest first; none if it does not hold."""
    if not isinstance(evidence.ledger, Ledger):
        return []
    entries = evidence.ledger.entries[: evidence.report.ledger.entry_index]
    try:
        return [statement_of(entry) for entry in reversed(entries)]
    except GovernError:
        # A statement of a kind that this version does not read: no evidence, not a fault.
        return []


def statement_of(entry: bytes) -> Statement:
    """The statement inside a ledger entry.

    Raises:
        IntegrityError: The entry is no envelope of a statement.
    """
    envelope = Envelope.from_dict(parse_canonical(entry, "ledger entry"), "ledger entry")
    return Statement.from_dict(
        parse_canonical(envelope.payload_bytes(), "ledger statement"), "ledger statement"
    )


# --- checkpoint and manifest ---------------------------------------------------------------------


def _checkpoint_checks(evidence: _Evidence, model: Path | None) -> list[Check]:
    if model is None:
        return [Check(name="checkpoint", outcome="not checkable", detail="no --model given")]
    try:
        run = scan_run(model)
    except GovernError as error:
        return [Check(name="checkpoint files", outcome="failed", detail=str(error))]
    earlier = _earlier_statements(evidence)
    return CheckpointChecks(statement=evidence.statement, run=run, earlier=earlier).all()


def _manifest_checks(evidence: _Evidence, path: Path | None) -> list[Check]:
    if path is None:
        return [Check(name="manifest", outcome="not checkable", detail="no --manifest given")]
    return [
        run_check("manifest", lambda: _manifest(path)),
        run_check("manifest snapshot", lambda: _snapshot(evidence, path)),
        run_check("tombstones", lambda: _tombstones(evidence, path)),
    ]


def _manifest(path: Path) -> str | list[str]:
    from manifests.checks import check_manifest

    checks = check_manifest(path)
    faults = [f"{check.name}: {check.detail}" for check in checks if not check.passed]
    return faults or f"{len(checks)} checks of digests, sums and invariants"


def _snapshot(evidence: _Evidence, path: Path) -> str | list[str]:
    from manifests import open_manifest

    stated = evidence.statement.predicate.selection.manifest
    digest = open_manifest(path).content_digest(stated.snapshot)
    if digest != stated.content_digest:
        return [f"snapshot {stated.snapshot} has another content digest than the statement"]
    return f"snapshot {stated.snapshot} is the one that the request was resolved on"


def _tombstones(evidence: _Evidence, path: Path) -> str | list[str]:
    from manifests import open_manifest

    table = open_manifest(path).table("tombstones")
    found = dict(
        zip(table["sequence_id"].to_pylist(), table["statement_sha256"].to_pylist(), strict=True)
    )
    digests = {format_id(sequence_id): bytes(digest).hex() for sequence_id, digest in found.items()}
    # An ID that was forgotten before, in another checkpoint, keeps its first tombstone.
    own = evidence.statement.canonical_sha256()
    earlier = {statement.canonical_sha256() for statement in _earlier_statements(evidence)}
    faults, first = [], []
    selection = evidence.statement.predicate.selection
    # The manifest remembers a sequence under its present name, the run under the one it trained.
    today = {alias.alias_id: alias.sequence_id for alias in selection.aliases}
    for sequence_id in selection.sequence_ids:
        digest = digests.get(today.get(sequence_id, sequence_id))
        if digest is None:
            faults.append(f"{sequence_id} has no tombstone")
        elif digest != own and digest not in earlier:
            first.append(f"the tombstone of {sequence_id} names another statement")
    if first and evidence.ledger is None and not faults:
        raise NotCheckableError(f"{first[0]}; --ledger shows whether an earlier one")
    faults += first
    return faults or f"{len(selection.sequence_ids)} IDs"
