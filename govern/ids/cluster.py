"""Fifth stage: clusters in which every member is linked to the representative.

Connected components chain: a-b and b-c are similar, a and c need not be. So each component is
re-centred: its smallest text (by content hash) represents itself and every text linked to it; of
what remains the smallest again founds a cluster with those that fit it, and so on. Every member
then has an exact Jaccard similarity of at least the threshold to its representative.

Going through all texts in ascending order does this to all components at once, since a link never
leaves a component. The result is a pure function of the set of links.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from govern.ids.jit import compiled
from govern.ids.verify import Links

Indices = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.int32] | npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """The cluster of each text.

    Attributes:
        representative: int64 [texts], the text that represents it; itself for a representative.
        similarity: float64 [texts], exact Jaccard similarity to it.
    """

    representative: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float64]


@compiled()
def _group(a, ends, order):  # type: ignore[no-untyped-def]
    """Order links by their smaller text; `ends` holds where each text's links begin, and moves."""
    for link in range(len(a)):
        if a[link] >= 0:
            order[ends[a[link]]] = link
            ends[a[link]] += 1


@compiled()
def _recentre(begins, order, b, representative, reason):  # type: ignore[no-untyped-def]
    for text in range(len(begins) - 1):
        if representative[text] >= 0:
            continue
        representative[text] = text
        # Links go from the smaller text to the larger; smaller neighbours have a cluster already.
        for link in order[begins[text] : begins[text + 1]]:
            if representative[b[link]] < 0:
                representative[b[link]] = text
                reason[b[link]] = link


@compiled()
def _count(a, begins):  # type: ignore[no-untyped-def]
    """begins[t + 1] = how many links begin at a text before t + 1."""
    for link in range(len(a)):
        if a[link] >= 0:
            begins[a[link] + 1] += 1
    for text in range(1, len(begins)):
        begins[text] += begins[text - 1]


def cluster(n_texts: int, links: Links) -> Clusters:
    """Cluster texts by their links, each with a < b, in any order.

    Args:
        n_texts: How many texts there are; a smaller number is a smaller content hash.
        links: Verified pairs of them.
    """
    representative, reason = recentred(n_texts, links.a, links.b)
    similarity = np.ones(n_texts, dtype=np.float64)
    joined = np.flatnonzero(reason >= 0)
    similarity[joined] = links.jaccard[reason[joined]]
    return Clusters(representative=representative, similarity=similarity)


def recentred(n_texts: int, a: Numbers, b: Numbers) -> tuple[Indices, Indices]:
    """The representative of each text, and the link by which it has it.

    Args:
        n_texts: How many texts there are.
        a: The smaller text of each link; a link with a negative one is none.
        b: The larger one.

    Returns:
        Both int64 [texts]; the link is -1 where a text represents itself.
    """
    begins = np.zeros(n_texts + 1, dtype=np.int64)
    _count(a, begins)
    order = np.empty(int(begins[-1]), dtype=np.int64)
    _group(a, begins[:-1].copy(), order)
    representative, reason = np.full((2, n_texts), -1, dtype=np.int64)
    _recentre(begins, order, b, representative, reason)
    return representative, reason
