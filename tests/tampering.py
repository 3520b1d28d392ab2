"""Tamper with one file at a time, and ask the verifier what it finds.

The report is opened once: only what a tampered file can influence is checked again, so that tens of
thousands of positions take minutes. `verify_report` runs the same checks one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from audit_world import World

from govern.audit.checkpoint_files import scan_run
from govern.audit.findings import Check
from govern.audit.opened import OpenedReport, open_ledger, open_report
from govern.audit.verify import verify_report
from govern.audit.verify_checkpoint import CheckpointChecks
from govern.audit.verify_manifest import ManifestChecks
from govern.audit.verify_record import record_checks
from manifests.errors import GovernError

# Top-level member of REPORT.json -> the checks of which one must fail when a byte of it changes.
REPORT_CHECKS = {
    "disclosure": {"report form", "disclosure"},
    "envelope": {"report form", "signatures"},
    "format": {"report form"},
    "format_version": {"report form"},
    "ledger": {"report form", "ledger receipt"},
    "public_keys": {"report form", "signatures"},
}


@dataclass(frozen=True)
class Tampering:
    """A world, and one call for each kind of evidence that gives the failed checks."""

    world: World

    @cached_property
    def opened(self) -> OpenedReport:
        """The report, before anybody tampered."""
        return open_report(self.world.report_path)

    def report(self) -> list[Check]:
        return list(verify_report(self.world.report_path).failed)

    def run(self) -> list[Check]:
        try:
            run = scan_run(self.world.run)
        except GovernError as error:
            return [Check(name="checkpoint files", outcome="failed", detail=str(error))]
        return _failed(CheckpointChecks(statement=self.opened.statement, run=run).all())

    def ledger(self) -> list[Check]:
        ledger = open_ledger(self.world.ledger)
        return _failed(record_checks(replace(self.opened, ledger=ledger)))

    def manifest(self) -> list[Check]:
        return _failed(ManifestChecks(opened=self.opened, path=self.world.manifest).all())

    @property
    def evidence(self) -> Mapping[str, tuple[Path, Callable[[], list[Check]]]]:
        """Kind of evidence -> where it lies, and the call that checks it."""
        return {
            "report": (self.world.report_path, self.report),
            "run": (self.world.run, self.run),
            "ledger": (self.world.ledger, self.ledger),
            "manifest": (self.world.manifest, self.manifest),
        }

    def files(self, kind: str) -> list[Path]:
        """Its files. A lock file is no evidence: it holds the pid of whoever wrote last."""
        place = self.evidence[kind][0]
        found = [place] if place.is_file() else place.rglob("*")
        return sorted(p for p in found if p.is_file() and p.name != ".lock")

    def sweep(self, kind: str, path: Path, positions: Iterable[int], mask: int) -> int:
        """Flip one byte after the other; each must be found, and the right thing named.

        Returns:
            How many bytes were flipped.
        """
        check, data, count = self.evidence[kind][1], path.read_bytes(), 0
        with restored(path):
            for at in positions:
                path.write_bytes(data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :])
                failed = check()
                assert self.names(kind, path, data, at, failed), (path.name, at, mask, failed)
                count += 1
        return count

    def names(self, kind: str, path: Path, data: bytes, at: int, failed: Sequence[Check]) -> bool:
        """Whether the failed checks say which file, or which part of the report, was altered."""
        if kind == "report":
            return bool({check.name for check in failed} & REPORT_CHECKS[member(data, at)])
        named = {path.name}
        if path.name == "manifest.json":
            named = {f"manifest {self.world.manifest}"}
        elif path.parent.name == "heads":
            # A head that is canonical and signed over other bytes reads as one of another tree.
            named |= {f"entries/{int(path.stem) - 1:08d}.json"}
        elif path.parent.name == "keys":
            # A key that became another one, or none, is no longer the one that signed.
            named |= {"keys/", "unknown key"}
        return any(name in check.detail for check in failed for name in named)


def member(data: bytes, at: int) -> str:
    """The top-level member of a report that a byte belongs to (its name and comma included)."""
    begins = {data.index(f'"{name}":'.encode()): name for name in sorted(REPORT_CHECKS)}
    return begins[max([b for b in begins if b <= at + 1], default=min(begins))]


@contextmanager
def restored(path: Path) -> Iterator[None]:
    """Whatever happens to the file inside, it is whole again afterwards."""
    data = path.read_bytes()
    try:
        yield
    finally:
        path.write_bytes(data)


def _failed(checks: Iterable[Check]) -> list[Check]:
    return [check for check in checks if check.outcome == "failed"]
