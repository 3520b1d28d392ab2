"""What the tables of the studies share."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev


def spread(values: Sequence[float], form: str = "{:.3f}") -> str:
    """The mean, and the standard deviation where there are several."""
    if not values:
        return "–"
    mean = form.format(fmean(values))
    return f"{mean} ± {form.replace('+', '').format(stdev(values))}" if len(values) > 1 else mean
