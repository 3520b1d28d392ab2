"""A synthetic corpus whose duplicates are known.

Every document is a pure function of its number, so no truth has to be stored: its kind, what it
was derived from and its words can be had again for any number. Of the documents

    10 %  one family: one text with a word in 130 replaced (at least one)
     5 %  exact copies of an earlier single document
    10 %  light edits of one: a word in 100 replaced (at least one), J about 0.9
    10 %  heavy edits of one: a word in 32 replaced, J about 0.72, near the threshold on both sides
     5 %  a template: one half the same in all, J about 1/3, which must not be joined
    60 %  single documents, which copies and edits are made of

Words follow a Zipf law over 50,000 forms; lines break every 20 words. There is an owner for every
100 documents; the largest of n owners has 1 / sqrt(n) of all documents.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

KINDS = ("family", "copy", "light", "heavy", "template", "single")
FAMILY, COPY, LIGHT, HEAVY, TEMPLATE, SINGLE = range(6)
FORMS = 50_000
_SHARES = np.cumsum([0.10, 0.05, 0.10, 0.10, 0.05, 0.60])
_QUANTILES = 1 << 20
_BLOCK = 20_000
_WORDS_PER_LINE = 20
_LONGEST_LINE_HEAD = 100
# Of what a random number decides, beside the number of a document.
_KIND, _PARENT, _TEXT, _PLACE, _FORM, _OWNER = (np.uint64(i) for i in range(1, 7))
_FAMILY_TEXT, _TEMPLATE_TEXT = np.int64(-1), np.int64(-2)


@njit(nogil=True, cache=True)
def _random(document, purpose, index):  # type: ignore[no-untyped-def]
    """64 random bits: the finaliser of SplitMix64 (Steele, Lea, Flood 2014) over the arguments."""
    x = np.uint64(document) * np.uint64(0x9E3779B97F4A7C15) + purpose * np.uint64(
        0xD1B54A32D192ED03
    )
    for value in (x, np.uint64(index)):
        x = x ^ value + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        x = x ^ x >> np.uint64(31)
    return x


@njit(nogil=True, cache=True)
def _below(document, purpose, index, bound):  # type: ignore[no-untyped-def]
    return np.int64(_random(document, purpose, index) % np.uint64(bound))


@njit(nogil=True, cache=True)
def kind_of(document):  # type: ignore[no-untyped-def]
    """FAMILY … SINGLE."""
    share = np.float64(_random(document, _KIND, 0) >> np.uint64(11)) / 2.0**53
    for kind in range(SINGLE):
        if share < _SHARES[kind] and document > 0:
            return kind
    return SINGLE


@njit(nogil=True, cache=True)
def parent_of(document):  # type: ignore[no-untyped-def]
    """The single document that a copy or an edit is made of: any earlier one, evenly."""
    parent = _below(document, _PARENT, 0, document)
    while kind_of(parent) != SINGLE:
        parent -= 1
    return parent


@njit(nogil=True, cache=True)
def _fresh(text, quantiles, out):  # type: ignore[no-untyped-def]
    for i in range(len(out)):
        out[i] = quantiles[_below(text, _TEXT, i, _QUANTILES)]


@njit(nogil=True, cache=True)
def fill_words(document, quantiles, out):  # type: ignore[no-untyped-def]
    """The word forms of a document, by number; `out` is as long as every document."""
    kind, words = kind_of(document), len(out)
    edits = 0
    if kind == FAMILY:
        _fresh(_FAMILY_TEXT, quantiles, out)
        edits = max(1, words // 130)
    elif kind == SINGLE:
        _fresh(document, quantiles, out)
    elif kind == TEMPLATE:
        _fresh(document, quantiles, out)
        _fresh(_TEMPLATE_TEXT, quantiles, out[: words // 2])
    else:
        _fresh(parent_of(document), quantiles, out)
        if kind == LIGHT:
            edits = max(1, words // 100)
        elif kind == HEAVY:
            edits = max(1, words // 32)
    for i in range(edits):
        out[_below(document, _PLACE, i, words)] = _below(document, _FORM, i, FORMS)


@njit(nogil=True, cache=True)
def _put(out, at, data):  # type: ignore[no-untyped-def]
    out[at : at + len(data)] = data
    return at + len(data)


@njit(nogil=True, cache=True)
def _put_number(out, at, number):  # type: ignore[no-untyped-def]
    power = 1
    while power * 10 <= number:
        power *= 10
    while power:
        out[at] = 48 + number // power % 10
        at += 1
        power //= 10
    return at


@njit(nogil=True, cache=True)
def _lines(first, last, words, owners, quantiles, forms, offsets, fixed, out):  # type: ignore[no-untyped-def]
    """Write the JSON lines of some documents; the bytes they take."""
    chosen = np.empty(words, dtype=np.int64)
    at = 0
    for document in range(first, last):
        at = _put(out, at, fixed[0])
        at = _put_number(out, at, document)
        at = _put(out, at, fixed[1])
        share = np.float64(_random(document, _OWNER, 0) >> np.uint64(11)) / 2.0**53
        at = _put_number(out, at, np.int64(share * share * owners))
        at = _put(out, at, fixed[2])
        fill_words(document, quantiles, chosen)
        for i in range(words):
            if i and i % _WORDS_PER_LINE == 0:
                out[at] = 92  # \n as JSON has it
                out[at + 1] = 110
                at += 2
            elif i:
                out[at] = 32
                at += 1
            at = _put(out, at, forms[offsets[chosen[i]] : offsets[chosen[i] + 1]])
        at = _put(out, at, fixed[3])
    return at


def quantiles() -> npt.NDArray[np.int32]:
    """int32: forms as often as the Zipf law has them."""
    weights = 1 / np.arange(1, FORMS + 1)
    steps = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    return np.searchsorted(np.cumsum(weights / weights.sum()), steps).astype(np.int32)


def word_forms() -> list[str]:
    """FORMS words of 2 to 9 letters, 5.2 on average."""
    random = np.random.default_rng(7)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    weights = np.arange(30, 4, -1, dtype=float)
    lengths = random.permutation(np.resize([2, 3, 4, 5, 5, 5, 6, 6, 7, 9], FORMS))
    drawn = "".join(random.choice(letters, size=lengths.sum(), p=weights / weights.sum()))
    ends = np.cumsum(lengths)
    return [drawn[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def words_of(documents: npt.NDArray[np.int64], words: int) -> npt.NDArray[np.int64]:
    """The words of some documents, by number of their form, int64 [documents, words]."""
    law, found = quantiles(), np.empty((len(documents), words), dtype=np.int64)
    for document, row in zip(documents.tolist(), found, strict=True):
        fill_words(document, law, row)
    return found


def owners_of(documents: int) -> int:
    """How many owners a corpus has."""
    return max(1, documents // 100)


def write_corpus(path: Path, documents: int, words: int, begin: int = 0, end: int = -1) -> None:
    """Write the first `documents` documents, of so many words each, as JSONL.

    With `begin` and `end` those of them from one number up to the other: a file of several.
    """
    end = documents if end < 0 else end
    forms = word_forms()
    text = np.frombuffer("".join(forms).encode(), dtype=np.uint8)
    offsets = np.concatenate([[0], np.cumsum([len(form) for form in forms])])
    fixed: Any = tuple(
        np.frombuffer(part, dtype=np.uint8)
        for part in (b'{"id": "d', b'", "owner": "owner-', b'", "text": "', b'"}\n')
    )
    law = quantiles()
    out = np.empty(_BLOCK * (words * 11 + _LONGEST_LINE_HEAD), dtype=np.uint8)
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        for first in range(begin, end, _BLOCK):
            last = min(first + _BLOCK, end)
            size = _lines(first, last, words, owners_of(documents), law, text, offsets, fixed, out)
            file.write(out[:size].data)
    temporary.rename(path)
