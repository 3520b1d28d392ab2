"""The compiled kernel: text buffers in, normalised text, shingle hashes and signatures out.

Every function works on whole Arrow-style buffers (uint8 data, int64 offsets), releases the GIL and
is cached on disk by numba. What each computes is defined, in plain Python, by `reference`.
"""

from __future__ import annotations

import functools

import numpy as np

from govern.ids import reference
from govern.ids.codepoints import (
    CCC_SHIFT,
    CLASS_SHIFT,
    CODEPOINT_MASK,
    LETTER,
    MARK,
    MAX_FOLD,
    MULTI_BIT,
    NOT_NFC_BIT,
    SEPARATOR,
    SOLO,
)
from govern.ids.jit import compile_loop

# Results of `normalise` for one document.
DONE, NEEDS_NFC, NO_WORDS = 0, 1, 2

_inlined = functools.partial(compile_loop, inline="always")
_SPACE = np.uint8(32)
_OFFSET = np.uint64(reference.FNV_OFFSET)
_PRIME = np.uint64(reference.FNV_PRIME)
_FACTOR = np.uint64(reference.SHINGLE_FACTOR)
_LENGTH = np.uint64(reference.LENGTH_FACTOR)
_MIX_A = np.uint64(0xFF51AFD7ED558CCD)
_MIX_B = np.uint64(0xC4CEB9FE1A85EC53)
_ONE = np.uint64(1)
_U33 = np.uint64(33)
_LOW = np.uint64(0xFFFFFFFF)


@_inlined
def _decode(data, at):  # type: ignore[no-untyped-def]
    """The code point at `at` of valid UTF-8, and its length in bytes."""
    first = np.uint32(data[at])
    if first < 0x80:
        return first, 1
    low = np.uint32(0x3F)
    second = np.uint32(data[at + 1]) & low
    if first < 0xE0:
        return (first & np.uint32(0x1F)) << np.uint32(6) | second, 2
    third = np.uint32(data[at + 2]) & low
    if first < 0xF0:
        return (first & np.uint32(0x0F)) << np.uint32(12) | second << np.uint32(6) | third, 3
    fourth = np.uint32(data[at + 3]) & low
    head = (first & np.uint32(0x07)) << np.uint32(18) | second << np.uint32(12)
    return head | third << np.uint32(6) | fourth, 4


@_inlined
def _encode(code, out, at):  # type: ignore[no-untyped-def]
    """Write a code point as UTF-8; the position behind it."""
    if code < 0x80:
        out[at] = code
        return at + 1
    low = np.uint32(0x3F)
    if code < 0x800:
        out[at] = 0xC0 | code >> np.uint32(6)
        out[at + 1] = 0x80 | code & low
        return at + 2
    if code < 0x10000:
        out[at] = 0xE0 | code >> np.uint32(12)
        out[at + 1] = 0x80 | code >> np.uint32(6) & low
        out[at + 2] = 0x80 | code & low
        return at + 3
    out[at] = 0xF0 | code >> np.uint32(18)
    out[at + 1] = 0x80 | code >> np.uint32(12) & low
    out[at + 2] = 0x80 | code >> np.uint32(6) & low
    out[at + 3] = 0x80 | code & low
    return at + 4


@_inlined
def _ascii_run(data, position, end, ascii_fold, out, at, inside):  # type: ignore[no-untyped-def]
    """Fold ASCII up to `end` or the first other byte; positions behind it, words begun, inside one.

    No branch a byte, since word lengths cannot be predicted: a separator writes a space too, which
    stays only when a word ended there. Unsigned, so that numba does not wrap indices around.
    """
    position, end, at = np.uint64(position), np.uint64(end), np.uint64(at)
    inside, begun = np.uint64(inside), np.uint64(0)
    while position < end and data[position] < 0x80:
        folded = ascii_fold[data[position]]
        position += _ONE
        is_word = np.uint64(folded != _SPACE)
        out[at] = folded
        at += is_word | inside
        begun += is_word & (inside ^ _ONE)
        inside = is_word
    return np.int64(position), np.int64(at), np.int64(begun), inside != 0


