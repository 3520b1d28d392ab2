"""What was measured after an erase, against thresholds that stood before: part of the statement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from govern.audit.records import Count, Record, SequenceId, Sha256

Phase = Literal["before", "after", "placebo", "reference", "backbone"]


@dataclass(frozen=True, kw_only=True)
class Threshold(Record):
    """A bound that was fixed before measuring; `group` null means every group of the metric."""

    metric: str
    group: str | None = None
    phase: Phase = "after"
    comparison: Literal["<=", ">=", "=="]
    bound: float
    on_breach: Literal["FAILED", "WARNED"] = "FAILED"


@dataclass(frozen=True, kw_only=True)
class StructuralCheck(Record):
    """One check of the erased files as they were re-opened."""

    name: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Structural(Record):
    """The structural result: it passed when every one of its checks did."""

    passed: bool
    checks: tuple[StructuralCheck, ...]


@dataclass(frozen=True, kw_only=True)
class MetricRow(Record):
    """One measured value with its 95 % interval; losses are nats per token."""

    metric: str
    group: str
    phase: Phase
    n: Count
    value: float
    low: float | None = None
    high: float | None = None
    seed: int | None = None
    probe_sha256: Sha256 | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class DocumentLoss(Record):
    """Mean loss (nats per token) on one forgotten document; `reference` never trained on it."""

    document_hmac: Sha256
    before: float
    after: float
    reference: float | None = None


@dataclass(frozen=True, kw_only=True)
class KeptChange(Record):
    """A kept sequence: change of its loss (nats per token) and the share of sinks it lost."""

    sequence_id: SequenceId
    loss_change: float
    share_lost: float


@dataclass(frozen=True, kw_only=True)
class Verification(Record):
    """What was measured afterwards, against thresholds that stood before."""

    thresholds: tuple[Threshold, ...]
    structural: Structural
    metrics: tuple[MetricRow, ...] = ()
    per_document: tuple[DocumentLoss, ...] = ()
    kept: tuple[KeptChange, ...] = ()
