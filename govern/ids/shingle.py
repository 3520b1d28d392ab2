"""From a batch of texts to what the later stages need: `sketch`.

text -> NFC -> case folding -> words -> shingles of `ngram` words -> 64-bit hashes -> signature.
The rule itself is written down in `reference`. `compiled` follows it at speed; `plain` serves while
there is so little text that loading compiled code would take longer.
"""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from govern.ids.jit import Tally
from govern.ids.minhash import Permutations

TOKENIZER = f"words-v1 unicode-{unicodedata.unidata_version}"
TOKEN_HASH = "fnv1a-fmix64-polynomial low32"

# Bytes of text that are sketched without compiled code, in about 0.2 s.
SMALL = 50_000
_sketched = Tally(SMALL)

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Sketches:
    """What a batch of n documents became.

    Attributes:
        n_words: int64 [n], words of the normalised text.
        content: uint8 [n, 32], SHA-256 of the normalised text.
        hashes: uint64, shingle hashes of all documents in text order, repeats kept.
        hash_offsets: int64 [n + 1] into `hashes`.
        signatures: uint32 [n, num_perm].
    """

    n_words: npt.NDArray[np.int64]
    content: Bytes
    hashes: npt.NDArray[np.uint64]
    hash_offsets: Offsets
    signatures: npt.NDArray[np.uint32]


def text_buffers(texts: pa.Array) -> tuple[Bytes, Offsets]:
    """The UTF-8 bytes and int64 offsets of a string array without nulls; offsets start at 0."""
    texts = texts.cast(pa.large_string())
    _, offsets_buffer, data_buffer = texts.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int64)[
        texts.offset : texts.offset + len(texts) + 1
    ]
    if data_buffer is None:
        return np.zeros(0, dtype=np.uint8), np.zeros(len(texts) + 1, dtype=np.int64)
    data = np.frombuffer(data_buffer, dtype=np.uint8)[offsets[0] : offsets[-1]]
    return data, offsets - offsets[0]


def sketch(texts: pa.Array, *, ngram: int, permutations: Permutations) -> Sketches:
    """Words, content hash, shingle hashes and signature of each text.

    Args:
        texts: String array without nulls; every text has a character that is not white space.
        ngram: Words of a shingle.
        permutations: Coefficients of the signature.
    """
    if _sketched.is_full(int(text_buffers(texts)[1][-1])):
        from govern.ids.compiled import sketch as sketch_them
    else:
        from govern.ids.plain import sketch as sketch_them
    return sketch_them(texts, ngram=ngram, permutations=permutations)


def digests(data: Bytes, offsets: Offsets) -> Bytes:
    """SHA-256 of each document's bytes, uint8 [n, 32]."""
    view, bounds, sha256 = memoryview(data.data), offsets.tolist(), hashlib.sha256
    raw = b"".join(sha256(view[begin:end]).digest() for begin, end in itertools.pairwise(bounds))
    return np.frombuffer(raw, dtype=np.uint8).reshape(-1, 32)
