"""The statement: what was forgotten, how, what was measured, what remains.

An in-toto Statement v1 (github.com/in-toto/attestation, spec/v1/statement.md) whose subjects are
the files of the checkpoint after the erase and whose predicate is one record per question an
auditor asks. It holds no raw text and no document id: documents, the query and the
requester appear as keyed hashes (`disclosure.py`), and the disclosure that ties them to names is
pinned by its digest, so that it can be withheld now and still be proven later.

Laws: a statement is checked when it is made; `Statement.from_dict(s.to_dict()) == s`; its JSON
Schema (`schemas/forget-v1.schema.json`) is generated from these classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from govern.audit.measured import Verification
from govern.audit.records import Count, Record, SequenceId, Sha256, Utc, malformed

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:memsinks-govern:forget:v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"


# --- request and operator ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SubjectRequest(Record):
    """One subject of many: its own reference and reason, and the sequences that it selected."""

    reference: str
    reason: str
    requester: Sha256 | None = None
    sequence_ids: tuple[SequenceId, ...]


@dataclass(frozen=True, kw_only=True)
class Request(Record):
    """What was asked for, by whom (as a keyed hash) and when (UTC).

    `plan_sha256` is the digest of the plan file that was approved beforehand, if one was.
    `subjects` are those of a request file; all were carried out in this one operation.
    """

    reference: str
    reason: str
    received_at: Utc
    executed_at: Utc
    requester: Sha256 | None = None
    plan_sha256: Sha256 | None = field(default=None, metadata={"omit": True})
    subjects: tuple[SubjectRequest, ...] | None = field(default=None, metadata={"omit": True})


@dataclass(frozen=True, kw_only=True)
class Library(Record):
    """A library that took part, with its version."""

    name: str
    version: str


@dataclass(frozen=True, kw_only=True)
class Operator(Record):
    """Who ran the operation, with which keys and which code."""

    name: str
    key_ids: tuple[Sha256, ...]
    tool_version: str
    tool_commit: str | None = None
    python: str
    libraries: tuple[Library, ...]


# --- selection -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ManifestPin(Record):
    """The manifest that the selection was made on, before the tombstones were written."""

    content_digest: Sha256
    snapshot: Count
    digest_before: Sha256


@dataclass(frozen=True, kw_only=True)
class Alias(Record):
    """An ID that now stands for another one."""

    alias_id: SequenceId
    sequence_id: SequenceId


@dataclass(frozen=True, kw_only=True)
class SelectedDocument(Record):
    """A document covered by the request: asked for, or a duplicate of one that was."""

    document_hmac: Sha256
    sequence_id: SequenceId
    similarity: float
    how: Literal["requested", "duplicate"]


@dataclass(frozen=True, kw_only=True)
class QuotedIn(Record):
    """A document outside the request that has a share (0 to 1) of a forgotten text's shingles."""

    document_hmac: Sha256
    sequence_id: SequenceId
    quotes: SequenceId
    share: float


@dataclass(frozen=True, kw_only=True)
class Declined(Record):
    """A candidate that was not forgotten, and why."""

    sequence_id: SequenceId
    why: str


@dataclass(frozen=True, kw_only=True)
class Selection(Record):
    """What the request selected, closed over duplicates and aliases.

    `quoted_in` are sequences that quote a forgotten text and are not covered, one document of each;
    it is left out where nobody looked for any.
    """

    kind: Literal["doc-id", "sequence-id", "where", "text-file", "all-sinks", "request-file"]
    query_hmac: Sha256
    manifest: ManifestPin
    matched_rows: Count
    sequence_ids: tuple[SequenceId, ...]
    aliases: tuple[Alias, ...] = ()
    documents: tuple[SelectedDocument, ...]
    declined: tuple[Declined, ...] = ()
    quoted_in: tuple[QuotedIn, ...] | None = field(default=None, metadata={"omit": True})


# --- mechanism and blocks ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SequencePolicy(Record):
    """The policy under which a sequence was trained."""

    sequence_id: SequenceId
    policy: Literal["shared", "pooled", "private", "strict"]


@dataclass(frozen=True, kw_only=True)
class Allocation(Record):
    """How blocks were given to sequences, and the digest of the stored map."""

    scheme: str
    seed: int
    sink_map_sha256: Sha256


@dataclass(frozen=True, kw_only=True)
class Mechanism(Record):
    """How forgetting was carried out in the weights."""

    kind: Literal["weight-zeroing", "pool-drop"]
    policies: tuple[SequencePolicy, ...]
    block_size: Count
    layers: tuple[Count, ...]
    allocation: Allocation


