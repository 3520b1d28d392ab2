"""The interface through which a forget measures behaviour, before and after the erase.

Structural evidence needs no model; behaviour does. Whoever implements `Measurer` loads the run,
scores documents and returns rows as the statement records them. Thresholds are asked for before
anything is measured, and stand in the statement as they were then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from govern.audit.measured import MetricRow, Threshold
from manifests import Manifest


@dataclass(frozen=True, kw_only=True)
class MeasureRequest:
    """What is to be measured.

    Attributes:
        manifest: Where documents and their text are found; reserved sequences are held-out text.
        forgotten: Source, document ID and sequence ID (as the run knows it) of covered documents.
        policies: Policy of every sequence that is forgotten.
        share_lost: Share of its sinks (0 to 1) that a kept sequence loses; the others lose none.
    """

    manifest: Manifest
    forgotten: tuple[tuple[str, str, int], ...]
    policies: Mapping[int, str]
    share_lost: Mapping[int, float]


@dataclass(frozen=True, kw_only=True)
class DocumentChange:
    """Mean loss (nats per token) on a forgotten document; `reference` never trained on it."""

    source: str
    doc_id: str
    before: float
    after: float
    reference: float | None = None


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """What was measured.

    Attributes:
        rows: Every metric by group and phase.
        documents: Change of loss on forgotten documents.
        kept: Sequence ID of a kept sequence -> change of its mean loss, nats per token.
    """

    rows: tuple[MetricRow, ...] = ()
    documents: tuple[DocumentChange, ...] = ()
    kept: Mapping[int, float]


class Measurer(Protocol):
    """Measures a run before and after an erase."""

    def thresholds(self, request: MeasureRequest) -> tuple[Threshold, ...]:
        """The bounds that the verdict will be held against."""

    def before(self, run: Path, request: MeasureRequest) -> bytes:
        """Measure the run while its sinks still hold something.

        Returns:
            Whatever `after` needs of it. It is kept until the report is written, since after an
            erase in place it could not be measured again.
        """

    def after(self, run: Path, request: MeasureRequest, before: bytes) -> Measurements:
        """Measure the erased run and set it beside what was before."""
