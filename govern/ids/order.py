"""Sorting rows by several columns of which the first tells nearly all of them apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from govern.ids.store import Indices


def ascending(first: npt.NDArray[Any], *rest: npt.NDArray[Any]) -> Indices:
    """The order of rows by the first column, then by the next, and so on; int64 [rows].

    As `np.lexsort` with its columns the other way round, but rows that are equal in all columns
    come in any order. Sorting hashes by one word and the few rows that share it by the others is
    several times as fast.

    Args:
        first: [rows], the column that comes first.
        rest: [rows] each.
    """
    order = np.argsort(first)
    ranked = first[order]
    same = np.zeros(len(order) + 1, dtype=bool)
    same[1:-1] = ranked[1:] == ranked[:-1]
    crowded = np.flatnonzero(same[1:] | same[:-1])
    rows = order[crowded]
    run = np.cumsum(~same[:-1][crowded])
    order[crowded] = rows[np.lexsort((*(column[rows] for column in rest[::-1]), run))]
    return order