@dataclass(frozen=True, kw_only=True)
class SequenceBlocks(Record):
    """The blocks zeroed for a sequence: its own, and those that other active IDs also use."""

    sequence_id: SequenceId
    exclusive: tuple[Count, ...]
    shared: tuple[Count, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ShareLost(Record):
    """A kept sequence that loses part of its sinks (0 to 1)."""

    sequence_id: SequenceId
    share_lost: float


@dataclass(frozen=True, kw_only=True)
class HistogramBin(Record):
    """Kept sequences whose lost share lies in [low, high)."""

    low: float
    high: float
    count: Count


@dataclass(frozen=True, kw_only=True)
class Collateral(Record):
    """What the plan takes from sequences that were not selected."""

    max_allowed: float
    override: bool
    affected: tuple[ShareLost, ...] = ()
    histogram: tuple[HistogramBin, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Blocks(Record):
    """The blocks that were zeroed, by sequence, and the collateral."""

    sequences: tuple[SequenceBlocks, ...]
    collateral: Collateral


# --- integrity -----------------------------------------------------------------------------------

Algorithm = Literal["sha256", "bankSha256", "merkleRoot"]
Basis = Literal["read in full", "Merkle tree", "record of training"]


@dataclass(frozen=True, kw_only=True)
class FileDigest(Record):
    """One file of the run directory, before and after (null: it did not exist), and how known.

    `algorithm` says what the digests are (`DigestSet`). `basis` says what was read for them at the
    time of the erase: the file as a whole; of a bank and its tree the blocks that changed, their
    neighbours and the nodes above them; or nothing, because the record of training pins the file
    and it kept its size and its time of change.
    """

    name: str
    algorithm: Algorithm = "sha256"
    digest_before: Sha256 | None
    digest_after: Sha256 | None
    touched: bool
    basis: Basis = "read in full"


@dataclass(frozen=True, kw_only=True)
class ChangedBlock(Record):
    """A block of a bank with its Merkle leaf before and after."""

    block: Count
    row: Count
    leaf_before: Sha256
    leaf_after: Sha256


@dataclass(frozen=True, kw_only=True)
class BankIntegrity(Record):
    """A bank's Merkle root before and after, and every block that lies between the two."""

    file: str
    blocks: Count
    root_before: Sha256
    root_after: Sha256
    changed: tuple[ChangedBlock, ...] = ()


@dataclass(frozen=True, kw_only=True)
class OptimizerState(Record):
    """Whether the run kept optimizer state, and how many of its blocks were zeroed."""

    present: bool
    blocks_zeroed: Count


@dataclass(frozen=True, kw_only=True)
class Integrity(Record):
    """Digests of everything before and after, and what nobody looked at."""

    files: tuple[FileDigest, ...]
    banks: tuple[BankIntegrity, ...]
    optimizer_state: OptimizerState
    not_examined: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Outstanding(Record):
    """Something the holder must still do; `closed_by` is the SHA-256 of the closing statement."""

    item: str
    location: str
    state: Literal["open", "closed"] = "open"
    closed_by: Sha256 | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict(Record):
    """The result against the thresholds, with a reason for each deviation."""

    result: Literal["PASSED", "WARNED", "FAILED"]
    reasons: tuple[str, ...] = ()


# --- the whole -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Predicate(Record):
    """The predicate of `urn:memsinks-govern:forget:v1`."""

    request: Request
    operator: Operator
    selection: Selection
    mechanism: Mechanism
    blocks: Blocks
    integrity: Integrity
    verification: Verification
    limitations: tuple[str, ...]
    outstanding: tuple[Outstanding, ...]
    verdict: Verdict
    disclosure_sha256: Sha256


@dataclass(frozen=True, kw_only=True)
class DigestSet(Record):
    """in-toto DigestSet with one entry, under the name of its algorithm.

    `sha256` is that of the file. `bankSha256`, of a bank of sink blocks: SHA-256 over its header
    bytes and the 32 bytes of its Merkle root. `merkleRoot`, of a bank's tree file: the root of the
    one tree that the file can hold. The latter two are in-toto's extension point (spec/v1/
    digest_set.md); docs/verify.md defines them.
    """

    sha256: Sha256 | None = field(default=None, metadata={"omit": True})
    bank_sha256: Sha256 | None = field(default=None, metadata={"omit": True, "json": "bankSha256"})
    merkle_root: Sha256 | None = field(default=None, metadata={"omit": True, "json": "merkleRoot"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.to_dict()) != 1:
            raise malformed("DigestSet", "exactly one digest", f"{len(self.to_dict())}")

    @property
    def algorithm(self) -> str:
        """The name under which the digest stands."""
        return next(iter(self.to_dict()))

    @property
    def value(self) -> str:
        """The digest, in hex."""
        return str(self.to_dict()[self.algorithm])


@dataclass(frozen=True, kw_only=True)
class Subject(Record):
    """A file of the checkpoint after the erase; the name is relative to the run directory."""

    name: str
    digest: DigestSet


@dataclass(frozen=True, kw_only=True)
class Statement(Record):
    """An in-toto Statement v1 about a checkpoint after forgetting."""

    subject: tuple[Subject, ...]
    predicate: Predicate
    type: Literal["https://in-toto.io/Statement/v1"] = field(
        default="https://in-toto.io/Statement/v1", metadata={"json": "_type"}
    )
    predicate_type: Literal["urn:memsinks-govern:forget:v1"] = field(
        default="urn:memsinks-govern:forget:v1", metadata={"json": "predicateType"}
    )


def subjects(files: tuple[FileDigest, ...]) -> tuple[Subject, ...]:
    """The subjects that follow from the file digests: every file that exists after the erase."""
    return tuple(
        Subject(name=f.name, digest=DigestSet.from_dict({f.algorithm: f.digest_after}))
        for f in sorted(files, key=lambda f: f.name)
        if f.digest_after is not None
    )
