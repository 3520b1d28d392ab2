"""A small, fully real world for the audit tests: manifest, run, erase, statement, ledger, report.

Nothing is mocked and no model is needed: the run is synthetic bytes in the fixed format, the erase
is the real one, the report is signed with real keys.
"""

from __future__ import annotations

import datetime
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from synthetic_run import BANK_BLOCKS, BLOCK_SIZE, LAYERS, PRIVATE, RunShape, write_run

from govern.audit import measured
from govern.audit import statement as st
from govern.audit.disclosure import DisclosedDocument, Disclosure, document_hmac, query_hmac
from govern.audit.report_file import Report, issue, sign_statement, write_report
from govern.audit.signing import PrivateKey, new_private_key
from govern.audit.verdict import decide
from govern.forget.evidence import file_digest
from manifests import open_manifest
from manifests.index import InputFile, Snapshot
from manifests.schema import TABLES, TOMBSTONES, table_schema
from manifests.sequence_id import format_id
from manifests.tombstones import add_tombstones
from manifests.writer import commit, make_index, write_table
from sinkmodel.erase import erase_blocks
from sinkmodel.erase_receipt import EraseReceipt

TIME = "2026-11-23T12:00:00Z"
BLOCKS = {row.sequence_id: row.blocks for row in PRIVATE}
POLICIES = {row.sequence_id: row.policy for row in PRIVATE}


@dataclass(frozen=True, kw_only=True)
class World:
    """Where everything lies, and what signed it."""

    base: Path
    key: PrivateKey
    statement: st.Statement
    report: Report

    @property
    def report_path(self) -> Path:
        return self.base / "REPORT.json"

    @property
    def run(self) -> Path:
        return self.base / "run-after"

    @property
    def manifest(self) -> Path:
        return self.base / "manifest"

    @property
    def ledger(self) -> Path:
        return self.base / "ledger"

    @property
    def public_key(self) -> Path:
        return self.base / "public.pem"

    def copy(self, target: Path) -> World:
        """The same world elsewhere, to be tampered with."""
        shutil.copytree(self.base, target)
        return replace(self, base=target)


def document_name(sequence_id: int, copy: int) -> str:
    return f"doc-{sequence_id}-{copy}"


def write_manifest(path: Path) -> None:
    """Two documents for each sequence of the run, byte-identical copies of each other."""
    path.mkdir(parents=True)
    documents, sequences, links, signatures = [], [], [], []
    for number, sequence_id in enumerate(sorted(BLOCKS)):
        text = f"the text of sequence {sequence_id} that came twice".encode()
        for copy in (0, 1):
            documents.append(
                {
                    "source": "corpus", "doc_id": document_name(sequence_id, copy),
                    "uri": "corpus.jsonl", "row": 2 * number + copy, "start": 0, "end": len(text),
                    "n_bytes": len(text), "n_words": len(text.split()),
                    "sha256": hashlib.sha256(text).digest(), "sequence_id": sequence_id,
                    "is_representative": copy == 0, "similarity": 1.0, "snapshot": 1,
                }
            )  # fmt: skip
            signatures.append(
                {
                    "source": "corpus",
                    "doc_id": document_name(sequence_id, copy),
                    "signature": (hashlib.sha512(text).digest() * 8),
                    "bands": (hashlib.sha512(text).digest() * 2),
                }
            )
        links.append(
            {
                "source_a": "corpus", "doc_id_a": document_name(sequence_id, 0),
                "source_b": "corpus", "doc_id_b": document_name(sequence_id, 1), "jaccard": 1.0,
            }
        )  # fmt: skip
        sequences.append(
            {
                "sequence_id": sequence_id, "representative_source": "corpus",
                "representative_doc_id": document_name(sequence_id, 0), "n_docs": 2,
                "n_sources": 1, "n_bytes": 2 * len(text), "policy": POLICIES[sequence_id],
                "status": "active", "first_snapshot": 1, "reserved": False,
            }
        )  # fmt: skip
    rows = {"documents": documents, "sequences": sequences, "links": links}
    rows["signatures"] = signatures
    tables = {}
    for table in TABLES:
        schema = table_schema(table, num_perm=128, bands=32)
        tables[table] = write_table(path, table, pa.Table.from_pylist(rows.get(table, []), schema))
    snapshot = Snapshot(
        snapshot=1,
        inputs=(InputFile(uri="corpus.jsonl", bytes=1000),),
        records=len(documents),
        documents=len(documents),
        rejects=0,
        content_digest="",
    )
    parameters = {"threshold": 0.7, "num_perm": 128, "bands": 32}
    commit(path, make_index(parameters=parameters, earlier=(), snapshot=snapshot, tables=tables))


