"""REPORT.json: one signed statement with everything needed to check it offline.

The file is RFC 8785 canonical JSON and is refused in any other form, so no byte of it is free to
change. The statement sits in the envelope; ledger proof, keys and disclosure stand beside it, each
bound to it: the proof by the entry's hash, the keys by their ids, the disclosure by its digest.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from govern.audit import ledger as ledger_module
from govern.audit.disclosure import Disclosure
from govern.audit.ledger import LedgerProof
from govern.audit.records import Record, malformed, parse_canonical
from govern.audit.signing import Envelope, PrivateKey, sign
from govern.audit.statement import PAYLOAD_TYPE, Statement
from manifests.errors import InputError
from manifests.files import atomic_write

FORMAT = "memsinks-govern report"
FORMAT_VERSION = 1
# A report of 10,000 IDs has a few tens of megabytes; more is not a report but an attack.
_MAX_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Report(Record):
    """A signed statement, its ledger receipt, the public keys, and what may be withheld."""

    format: Literal["memsinks-govern report"] = "memsinks-govern report"
    format_version: Literal[1] = 1
    envelope: Envelope
    ledger: LedgerProof
    public_keys: tuple[str, ...]
    disclosure: Disclosure | None

    def statement(self) -> Statement:
        """The statement inside the envelope; its signature is a separate question.

        Raises:
            IntegrityError: Another payload type, or not a statement in canonical JSON.
        """
        return self._statement

    @functools.cached_property
    def _statement(self) -> Statement:
        if self.envelope.payloadType != PAYLOAD_TYPE:
            raise malformed("report envelope", PAYLOAD_TYPE, repr(self.envelope.payloadType))
        payload = parse_canonical(
            self.envelope.payload_bytes("report envelope"), "report statement"
        )
        return Statement.from_dict(payload, "statement")


def sign_statement(statement: Statement, keys: Sequence[PrivateKey]) -> Envelope:
    """Sign a statement; equal statements and keys give equal envelopes.

    Raises:
        ValueError: The keys are not those that the statement names as its operator's.
    """
    named, held = set(statement.predicate.operator.key_ids), {k.public.key_id for k in keys}
    if named != held:
        raise ValueError(f"the statement names keys {sorted(named)}, given {sorted(held)}")
    return sign(statement.canonical(), PAYLOAD_TYPE, keys)


def issue(
    envelope: Envelope,
    disclosure: Disclosure | None,
    *,
    keys: Sequence[PrivateKey],
    ledger: Path,
    time: str,
) -> Report:
    """Append a signed statement to the ledger and assemble its report.

    Law: issuing the same envelope again gives the same report.

    Args:
        envelope: What `sign_statement` gave.
        disclosure: Names behind the keyed hashes, or None to withhold them.
        keys: Whoever signed; the first signs the tree head.
        ledger: The ledger directory, made if missing.
        time: UTC time of the tree head.
    """
    public = [key.public for key in keys]
    proof = ledger_module.append(ledger, envelope, key=keys[0], time=time, public_keys=public)
    return Report(
        envelope=envelope,
        ledger=proof,
        public_keys=tuple(k.pem for k in sorted(public, key=lambda k: k.key_id)),
        disclosure=disclosure,
    )


def write_report(report: Report, path: Path) -> None:
    """Write REPORT.json atomically."""
    atomic_write(path, report.canonical())


def read_report(path: Path) -> Report:
    """Read REPORT.json, strictly.

    Raises:
        InputError: There is no such file.
        IntegrityError: It is not a report in canonical form.
    """
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= _MAX_BYTES else b""
    except OSError as error:
        raise InputError(
            str(path),
            expected="a REPORT.json",
            found=error.strerror or "an unreadable file",
            remedy="give the REPORT.json that `govern forget` wrote",
        ) from None
    if size > _MAX_BYTES:
        raise malformed(f"report {path.name}", f"at most {_MAX_BYTES} bytes", f"{size}")
    what = f"report {path.name}"
    return Report.from_dict(parse_canonical(data, what), what)
