"""The sketch without compiled code, for a few small texts: by `reference` and NumPy."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from govern.ids import reference
from govern.ids.minhash import Permutations
from govern.ids.shingle import Sketches

_TOKENS_AT_ONCE = 1024


def sketch(texts: pa.Array, *, ngram: int, permutations: Permutations) -> Sketches:
    """As `shingle.sketch`."""
    found = [reference.words(text) for text in texts.to_pylist()]
    contents = [hashlib.sha256(" ".join(words).encode()).digest() for words in found]
    hashes = [_shingle_hashes(words, ngram) for words in found]
    hash_offsets = np.zeros(len(found) + 1, dtype=np.int64)
    np.cumsum([len(one) for one in hashes], out=hash_offsets[1:])
    return Sketches(
        n_words=np.array([len(words) for words in found], dtype=np.int64),
        content=np.frombuffer(b"".join(contents), dtype=np.uint8).reshape(-1, 32),
        hashes=np.concatenate([np.zeros(0, dtype=np.uint64), *hashes]),
        hash_offsets=hash_offsets,
        signatures=np.array(
            [_signature(one, permutations) for one in hashes], dtype=np.uint32
        ).reshape(-1, len(permutations.a)),
    )


def _shingle_hashes(words: list[str], ngram: int) -> npt.NDArray[np.uint64]:
    hashes = [reference.word_hash(word.encode()) for word in words]
    shingles = range(max(1, len(hashes) - ngram + 1))
    return np.array([reference.combined_hash(hashes[i : i + ngram]) for i in shingles], np.uint64)


def _signature(
    hashes: npt.NDArray[np.uint64], permutations: Permutations
) -> npt.NDArray[np.uint32]:
    """min(a * fmix32(token) + b mod 2^32) over the tokens, the low halves of the hashes."""
    tokens = hashes.astype(np.uint32)
    tokens ^= tokens >> np.uint32(16)
    tokens *= np.uint32(0x85EBCA6B)
    tokens ^= tokens >> np.uint32(13)
    tokens *= np.uint32(0xC2B2AE35)
    tokens ^= tokens >> np.uint32(16)
    least = np.full(len(permutations.a), 0xFFFFFFFF, dtype=np.uint32)
    for at in range(0, len(tokens), _TOKENS_AT_ONCE):
        part = tokens[at : at + _TOKENS_AT_ONCE, np.newaxis] * permutations.a + permutations.b
        np.minimum(least, part.min(axis=0), out=least)
    return least
