"""Geometry of the extraction curves; the other charts are those of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 720.0, 300.0
_LEFT, _RIGHT, _TOP, _BASE = 64.0, 24.0, 40.0, 240.0
_LEGEND = 155.0  # room of one entry; the last of four must end inside
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A tick: where it lies and what it says."""

    at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One phase: SVG points, where its legend begins, and the same in words."""

    name: str
    points: str
    legend: float
    spoken: str


@dataclass(frozen=True, kw_only=True)
class ExtractionChart:
    """Share of documents recited to the end (y) once a share of the prefix is given (x)."""

    width: float
    height: float
    left: float
    right: float
    base: float
    top: float
    x_ticks: tuple[Mark, ...]
    y_ticks: tuple[Mark, ...]
    curves: tuple[Curve, ...]


def extracted_share(strengths: Sequence[float], prefix: float) -> float:
    """Share of documents that are recited once `prefix` (0 to 1) of them is given.

    A document of extraction strength s needs the share 1 - s.
    """
    return sum(1.0 - s <= prefix + 1e-12 for s in strengths) / len(strengths)


def extraction_chart(phases: Mapping[str, Sequence[float]]) -> ExtractionChart | None:
    """Curves of every phase that has documents.

    Args:
        phases: Name -> extraction strength of each document.
    """
    drawn = {name: values for name, values in phases.items() if values}
    if not drawn:
        return None
    return ExtractionChart(
        width=WIDTH,
        height=HEIGHT,
        left=_LEFT,
        right=WIDTH - _RIGHT,
        base=_BASE,
        top=_TOP,
        x_ticks=tuple(Mark(at=across(t), text=f"{t:.0%}") for t in _TICKS),
        y_ticks=tuple(Mark(at=up(t), text=f"{t:.0%}") for t in _TICKS),
        curves=tuple(
            Curve(
                name=name,
                points=_steps(values),
                legend=_LEFT + _LEGEND * place,
                spoken=f"{name}: {extracted_share(values, 0.5):.0%} of {len(values)} documents "
                "are recited after half of them",
            )
            for place, (name, values) in enumerate(drawn.items())
        ),
    )


def _steps(strengths: Sequence[float]) -> str:
    points = [(0.0, extracted_share(strengths, 0.0))]
    for need in sorted({1.0 - s for s in strengths}):
        points += [(need, points[-1][1]), (need, extracted_share(strengths, need))]
    points.append((1.0, points[-1][1]))
    return " ".join(f"{across(x):.2f},{up(y):.2f}" for x, y in points)


def across(share: float) -> float:
    """Where a share of the x axis lies."""
    return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 2)


def up(share: float) -> float:
    """Where a share of the y axis lies."""
    return round(_BASE - share * (_BASE - _TOP), 2)
