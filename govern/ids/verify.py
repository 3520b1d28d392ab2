"""Fourth stage: the exact Jaccard similarity of every candidate pair.

Shingle sets are sorted, so they are intersected by merging. A pair whose sizes alone exclude the
threshold is not merged: |A ∩ B| <= min, |A ∪ B| >= max, so J <= min / max.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from govern.ids.ingest import ordered_map
from govern.ids.jit import compiled
from govern.ids.lsh import Pairs, split_pairs
from govern.ids.sets import ShingleSets
from govern.ids.store import ArrayFile, release

PAIRS_PER_TASK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Links:
    """Verified pairs of texts, each with a < b.

    Attributes:
        a: int64.
        b: int64.
        jaccard: float64, exact, at least the threshold.
    """

    a: npt.NDArray[np.int64]
    b: npt.NDArray[np.int64]
    jaccard: npt.NDArray[np.float64]


def _elements(_sets, _begins, sizes, left, right, *_rest):  # type: ignore[no-untyped-def]
    return int(sizes[left].sum() + sizes[right].sum())


@compiled(work=_elements)
def _jaccard(sets, begins, sizes, left, right, threshold, result):  # type: ignore[no-untyped-def]
    """result[p] = J(left[p], right[p]), or 0 where it is below the threshold."""
    for p in range(len(left)):
        size_a, size_b = sizes[left[p]], sizes[right[p]]
        result[p] = 0.0
        if min(size_a, size_b) < threshold * max(size_a, size_b):
            continue
        i, end_a = begins[left[p]], begins[left[p]] + size_a
        j, end_b = begins[right[p]], begins[right[p]] + size_b
        common = 0
        while i < end_a and j < end_b:
            one, other = sets[i], sets[j]
            common += one == other
            i += one <= other
            j += other <= one
        value = common / (size_a + size_b - common)
        if value >= threshold:
            result[p] = value


def verify(
    sets: ShingleSets,
    pieces: Iterable[Pairs],
    threshold: float,
    directory: Path,
    pool: ThreadPoolExecutor,
    workers: int,
    advance: Callable[[int], None],
) -> tuple[Links, int]:
    """Keep the pairs whose exact Jaccard similarity is at least the threshold.

    Args:
        sets: The shingle set of each text.
        pieces: Candidate pairs, ascending through all pieces.
        threshold: The least similarity of a link.
        directory: Where the working files of the links go.
        pool: Threads.
        workers: How many there are.
        advance: Called with the number of pairs that are done.

    Returns:
        The links, ascending by (a, b), and how many pairs were verified.
    """
    count = 0

    def links() -> Iterator[Links]:
        nonlocal count
        for pairs in pieces:
            a, b = split_pairs(pairs)
            jaccard = similarities(sets, a, b, threshold, pool, workers, advance)
            linked = jaccard > 0
            yield Links(a=a[linked], b=b[linked], jaccard=jaccard[linked])
            count += len(pairs)
            release(sets.values)

    return stored_links(links(), directory), count


def stored_links(pieces: Iterable[Links], directory: Path) -> Links:
    """Links that come in pieces, in working files."""
    kinds = {"a": np.int64, "b": np.int64, "jaccard": np.float64}
    with ExitStack() as stack:
        files = {n: ArrayFile(directory / f"links-{n}.8", kind) for n, kind in kinds.items()}
        for file in files.values():
            stack.callback(file.close)
        for piece in pieces:
            for name, file in files.items():
                file.append(getattr(piece, name))
        return Links(**{name: file.finish() for name, file in files.items()})


def jaccard_of(
    sets: ShingleSets,
    left: npt.NDArray[np.int64],
    right: npt.NDArray[np.int64],
    threshold: float,
) -> npt.NDArray[np.float64]:
    """The exact Jaccard similarity of each pair of sets, 0 where it is below the threshold."""
    result = np.empty(len(left), dtype=np.float64)
    _jaccard(sets.values, sets.begins, sets.sizes, left, right, threshold, result)
    return result


def similarities(
    sets: ShingleSets,
    left: npt.NDArray[np.int64],
    right: npt.NDArray[np.int64],
    threshold: float,
    pool: ThreadPoolExecutor,
    workers: int,
    advance: Callable[[int], None],
) -> npt.NDArray[np.float64]:
    """`jaccard_of`, by threads."""

    def work(begin: int) -> npt.NDArray[np.float64]:
        part = slice(begin, begin + PAIRS_PER_TASK)
        return jaccard_of(sets, left[part], right[part], threshold)

    found = [np.zeros(0, dtype=np.float64)]
    for result in ordered_map(pool, work, range(0, len(left), PAIRS_PER_TASK), workers):
        found.append(result)
        advance(len(result))
    return np.concatenate(found)