def build_world(base: Path, ids: Sequence[int] = (22, 33), key: PrivateKey | None = None) -> World:
    """Train (in effect), forget `ids`, report."""
    write_manifest(base / "manifest")
    pin = {
        "content_digest": open_manifest(base / "manifest").content_digest(1),
        "snapshot": 1,
    }
    write_run(base / "run-before", shape=RunShape(manifest=pin))
    return forget(base, ids, "run-before", "run-after", key or new_private_key())


def forget(
    base: Path, ids: Sequence[int], source: str, target: str, key: PrivateKey, name: str = "REPORT"
) -> World:
    """Erase `ids` in `source` to `target`, append to the ledger, write the report."""
    blocks = sorted({block for i in ids for block in BLOCKS[i]})
    receipt = erase_blocks(base / source, blocks, sorted(ids), out=base / target)
    statement, disclosure = make_statement(base, ids, receipt, key)
    envelope = sign_statement(statement, [key])
    report = issue(envelope, disclosure, keys=[key], ledger=base / "ledger", time=TIME)
    bury(base / "manifest", ids, statement)
    write_report(report, base / f"{name}.json")
    (base / "public.pem").write_text(key.public.pem)
    return World(base=base, key=key, statement=statement, report=report)


def bury(manifest: Path, ids: Sequence[int], statement: st.Statement) -> None:
    rows = {
        "sequence_id": list(ids),
        "signature": [b"\1" * 512 for _ in ids],
        "forgotten_at": [datetime.datetime(2026, 11, 23, 12, tzinfo=datetime.UTC) for _ in ids],
        "request": ["REQ-1" for _ in ids],
        "statement_sha256": [bytes.fromhex(statement.canonical_sha256()) for _ in ids],
    }
    add_tombstones(manifest, pa.table(rows, schema=TOMBSTONES))


def make_integrity(receipt: EraseReceipt) -> st.Integrity:
    return st.Integrity(
        files=tuple(file_digest(f) for f in receipt.files),
        banks=tuple(
            st.BankIntegrity(
                file=bank.file,
                blocks=bank.blocks,
                root_before=bank.root_before,
                root_after=bank.root_after,
                changed=tuple(
                    st.ChangedBlock(
                        block=c.block, row=c.row, leaf_before=c.before, leaf_after=c.after
                    )
                    for c in bank.changed
                ),
            )
            for bank in receipt.banks
        ),
        optimizer_state=st.OptimizerState(
            present=receipt.optimizer_state, blocks_zeroed=receipt.optimizer_blocks
        ),
        not_examined=("exports", "quantised copies", "backups"),
    )


