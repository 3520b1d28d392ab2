"""Geometry of the relearning chart: what training again brings back, beside the reference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from govern.evaluate.charts import HEIGHT, WIDTH, Mark, across, up
from sinkmodel.evaluate.suite import ERASED, REFERENCE, SEQUENTIAL

_METRIC = "exact_memorization"


@dataclass(frozen=True, kw_only=True)
class RelearningChart:
    """One attack: tokens predicted right (y) after some steps of training (x, evenly spaced).

    Attributes:
        name: The attack.
        curves: SVG points of the erased run, one curve a seed.
        band: SVG points around the reference's least and greatest value over seeds; "" without one.
        spoken: The same in words.
    """

    name: str
    width: float
    height: float
    x_ticks: tuple[Mark, ...]
    y_ticks: tuple[Mark, ...]
    curves: tuple[str, ...]
    band: str
    spoken: str


def relearning_charts(attacks: pa.Table) -> list[RelearningChart]:
    """A chart for each attack that was measured at several steps."""
    rows = [
        row
        for row in attacks.to_pylist()
        if row["metric"] == _METRIC and row["attack"] != SEQUENTIAL
    ]
    stepped = dict.fromkeys(row["attack"] for row in rows if row["step"] > 0)
    return [_chart(name, [row for row in rows if row["attack"] == name]) for name in stepped]


def _chart(name: str, rows: Sequence[dict[str, Any]]) -> RelearningChart:
    steps = sorted({int(row["step"]) for row in rows})
    place = {step: across(i / (len(steps) - 1)) for i, step in enumerate(steps)}
    of = {
        target: {
            seed: {int(r["step"]): float(r["value"]) for r in mine if r["seed"] == seed}
            for seed in sorted({r["seed"] for r in mine})
        }
        for target in (ERASED, REFERENCE)
        if (mine := [r for r in rows if r["target"] == target])
    }
    top = _top(float(row["value"]) for row in rows)
    curves = [
        " ".join(f"{place[step]:.2f},{up(values[step] / top):.2f}" for step in steps)
        for values in of[ERASED].values()
    ]
    last = [values[steps[-1]] for values in of[ERASED].values()]
    spoken = f"{name}: after {steps[-1]} steps the erased run predicts {_range(last)}"
    band = ""
    if REFERENCE in of:
        low, high = (
            {step: pick(values[step] for values in of[REFERENCE].values()) for step in steps}
            for pick in (min, max)
        )
        there = [f"{place[step]:.2f},{up(high[step] / top):.2f}" for step in steps]
        back = [f"{place[step]:.2f},{up(low[step] / top):.2f}" for step in reversed(steps)]
        band = " ".join([*there, *back])
        spoken += f", the reference {_range([low[steps[-1]], high[steps[-1]]])}"
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    return RelearningChart(
        name=name,
        width=WIDTH,
        height=HEIGHT,
        x_ticks=tuple(Mark(at=place[step], text=str(step)) for step in steps),
        y_ticks=tuple(Mark(at=up(share), text=f"{100 * share * top:.3g}%") for share in shares),
        curves=tuple(curves),
        band=band,
        spoken=spoken,
    )


def _top(values: Iterable[float]) -> float:
    """Where the axis ends: a round share above every value."""
    most = max(values)
    return next((share for share in (0.1, 0.2, 0.4, 0.6) if most <= 0.9 * share), 1.0)


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.0%}", f"{max(values):.0%}"
    return f"{low} of the tokens" if low == high else f"{low} to {high} of the tokens"
