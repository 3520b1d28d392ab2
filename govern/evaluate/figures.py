"""Tables of the page: metrics by phase, comparisons, requests one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from govern.evaluate.tables import MINE
from sinkmodel.evaluate.suite import ERASED, REFERENCE, SEQUENTIAL

PHASES = {
    "before": "before",
    "erased": "erased",
    "backbone": "sinks off",
    "placebo": "placebo",
    "reference": "never trained",
}
_HEAD = ("before", "erased", "reference")
_HEAD_METRICS = {
    "loss": "mean loss, nats per token",
    "exact_memorization": "tokens predicted right",
    "extraction_strength": "extraction strength",
    "extraction_50_50": "recited exactly, 50 tokens after 50",
}
_HEAD_QUESTIONS = {
    "answer_recall": "tokens of the answers predicted right",
    "truth_ratio": "truth ratio, wrong over right",
    "forget_quality": "forget quality; told from never trained below 0.05",
}
_COUNTS = ("metrics_not_measured", "interval_missing")  # said in words elsewhere

Row = Mapping[str, Any]  # of `metrics.parquet`


@dataclass(frozen=True, kw_only=True)
class Line:
    """One metric of a group: its row in each phase of the block, None where there is none."""

    metric: str
    n: int
    cells: tuple[Row | None, ...]


@dataclass(frozen=True, kw_only=True)
class Block:
    """The metrics of one group of documents, phases side by side."""

    group: str
    phases: tuple[str, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class Request:
    """After so many requests: what is left of the texts forgotten so far, and of all others.

    Args:
        number: Requests done.
        erased, reference: Tokens of the forgotten texts predicted right, mean; None without one.
        held: Those of texts that no request has named yet; None where none is left.
        kept: Largest change of a kept document's loss, nats per token; None without kept ones.
    """

    number: int
    erased: float | None
    reference: float | None
    held: float | None
    kept: float | None


def heads(metrics: pa.Table) -> list[Block]:
    """What a reader asks for first: of each group of chosen documents, and of questions on them."""
    rows = metrics.to_pylist()
    chosen = [row for row in rows if row["group"].startswith("chosen:")]
    found = [_block(group, mine, _HEAD, _HEAD_METRICS) for group, mine in _by_group(chosen).items()]
    asked = [row for row in rows if row["group"] == MINE]
    return [*found, _block(MINE, asked, _HEAD, _HEAD_QUESTIONS)] if asked else found


def blocks(metrics: pa.Table) -> list[Block]:
    """Every metric that was measured in more than one phase."""
    rows = metrics.to_pylist()
    several = [row for row in rows if _several(rows, row) and row["metric"] not in _COUNTS]
    return [
        _block(group, mine, PHASES, dict.fromkeys(row["metric"] for row in mine))
        for group, mine in _by_group(several).items()
    ]


def comparisons(metrics: pa.Table) -> list[Row]:
    """Every figure that belongs to one phase alone."""
    rows = metrics.to_pylist()
    return [row for row in rows if not _several(rows, row) and row["metric"] not in _COUNTS]


def requests(attacks: pa.Table) -> list[Request]:
    """What requests one after another did, in their order."""
    rows = [row for row in attacks.to_pylist() if row["attack"] == SEQUENTIAL]

    def mean(step: int, target: str, metric: str) -> float | None:
        wanted = (step, target, metric)
        found = [r["value"] for r in rows if (r["step"], r["target"], r["metric"]) == wanted]
        return found[0] if found else None

    def worst(step: int) -> float | None:
        wanted = (step, ERASED, "kept_loss_change")
        return max(
            (max(r["values"]) for r in rows if (r["step"], r["target"], r["metric"]) == wanted),
            default=None,
        )

    return [
        Request(
            number=step,
            erased=mean(step, ERASED, "exact_memorization"),
            reference=mean(step, REFERENCE, "exact_memorization"),
            held=mean(step, ERASED, "still_held"),
            kept=worst(step),
        )
        for step in sorted({row["step"] for row in rows})
    ]


def _several(rows: Sequence[Row], row: Row) -> bool:
    name = row["metric"], row["group"]
    return sum((other["metric"], other["group"]) == name for other in rows) > 1


def _by_group(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["group"], []).append(row)
    return found


def _block(
    group: str, rows: Sequence[Row], phases: Sequence[str] | Mapping[str, str],
    metrics: Mapping[str, str | None],
) -> Block:  # fmt: skip
    found = {(row["metric"], row["phase"]): row for row in rows}
    shown = tuple(phase for phase in phases if any(key[1] == phase for key in found))
    lines = []
    for metric, words in metrics.items():
        cells = tuple(found.get((metric, phase)) for phase in shown)
        counts = [cell["n"] for cell in cells if cell is not None]
        if counts:
            lines.append(Line(metric=words or metric, n=max(counts), cells=cells))
    return Block(group=group.removeprefix("chosen:"), phases=shown, lines=tuple(lines))
