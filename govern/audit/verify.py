"""Verify a report offline, as somebody who trusts neither its writer nor the files.

    report -> form, signatures, disclosure, verdict, inner consistency, ledger receipt
    + ledger, + checkpoint, + manifest, whichever are at hand

Needs no training text, no network and no torch, and shares with the code that erases only the
format definitions (`sinkmodel.bank_format`) and the Merkle hashing. `docs/verify.md` describes the
same algorithm for whoever wants to write it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from govern.audit.checkpoint_files import scan_run
from govern.audit.findings import Check, Verification
from govern.audit.opened import OpenedReport, open_report
from govern.audit.signing import load_public_key
from govern.audit.verify_checkpoint import CheckpointChecks
from govern.audit.verify_manifest import ManifestChecks
from govern.audit.verify_record import record_checks
from manifests.errors import GovernError, InputError

__all__ = ["Check", "Verification", "verify_report"]


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
        opened = open_report(
            report, trusted=trusted, ledger=None if ledger is None else Path(ledger)
        )
    except InputError:
        raise
    except GovernError as error:
        return _unreadable(error)
    checks = [
        Check(
            name="report form", outcome="passed", detail="canonical JSON, every field as published"
        ),
        *record_checks(opened),
        *_checkpoint(opened, None if model is None else Path(model)),
        *_manifest(opened, None if manifest is None else Path(manifest)),
    ]
    return Verification(checks=tuple(checks))


def _unreadable(error: GovernError) -> Verification:
    rest = Check(
        name="everything else", outcome="not checkable", detail="the report cannot be relied on"
    )
    failed = Check(name="report form", outcome="failed", detail=str(error))
    return Verification(checks=(failed, rest))


def _checkpoint(opened: OpenedReport, model: Path | None) -> list[Check]:
    if model is None:
        return [Check(name="checkpoint", outcome="not checkable", detail="no --model given")]
    try:
        run = scan_run(model)
    except GovernError as error:
        return [Check(name="checkpoint files", outcome="failed", detail=str(error))]
    earlier = tuple(opened.earlier.values())
    return CheckpointChecks(statement=opened.statement, run=run, earlier=earlier).all()


def _manifest(opened: OpenedReport, manifest: Path | None) -> list[Check]:
    if manifest is None:
        return [Check(name="manifest", outcome="not checkable", detail="no --manifest given")]
    return ManifestChecks(opened=opened, path=manifest).all()
