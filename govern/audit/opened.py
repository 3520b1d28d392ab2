"""A report, opened, with what there is to hold it against: what every check starts from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from govern.audit.ledger import Ledger, read_ledger
from govern.audit.records import parse_canonical
from govern.audit.report_file import Report, read_report
from govern.audit.signing import Envelope, PublicKey, parse_public_key, signers
from govern.audit.statement import Statement
from manifests.errors import GovernError


@dataclass(frozen=True, kw_only=True)
class OpenedReport:
    """A report whose form holds; nothing in it is believed yet.

    Attributes:
        report: The file.
        statement: What its envelope says.
        trusted: Keys that the verifier has from elsewhere.
        ledger: The ledger as it is now, why it cannot be used, or None if none was given.
    """

    report: Report
    statement: Statement
    trusted: tuple[PublicKey, ...] = ()
    ledger: Ledger | GovernError | None = None

    @cached_property
    def keys(self) -> Mapping[str, PublicKey]:
        """The keys that travel in the report, by id."""
        pems = self.report.public_keys
        parsed = [parse_public_key(pem, f"report public_keys[{i}]") for i, pem in enumerate(pems)]
        return {key.key_id: key for key in parsed}

    @cached_property
    def signed_by(self) -> frozenset[str]:
        """Ids of the keys that signed the statement."""
        return signers(self.report.envelope, self.keys, "report envelope")

    @cached_property
    def entry(self) -> bytes:
        """The envelope as the ledger holds it."""
        return self.report.envelope.canonical()

    @cached_property
    def statement_sha256(self) -> str:
        """Hex SHA-256 of the statement; reading it has shown that its bytes are canonical."""
        return hashlib.sha256(self.report.envelope.payload_bytes()).hexdigest()

    @cached_property
    def earlier(self) -> Mapping[str, Statement]:
        """Statements that precede this one in the ledger, by SHA-256, newest first.

        Empty if there is no ledger, if it does not hold together, or if it has a statement of a
        kind that this version does not read: no evidence then, but not a fault either.
        """
        if not isinstance(self.ledger, Ledger):
            return {}
        entries = self.ledger.entries[: self.report.ledger.entry_index]
        try:
            statements = [statement_of(entry) for entry in reversed(entries)]
        except GovernError:
            return {}
        return {statement.canonical_sha256(): statement for statement in statements}


def open_report(
    path: Path, *, trusted: Sequence[PublicKey] = (), ledger: Path | None = None
) -> OpenedReport:
    """Read a report and the ledger that it is held against.

    Raises:
        InputError: There is no such report.
        IntegrityError: It is not a report in canonical form. A ledger that does not hold together
            is a check's business.
    """
    report = read_report(path)
    return OpenedReport(
        report=report,
        statement=report.statement(),
        trusted=tuple(trusted),
        ledger=None if ledger is None else open_ledger(ledger),
    )


def open_ledger(path: Path) -> Ledger | GovernError:
    """The ledger, or why it cannot be used: the check named `ledger` reports that."""
    try:
        return read_ledger(path)
    except GovernError as error:
        return error


def statement_of(entry: bytes) -> Statement:
    """The statement inside a ledger entry.

    Raises:
        IntegrityError: The entry is no envelope of a statement.
    """
    envelope = Envelope.from_dict(parse_canonical(entry, "ledger entry"), "ledger entry")
    return Statement.from_dict(
        parse_canonical(envelope.payload_bytes(), "ledger statement"), "ledger statement"
    )
