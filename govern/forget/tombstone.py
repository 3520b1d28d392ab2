"""Tombstones: the manifest remembers what was forgotten, in case the text comes back."""

from __future__ import annotations

import hashlib
from datetime import datetime

from govern.audit.report_file import Report
from govern.forget import lookup
from govern.forget.plan import Plan
from manifests import Manifest, open_manifest
from manifests.sequence_id import parse_id


def add_forgotten(manifest: Manifest, plan: Plan, reference: str, report: Report) -> int:
    """Write a tombstone for every forgotten sequence; repeating it changes nothing.

    A tombstone keeps the representative's MinHash signature, by which near-duplicates are found,
    and no text. An ID that has another name today gets its tombstone under that one too, since the
    manifest knows no other.

    Args:
        manifest: The manifest that the selection was made on.
        plan: What was erased.
        reference: The request's reference.
        report: The report; the tombstone names the digest of its statement.

    Returns:
        How many tombstones were new.
    """
    import pyarrow as pa

    from manifests.schema import TOMBSTONES
    from manifests.tombstones import add_tombstones

    # Opened again: another request may have committed since the selection.
    current = open_manifest(manifest.path)
    statement = report.statement()
    # Whoever read the statement from them knows that the signed bytes are its canonical form.
    digest = hashlib.sha256(report.envelope.payload_bytes("report envelope")).digest()
    when = datetime.fromisoformat(statement.predicate.request.executed_at)
    today = {parse_id(a.alias_id): parse_id(a.sequence_id) for a in plan.aliases}
    ids = sorted(set(lookup.resolve(current, [today.get(i, i) for i in plan.ids]).values()))
    signatures = lookup.signatures_of(current, ids)
    rows = pa.Table.from_pylist(
        [
            {
                "sequence_id": sequence_id,
                "signature": signatures.get(sequence_id, b""),
                "forgotten_at": when,
                "request": reference,
                "statement_sha256": digest,
            }
            for sequence_id in ids
        ],
        schema=TOMBSTONES,
    )
    return add_tombstones(manifest.path, rows)