@compile_loop
def normalise(data, offsets, ascii_fold, packed, multi, trusted, out, out_offsets, n_words, state):  # type: ignore[no-untyped-def]
    """Write each document's words, case folded and joined by one space, one after another.

    Args:
        data: uint8, valid UTF-8 of all documents.
        offsets: int64 [n + 1] into `data`.
        ascii_fold: uint8 [128] of `codepoints.ascii_table`.
        packed: uint32 of `codepoints.tables`, or length 0 when every byte is ASCII.
        multi: uint32 [rows, MAX_FOLD] of `codepoints.tables`.
        trusted: The text is in NFC, so it is not checked.
        out: uint8, at least as long as the data when ASCII, three times as long otherwise.
        out_offsets: int64 [n + 1], filled.
        n_words: int64 [n], filled.
        state: uint8 [n], filled: DONE, or NEEDS_NFC or NO_WORDS with nothing written.
    """
    at = np.int64(0)
    out_offsets[0] = 0
    for document in range(len(offsets) - 1):
        begin_out = at
        position, end = offsets[document], offsets[document + 1]
        before = np.uint32(SEPARATOR)
        count = 0
        last_ccc = np.uint32(0)
        result = DONE
        while position < end:
            if data[position] < 0x80:
                inside = before != SEPARATOR
                if before == SOLO and ascii_fold[data[position]] != _SPACE:
                    out[at] = _SPACE
                    at += 1
                    inside = False
                position, at, begun, inside = _ascii_run(
                    data, position, end, ascii_fold, out, at, inside
                )
                count += begun
                before = np.uint32(LETTER if inside else SEPARATOR)
                last_ccc = np.uint32(0)
                continue
            code, length = _decode(data, position)
            position += length
            entry = packed[code]
            ccc = entry >> np.uint32(CCC_SHIFT)
            if not trusted and (entry & np.uint32(NOT_NFC_BIT) or (ccc and ccc < last_ccc)):
                result = NEEDS_NFC
                break
            last_ccc = ccc
            for part in range(MAX_FOLD):
                one = entry
                if entry & np.uint32(MULTI_BIT):
                    one = multi[entry & np.uint32(CODEPOINT_MASK), part]
                    if one == 0:
                        break
                elif part:
                    break
                kind = one >> np.uint32(CLASS_SHIFT) & np.uint32(3)
                if kind == SEPARATOR:
                    out[at] = _SPACE
                    at += before != SEPARATOR
                    before = np.uint32(SEPARATOR)
                    continue
                if before == SEPARATOR or kind == SOLO or (kind == LETTER and before == SOLO):
                    out[at] = _SPACE
                    at += before != SEPARATOR
                    count += 1
                at = _encode(one & np.uint32(CODEPOINT_MASK), out, at)
                if kind != MARK or before == SEPARATOR:
                    before = kind
        if before == SEPARATOR and count:
            at -= 1  # the space behind the last word
        if result == DONE and count == 0:
            result = NO_WORDS
        if result != DONE:
            at = begin_out
            count = 0
        state[document] = result
        n_words[document] = count
        out_offsets[document + 1] = at


@_inlined
def _fmix64(value):  # type: ignore[no-untyped-def]
    value ^= value >> _U33
    value *= _MIX_A
    value ^= value >> _U33
    value *= _MIX_B
    return value ^ value >> _U33


@_inlined
def _token(value):  # type: ignore[no-untyped-def]
    """datasketch's first mix of the 32-bit token hash: MurmurHash3's 32-bit finaliser."""
    value = np.uint32(value & _LOW)
    value ^= value >> np.uint32(16)
    value = np.uint32(value * np.uint32(0x85EBCA6B))
    value ^= value >> np.uint32(13)
    value = np.uint32(value * np.uint32(0xC2B2AE35))
    return value ^ value >> np.uint32(16)


