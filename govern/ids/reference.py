"""The text rule in plain Python: what the compiled kernel must agree with, bit for bit.

Slow and obvious on purpose. It is also the exported token hash: with `token_hash` as the hash
function, datasketch computes the same signatures, so these can be put in its LSH indexes.
"""

from __future__ import annotations

import unicodedata

import numpy as np
import numpy.typing as npt

from govern.ids.codepoints import LETTER, MARK, SEPARATOR, SOLO, character_class

_M64 = (1 << 64) - 1
FNV_OFFSET = 0xCBF29CE484222325
FNV_PRIME = 0x100000001B3
SHINGLE_FACTOR = 0x9E3779B97F4A7C15  # odd, so that multiplying by it is a bijection mod 2^64
LENGTH_FACTOR = 0xD6E8FEB86659FD93


def words(text: str) -> list[str]:
    """Words of a text: NFC, case folding, then runs of letters, numbers and marks.

    A character of a script without spaces is a word by itself, with the marks that follow it. A
    text without any word is one word: its characters without white space.
    """
    folded = unicodedata.normalize("NFC", text).casefold()
    found: list[str] = []
    before = SEPARATOR
    for character in folded:
        kind = character_class(character)
        if kind == SEPARATOR:
            pass
        elif before == SEPARATOR or kind == SOLO or (kind == LETTER and before == SOLO):
            found.append(character)
        else:
            found[-1] += character
        # A mark leaves the token what it was, so that Thai vowels end with their consonant.
        before = before if kind == MARK and before != SEPARATOR else kind
    return found or ["".join(folded.split())]


def normalised(text: str) -> str:
    """The normalised text: its words, joined by one space. Equal here means exact duplicate."""
    return " ".join(words(text))


def shingles(text: str, ngram: int) -> list[str]:
    """Runs of `ngram` words joined by a space; a shorter text is one shingle of all its words."""
    found = words(text)
    return [" ".join(found[i : i + ngram]) for i in range(max(1, len(found) - ngram + 1))]


def fmix64(value: int) -> int:
    """MurmurHash3's 64-bit finaliser (Appleby, public domain)."""
    value ^= value >> 33
    value = value * 0xFF51AFD7ED558CCD & _M64
    value ^= value >> 33
    value = value * 0xC4CEB9FE1A85EC53 & _M64
    return value ^ value >> 33


def word_hash(word: bytes) -> int:
    """FNV-1a over the UTF-8 bytes, finalised by `fmix64`: 64 bits."""
    value = FNV_OFFSET
    for byte in word:
        value = (value ^ byte) * FNV_PRIME & _M64
    return fmix64(value)


def shingle_hash(shingle: bytes) -> int:
    """The 64-bit hash of a shingle: fmix64(sum of word_hash_j * F^(n-1-j) + n * L) mod 2^64.

    A polynomial in the word hashes, so that the kernel rolls it from one shingle to the next; the
    number of words n keeps short documents apart.
    """
    return combined_hash([word_hash(word) for word in shingle.split(b" ")])


def combined_hash(word_hashes: list[int]) -> int:
    """The hash of the shingle whose words have these hashes."""
    value = 0
    for one in word_hashes:
        value = (value * SHINGLE_FACTOR + one) & _M64
    return fmix64((value + len(word_hashes) * LENGTH_FACTOR) & _M64)


def token_hash(shingle: bytes) -> int:
    """The 32-bit token hash for datasketch: the low half of `shingle_hash`.

    Example: `MinHash(num_perm=128, hashfunc=token_hash)` updated with each of `shingles(text, 5)`
    encoded as UTF-8 has the signature that the manifest stores.
    """
    return shingle_hash(shingle) & 0xFFFFFFFF


def shingle_set(text: str, ngram: int) -> npt.NDArray[np.uint64]:
    """The sorted distinct shingle hashes of a text, uint64."""
    return np.array(
        sorted({shingle_hash(s.encode()) for s in shingles(text, ngram)}), dtype=np.uint64
    )


def jaccard(a: set[str], b: set[str]) -> float:
    """|a ∩ b| / |a ∪ b| of two shingle sets."""
    return len(a & b) / len(a | b)