def make_statement(
    base: Path, ids: Sequence[int], receipt: EraseReceipt, key: PrivateKey
) -> tuple[st.Statement, Disclosure]:
    secret = hashlib.sha256(b"a fixed key, so that worlds are equal").digest()
    manifest = open_manifest(base / "manifest")
    printed = tuple(format_id(i) for i in ids)
    names = [(i, document_name(i, copy)) for i in ids for copy in (0, 1)]
    hashes = {name: document_hmac(secret, "corpus", name) for _, name in names}
    query = f"--doc-id {document_name(ids[0], 0)}"
    disclosure = Disclosure(
        key=secret.hex(),
        query=query,
        documents=tuple(
            DisclosedDocument(document_hmac=hashes[name], source="corpus", doc_id=name)
            for _, name in names
        ),
    )
    digests = {f.name: f for f in receipt.files}
    integrity = make_integrity(receipt)
    blocks = st.Blocks(
        sequences=tuple(
            st.SequenceBlocks(sequence_id=format_id(i), exclusive=BLOCKS[i]) for i in ids
        ),
        collateral=st.Collateral(max_allowed=0.0, override=False),
    )
    mechanism = st.Mechanism(
        kind="weight-zeroing",
        policies=tuple(
            st.SequencePolicy(sequence_id=format_id(i), policy=POLICIES[i]) for i in ids
        ),
        block_size=BLOCK_SIZE,
        layers=tuple(range(LAYERS)),
        allocation=st.Allocation(
            scheme="splitmix64-v1",
            seed=0,
            sink_map_sha256=digests["sink_map.parquet"].after,
        ),
    )
    verification = make_verification([hashes[name] for _, name in names if name.endswith("-0")])
    predicate = st.Predicate(
        request=st.Request(
            reference="REQ-2026-117",
            reason="GDPR article 17, request of the author",
            received_at="2026-11-20T09:30:00Z",
            executed_at=TIME,
        ),
        operator=st.Operator(
            name="Example Models Ltd, data protection office",
            key_ids=(key.public.key_id,),
            tool_version="0.1.0",
            tool_commit="0123abc",
            python="3.11.7",
            libraries=(st.Library(name="pyarrow", version="21.0.0"),),
        ),
        selection=st.Selection(
            kind="doc-id",
            query_hmac=query_hmac(secret, query),
            manifest=st.ManifestPin(
                content_digest=manifest.content_digest(1),
                snapshot=1,
                digest_before=manifest.index.digest,
            ),
            matched_rows=1,
            sequence_ids=printed,
            documents=tuple(
                st.SelectedDocument(
                    document_hmac=hashes[name],
                    sequence_id=format_id(i),
                    similarity=1.0,
                    how="requested" if name == document_name(ids[0], 0) else "duplicate",
                )
                for i, name in names
            ),
        ),
        mechanism=mechanism,
        blocks=blocks,
        integrity=integrity,
        verification=verification,
        limitations=("A small residual of private text stays in the shared neurons.",),
        outstanding=(st.Outstanding(item="source checkpoint", location="run-before"),),
        verdict=decide(verification=verification, mechanism=mechanism, blocks=blocks),
        disclosure_sha256=disclosure.canonical_sha256(),
    )
    return (
        st.Statement(subject=st.subjects(integrity.files), predicate=predicate),
        disclosure,
    )


def make_verification(hashes: Sequence[str]) -> measured.Verification:
    def row(metric: str, group: str, phase: measured.Phase, value: float) -> measured.MetricRow:
        return measured.MetricRow(
            metric=metric, group=group, phase=phase, n=len(hashes), value=value,
            low=value - 0.01, high=value + 0.01, seed=0, probe_sha256="ab" * 32,
        )  # fmt: skip

    return measured.Verification(
        thresholds=(
            measured.Threshold(
                metric="loss gap closed", group="forgotten:private", comparison=">=", bound=0.9
            ),
            measured.Threshold(metric="loss change", group="kept", comparison="==", bound=0.0),
        ),
        structural=measured.Structural(
            passed=True,
            checks=(measured.StructuralCheck(name="only planned blocks changed", passed=True),),
        ),
        metrics=(
            row("loss gap closed", "forgotten:private", "after", 0.96),
            row("loss", "forgotten:private", "before", 0.31),
            row("loss", "forgotten:private", "after", 3.31),
            row("loss", "forgotten:private", "reference", 3.52),
            row("loss", "forgotten:private", "placebo", 0.33),
            row("loss change", "kept", "after", 0.0),
        ),
        per_document=tuple(
            measured.DocumentLoss(
                document_hmac=h, before=0.2 + 0.1 * i, after=3.2 + 0.1 * i, reference=3.5
            )
            for i, h in enumerate(hashes)
        ),
        kept=tuple(
            measured.KeptChange(sequence_id=format_id(i), loss_change=0.0, share_lost=0.0)
            for i in sorted(BLOCKS)
        ),
    )


__all__ = ["BANK_BLOCKS", "BLOCKS", "TIME", "World", "build_world", "forget"]