@_inlined
def _hash_words(text, words):  # type: ignore[no-untyped-def]
    """FNV-1a of each word of a normalised document. No branch a byte, as in `_ascii_run`."""
    word, at = _OFFSET, np.uint64(0)
    for position in range(len(text)):
        ends = text[position] == _SPACE
        words[at] = word
        at += np.uint64(ends)
        word = _OFFSET if ends else (word ^ np.uint64(text[position])) * _PRIME
    words[at] = word


@compile_loop
def hash_shingles(text, offsets, n_words, ngram, hashes, hash_offsets):  # type: ignore[no-untyped-def]
    """The 64-bit hash of every shingle of every document, in text order, repeats kept.

    Args:
        text: uint8, normalised documents (words joined by one space).
        offsets: int64 [n + 1] into `text`.
        n_words: int64 [n].
        ngram: Words of a shingle.
        hashes: uint64 [hash_offsets[n]], filled.
        hash_offsets: int64 [n + 1]: a document has max(1, n_words - ngram + 1) shingles.
    """
    words = np.empty(n_words.max() + 1 if len(n_words) else 0, dtype=np.uint64)
    for document in range(len(offsets) - 1):
        count = n_words[document]
        _hash_words(text[offsets[document] : offsets[document + 1]], words)
        for k in range(count):
            words[k] = _fmix64(words[k])
        found = hashes[hash_offsets[document] : hash_offsets[document + 1]]
        found[:] = np.uint64(0)
        width = min(ngram, count)
        # Horner's rule, a term of all shingles at a time: such loops become vector instructions.
        for term in range(width):
            for k in range(len(found)):
                found[k] = found[k] * _FACTOR + words[k + term]
        length = np.uint64(width) * _LENGTH
        for k in range(len(found)):
            found[k] = _fmix64(found[k] + length)


@compile_loop
def sign(hashes, hash_offsets, a, b, signatures):  # type: ignore[no-untyped-def]
    """MinHash signatures of documents from their shingle hashes.

    Args:
        hashes: uint64, all shingle hashes; the low 32 bits are the token hash.
        hash_offsets: int64 [n + 1].
        a: uint32 [num_perm], multipliers.
        b: uint32 [num_perm], summands.
        signatures: uint32 [n, num_perm], filled.
    """
    for document in range(len(hash_offsets) - 1):
        row = signatures[document]
        row[:] = np.uint32(0xFFFFFFFF)
        last = hash_offsets[document + 1] - 1
        # Four at a time, so that row, a and b are loaded once for four; the last may repeat.
        for i in range(hash_offsets[document], last + 1, 4):
            t = _token(hashes[i])
            u = _token(hashes[min(i + 1, last)])
            v = _token(hashes[min(i + 2, last)])
            w = _token(hashes[min(i + 3, last)])
            for j in range(len(a)):
                tu = min(np.uint32(a[j] * t + b[j]), np.uint32(a[j] * u + b[j]))
                vw = min(np.uint32(a[j] * v + b[j]), np.uint32(a[j] * w + b[j]))
                row[j] = min(row[j], min(tu, vw))


@compile_loop
def interleave(first, first_offsets, second, second_offsets, where, out, out_offsets):  # type: ignore[no-untyped-def]
    """Merge two sets of buffers: document i is `second`'s number where[i], or `first`'s when -1."""
    at = 0
    out_offsets[0] = 0
    for document in range(len(where)):
        if where[document] < 0:
            begin, end = first_offsets[document], first_offsets[document + 1]
            out[at : at + end - begin] = first[begin:end]
        else:
            begin, end = second_offsets[where[document]], second_offsets[where[document] + 1]
            out[at : at + end - begin] = second[begin:end]
        at += end - begin
        out_offsets[document + 1] = at
