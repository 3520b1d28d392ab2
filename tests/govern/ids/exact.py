"""Exact similarity of all pairs, written from the documented rule alone: no code of the package.

The rule: NFC, case folding, words of letters, numbers and marks, one word a character in scripts
without spaces, shingles of five words, Jaccard similarity of their sets.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import csr_matrix

_UNSPACED = ("CJK ", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "BOPOMOFO", "HALFWIDTH KATAKANA",
             "THAI ", "LAO ", "MYANMAR ", "KHMER ")  # fmt: skip
_ROWS = 256


def words(text: str) -> list[str]:
    if text.isascii():
        return re.findall("[a-z0-9]+", text.lower()) or ["".join(text.lower().split())]
    found: list[str] = []
    takes = ""  # the kinds of character that the last word still takes
    for character in unicodedata.normalize("NFC", text).casefold():
        kind = unicodedata.category(character)[0]
        alone = kind in "LN" and unicodedata.name(character, "").startswith(_UNSPACED)
        if kind not in "LNM":
            takes = ""
        elif kind in takes and not alone:
            found[-1] += character
        else:
            found.append(character)
            takes = "M" if alone else "LNM"
    return found or ["".join(text.casefold().split())]


def shingles(text: str) -> set[str]:
    found = words(text)
    return {" ".join(found[i : i + 5]) for i in range(max(1, len(found) - 4))}


def jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)


def similar_pairs(sets: Sequence[set[str]], least: float) -> Iterator[tuple[int, int, float]]:
    """Every pair (smaller, larger) of sets with at least this similarity: all are compared."""
    sizes = np.array([len(one) for one in sets])
    numbers: dict[str, int] = {}
    columns = [numbers.setdefault(shingle, len(numbers)) for one in sets for shingle in one]
    ends = np.concatenate([[0], np.cumsum(sizes)])
    ones = np.ones(len(columns), dtype=np.int32)
    matrix = csr_matrix((ones, columns, ends), shape=(len(sets), len(numbers)))
    for begin in range(0, len(sets), _ROWS):
        common = (matrix[begin : begin + _ROWS] @ matrix.T).tocoo()
        a, b = common.row + begin, common.col
        value = common.data / (sizes[a] + sizes[b] - common.data)
        near = (value >= least) & (a < b)
        yield from zip(a[near].tolist(), b[near].tolist(), value[near].tolist(), strict=True)
