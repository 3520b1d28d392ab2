"""Geometry of the report's two charts: numbers in, positions in user units out.

The templates only draw; everything that could be wrong about a chart is decided here and can be
tested without a browser. Every chart has a text equivalent, because not everybody sees it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from govern.audit.measured import DocumentLoss, KeptChange

WIDTH = 720.0
_LEFT, _RIGHT = 190.0, 24.0
_ROW = 26.0
_TOP = 40.0
MAX_DOCUMENTS = 30
_BINS = 21
_LARGEST = 1e6


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark on an axis: where it lies and what it says."""

    at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class LossRow:
    """One forgotten document: positions of its losses along the axis; reference may be None."""

    label: str
    y: float
    before: float
    after: float
    reference: float | None
    spoken: str


@dataclass(frozen=True, kw_only=True)
class LossChart:
    """Loss before, after and never trained, one row for each document."""

    height: float
    left: float
    right: float
    ticks: tuple[Tick, ...]
    rows: tuple[LossRow, ...]
    total: int


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar of the histogram."""

    x: float
    y: float
    width: float
    height: float
    count: int


@dataclass(frozen=True, kw_only=True)
class ChangeChart:
    """How many kept sequences changed by how much; `worst` is the change of largest size."""

    height: float
    left: float
    right: float
    base: float
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    zero: float
    worst: float
    spoken: str


def loss_chart(documents: Sequence[DocumentLoss], labels: Sequence[str]) -> LossChart | None:
    """Rows of the loss chart; of many documents an even sample over the loss after, stated as one.

    Args:
        documents: The forgotten documents that were measured.
        labels: What to call each, in the same order.
    """
    if not documents:
        return None
    pairs = sorted(zip(documents, labels, strict=True), key=lambda p: (p[0].after, p[1]))
    if len(pairs) > MAX_DOCUMENTS:
        step = (len(pairs) - 1) / (MAX_DOCUMENTS - 1)
        pairs = [pairs[round(i * step)] for i in range(MAX_DOCUMENTS)]
    values = [v for d, _ in pairs for v in (d.before, d.after, d.reference) if v is not None]
    marks = nice_ticks(min(0.0, *map(_drawable, values)), max(map(_drawable, values)))
    low, high = marks[0], marks[-1]

    def place(value: float) -> float:
        share = (_drawable(value) - low) / (high - low)
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 2)

    rows = tuple(
        LossRow(
            label=label,
            y=_TOP + _ROW * i + _ROW / 2,
            before=place(d.before),
            after=place(d.after),
            reference=None if d.reference is None else place(d.reference),
            spoken=_spoken(label, d),
        )
        for i, (d, label) in enumerate(pairs)
    )
    return LossChart(
        height=_TOP + _ROW * len(rows) + 34,
        left=_LEFT,
        right=WIDTH - _RIGHT,
        ticks=tuple(Tick(at=place(m), text=plain(m)) for m in marks),
        rows=rows,
        total=len(documents),
    )


def change_chart(kept: Sequence[KeptChange]) -> ChangeChart | None:
    """A histogram of the loss change of kept sequences, symmetric around zero."""
    if not kept:
        return None
    changes = [k.loss_change for k in kept]
    worst = max(changes, key=abs)
    reach = nice_ticks(0.0, max(abs(_drawable(worst)), 0.01))[-1]
    counts = [0] * _BINS
    for change in changes:
        share = (_drawable(change) + reach) / (2 * reach)
        counts[min(_BINS - 1, int(share * _BINS))] += 1
    left, right, base, top = 64.0, WIDTH - _RIGHT, 190.0, 26.0
    width = (right - left) / _BINS
    bars = tuple(
        Bar(
            x=round(left + i * width + 1.5, 2),
            # A bin with one member among thousands must still be seen.
            y=round(base - max(2.0, count / max(counts) * (base - top)), 2),
            width=round(width - 3, 2),
            height=round(max(2.0, count / max(counts) * (base - top)), 2),
            count=count,
        )
        for i, count in enumerate(counts)
        if count
    )
    at = {-reach: left, 0.0: (left + right) / 2, reach: right}
    exact = sum(1 for change in changes if change == 0.0)
    return ChangeChart(
        height=244.0,
        left=left,
        right=right,
        base=base,
        bars=bars,
        ticks=tuple(Tick(at=x, text=plain(value)) for value, x in at.items()),
        zero=(left + right) / 2,
        worst=worst,
        spoken=f"{len(kept)} kept sequences were measured, {exact} did not change at all; "
        f"the largest change is {plain(worst)} nats per token",
    )


def nice_ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Round numbers from below `low` to above `high`, steps of 1, 2 or 5 times a power of ten."""
    # A span below what four digits can tell apart has no ticks of its own.
    span = high - low if high - low > 1e-9 else 1.0
    rough = span / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return [round(i * step, 12) for i in range(first, last + 1)]


def plain(value: float) -> str:
    """A number as a reader wants it: four significant digits, a real minus sign."""
    text = f"{value:.4g}"
    return text.replace("-", "−") if value else "0"


def _drawable(value: float) -> float:
    """A value within what an axis can show: a report may hold any finite number."""
    return max(-_LARGEST, min(_LARGEST, value))


def _spoken(label: str, document: DocumentLoss) -> str:
    text = f"{label}: before {plain(document.before)}, after {plain(document.after)}"
    if document.reference is None:
        return text
    return f"{text}, never trained {plain(document.reference)}"
