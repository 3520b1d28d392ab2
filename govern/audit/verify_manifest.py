"""The checks of a report against a manifest: whole, the same snapshot, and the tombstones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from govern.audit.findings import Check, NotCheckableError, run_check
from govern.audit.opened import OpenedReport
from manifests.sequence_id import format_id


@dataclass(frozen=True, kw_only=True)
class ManifestChecks:
    """The checks of one report against the manifest at `path`."""

    opened: OpenedReport
    path: Path

    def all(self) -> list[Check]:
        """Every check. Nothing is read from tables whose digests do not hold."""
        whole = run_check("manifest", self._whole)
        questions = {"manifest snapshot": self._snapshot, "tombstones": self._tombstones}
        if whole.outcome == "failed":
            why = "the manifest does not hold together"
            rest = [Check(name=name, outcome="not checkable", detail=why) for name in questions]
        else:
            rest = [run_check(name, question) for name, question in questions.items()]
        return [whole, *rest]

    def _whole(self) -> str | list[str]:
        from manifests.checks import check_manifest

        checks = check_manifest(self.path)
        faults = [f"{check.name}: {check.detail}" for check in checks if not check.passed]
        return faults or f"{len(checks)} checks of digests, sums and invariants"

    def _snapshot(self) -> str | list[str]:
        from manifests import open_manifest

        stated = self.opened.statement.predicate.selection.manifest
        digest = open_manifest(self.path).content_digest(stated.snapshot)
        if digest != stated.content_digest:
            return [f"snapshot {stated.snapshot} has another content digest than the statement"]
        return f"snapshot {stated.snapshot} is the one that the request was resolved on"

    def _tombstones(self) -> str | list[str]:
        from manifests import open_manifest

        table = open_manifest(self.path).table("tombstones")
        found = dict(
            zip(
                table["sequence_id"].to_pylist(), table["statement_sha256"].to_pylist(), strict=True
            )
        )
        digests = {
            format_id(sequence_id): bytes(digest).hex() for sequence_id, digest in found.items()
        }
        # An ID that was forgotten before, in another checkpoint, keeps its first tombstone.
        known = {self.opened.statement_sha256, *self.opened.earlier}
        faults, first = [], []
        selection = self.opened.statement.predicate.selection
        # The manifest has a sequence under its present name, the run under the one it trained.
        today = {alias.alias_id: alias.sequence_id for alias in selection.aliases}
        for sequence_id in selection.sequence_ids:
            digest = digests.get(today.get(sequence_id, sequence_id))
            if digest is None:
                faults.append(f"{sequence_id} has no tombstone")
            elif digest not in known:
                first.append(f"the tombstone of {sequence_id} names another statement")
        if first and self.opened.ledger is None and not faults:
            raise NotCheckableError(f"{first[0]}; --ledger shows whether an earlier one")
        faults += first
        return faults or f"{len(selection.sequence_ids)} IDs"
