"""Evidence: from what was planned, erased and measured to statement and disclosure. Pure."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from govern.audit.disclosure import (
    DisclosedDocument,
    Disclosure,
    document_hmac,
    query_hmac,
    requester_hmac,
)
from govern.audit.measured import (
    DocumentLoss,
    KeptChange,
    Structural,
    StructuralCheck,
    Verification,
)
from govern.audit.statement import (
    Algorithm,
    Allocation,
    BankIntegrity,
    Basis,
    Blocks,
    ChangedBlock,
    Declined,
    FileDigest,
    Integrity,
    Library,
    Mechanism,
    Operator,
    OptimizerState,
    Predicate,
    QuotedIn,
    Request,
    SelectedDocument,
    Selection,
    SequenceBlocks,
    SequencePolicy,
    Statement,
    SubjectRequest,
    subjects,
)
from govern.audit.verdict import decide
from govern.forget import caveats
from govern.forget.measuring import Measurements
from govern.forget.pending import Job
from govern.forget.plan import Plan
from govern.forget.request import ForgetRequest
from manifests.sequence_id import format_id
from sinkmodel.erase import Check, EraseReceipt
from sinkmodel.erase_receipt import FileChange

SINK_MAP = "sink_map.parquet"
_LIBRARIES = (
    "cryptography", "duckdb", "numpy", "pyarrow", "rfc8785", "safetensors", "securesystemslib",
    "torch", "transformers",
)  # fmt: skip
_BASIS: Mapping[str, Basis] = {
    "read": "read in full",
    "tree": "Merkle tree",
    "record": "record of training",
}


@dataclass(frozen=True, kw_only=True)
class Erased:
    """All that is known once the erase is done.

    Attributes:
        request: What was asked for.
        job: The plan, thresholds and times that were fixed before.
        source: The run that was erased or copied from, as it was named.
        in_place: Whether `source` itself was changed.
        allocation: Scheme and seed by which blocks were given to sequences.
        receipt: What the erase did.
        checks: The structural checks of the files as re-opened.
        measurements: What was measured, or None.
        operator: Name and key IDs of whoever signs.
        key_ids: IDs of the signing keys.
        executed_at: UTC.
        checkpoints: How many checkpoints of the training the request names, this one included.
    """

    request: ForgetRequest
    job: Job
    source: Path
    in_place: bool
    allocation: tuple[str, int]
    receipt: EraseReceipt
    checks: Sequence[Check]
    measurements: Measurements | None
    operator: str
    key_ids: tuple[str, ...]
    executed_at: str
    checkpoints: int = 1

    @property
    def plan(self) -> Plan:
        """The plan that was carried out."""
        return self.job.plan

    @property
    def key(self) -> bytes:
        """The key of the keyed hashes."""
        return bytes.fromhex(self.job.key)


def make_disclosure(erased: Erased) -> Disclosure:
    """The names behind the keyed hashes of `make_statement`."""
    plan = erased.plan
    names = [(document.source, document.doc_id) for document in plan.documents]
    names += [(item.source, item.doc_id) for item in plan.quotations or ()]
    return Disclosure(
        key=erased.job.key,
        query=plan.query,
        requester=erased.request.requester,
        documents=tuple(
            DisclosedDocument(
                document_hmac=document_hmac(erased.key, source, doc_id),
                source=source,
                doc_id=doc_id,
            )
            for source, doc_id in names
        ),
    )


def make_statement(erased: Erased, disclosure: Disclosure) -> Statement:
    """The statement; equal input gives equal bytes."""
    digests = {file.name: file for file in erased.receipt.files}
    mechanism, blocks = _mechanism(erased, digests[SINK_MAP].before)
    integrity, verification = _integrity(erased), _verification(erased)
    requester = erased.request.requester
    predicate = Predicate(
        request=Request(
            reference=erased.request.reference,
            reason=erased.request.reason,
            received_at=erased.job.received_at,
            executed_at=erased.executed_at,
            requester=None if requester is None else requester_hmac(erased.key, requester),
            plan_sha256=erased.job.approved,
            subjects=_subjects(erased),
        ),
        operator=_operator(erased),
        selection=_selection(erased),
        mechanism=mechanism,
        blocks=blocks,
        integrity=integrity,
        verification=verification,
        limitations=caveats.limitations(
            erased.plan, erased.receipt, measured=erased.measurements is not None
        ),
        outstanding=caveats.outstanding(erased.plan, None if erased.in_place else erased.source),
        verdict=decide(verification=verification, mechanism=mechanism, blocks=blocks),
        disclosure_sha256=disclosure.canonical_sha256(),
    )
    return Statement(subject=subjects(integrity.files), predicate=predicate)


def _subjects(erased: Erased) -> tuple[SubjectRequest, ...] | None:
    if erased.plan.subjects is None:
        return None
    return tuple(
        SubjectRequest(
            reference=subject.reference,
            reason=subject.reason,
            requester=None
            if subject.requester is None
            else requester_hmac(erased.key, subject.requester),
            sequence_ids=subject.sequence_ids,
        )
        for subject in erased.plan.subjects
    )


def _operator(erased: Erased) -> Operator:
    return Operator(
        name=erased.operator,
        key_ids=erased.key_ids,
        tool_version=version("memsinks-govern"),
        python=platform.python_version(),
        libraries=tuple(
            Library(name=name, version=found)
            for name in _LIBRARIES
            if (found := _version_of(name)) is not None
        ),
    )


def _version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _selection(erased: Erased) -> Selection:
    plan = erased.plan
    declined = [
        (plan.without_sinks, "policy shared: it owns no sinks, nothing can be forgotten for it"),
        (plan.already_forgotten, "forgotten by an earlier request"),
        (plan.not_trained, "the run was not trained on it"),
    ]
    chosen = {s.sequence_id for s in plan.sequences}
    return Selection(
        kind=plan.kind,
        query_hmac=query_hmac(erased.key, plan.query),
        manifest=plan.manifest,
        matched_rows=plan.matched_rows,
        sequence_ids=tuple(s.sequence_id for s in plan.sequences),
        aliases=tuple(alias for alias in plan.aliases if alias.alias_id in chosen),
        documents=tuple(
            SelectedDocument(
                document_hmac=document_hmac(erased.key, d.source, d.doc_id),
                sequence_id=d.sequence_id,
                similarity=d.similarity,
                how=d.how,
            )
            for d in plan.documents
        ),
        declined=tuple(Declined(sequence_id=i, why=why) for ids, why in declined for i in ids),
        quoted_in=_quoted_in(erased),
    )


def _quoted_in(erased: Erased) -> tuple[QuotedIn, ...] | None:
    if erased.plan.quotations is None:
        return None
    return tuple(
        QuotedIn(
            document_hmac=document_hmac(erased.key, item.source, item.doc_id),
            sequence_id=item.sequence_id,
            quotes=item.quotes,
            share=item.share,
        )
        for item in erased.plan.quotations
    )


def _mechanism(erased: Erased, sink_map: str) -> tuple[Mechanism, Blocks]:
    plan = erased.plan
    scheme, seed = erased.allocation
    policies = [SequencePolicy(sequence_id=s.sequence_id, policy=s.policy) for s in plan.sequences]
    policies += [SequencePolicy(sequence_id=i, policy="shared") for i in plan.without_sinks]
    mechanism = Mechanism(
        kind="pool-drop" if plan.kind == "all-sinks" else "weight-zeroing",
        policies=tuple(policies),
        block_size=plan.block_size,
        layers=tuple(range(plan.layers)),
        allocation=Allocation(
            scheme=scheme,
            seed=seed,
            sink_map_sha256=sink_map,
        ),
    )
    blocks = Blocks(
        sequences=tuple(
            SequenceBlocks(sequence_id=s.sequence_id, exclusive=s.exclusive, shared=s.shared)
            for s in plan.sequences
        ),
        collateral=plan.collateral,
    )
    return mechanism, blocks


def _integrity(erased: Erased) -> Integrity:
    receipt = erased.receipt
    return Integrity(
        files=tuple(file_digest(file) for file in receipt.files),
        banks=tuple(
            BankIntegrity(
                file=bank.file,
                blocks=bank.blocks,
                root_before=bank.root_before,
                root_after=bank.root_after,
                changed=tuple(
                    ChangedBlock(
                        block=leaf.block,
                        row=leaf.row,
                        leaf_before=leaf.before,
                        leaf_after=leaf.after,
                    )
                    for leaf in bank.changed
                ),
            )
            for bank in receipt.banks
        ),
        optimizer_state=OptimizerState(
            present=receipt.optimizer_state, blocks_zeroed=receipt.optimizer_blocks
        ),
        not_examined=caveats.not_examined(erased.checkpoints),
    )


def file_digest(file: FileChange) -> FileDigest:
    """A file of the receipt as the statement lists it."""
    algorithm: Algorithm = "sha256"
    if file.basis == "tree":
        algorithm = "merkleRoot" if file.name.endswith(".leaves") else "bankSha256"
    return FileDigest(
        name=file.name,
        algorithm=algorithm,
        digest_before=file.before,
        digest_after=file.after,
        touched=file.touched,
        basis=_BASIS[file.basis],
    )


def _verification(erased: Erased) -> Verification:
    found = erased.measurements or Measurements(kept={})
    shares = {item.sequence_id: item.share_lost for item in erased.plan.collateral.affected}
    return Verification(
        thresholds=erased.job.thresholds,
        structural=Structural(
            passed=all(check.passed for check in erased.checks),
            checks=tuple(
                StructuralCheck(name=c.name, passed=c.passed, detail=c.detail)
                for c in erased.checks
            ),
        ),
        metrics=found.rows,
        per_document=tuple(
            DocumentLoss(
                document_hmac=document_hmac(erased.key, item.source, item.doc_id),
                before=item.before,
                after=item.after,
                reference=item.reference,
            )
            for item in found.documents
        ),
        kept=_kept(found.kept, shares),
    )


def _kept(changes: Mapping[int, float], shares: Mapping[str, float]) -> tuple[KeptChange, ...]:
    return tuple(
        KeptChange(
            sequence_id=format_id(sequence_id),
            loss_change=change,
            share_lost=shares.get(format_id(sequence_id), 0.0),
        )
        for sequence_id, change in sorted(changes.items())
    )
