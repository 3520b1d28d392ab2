"""Unicode tables of the text rule, derived from Python's own `unicodedata`.

One 32-bit entry per code point, so that the compiled kernel decides with one load:

    bits  0-20  the case-folded code point, or a row of `multi` when bit 23 is set
    bits 21-22  class of the code point: SEPARATOR, LETTER, SOLO or MARK
    bit  23     case folding gives several code points
    bit  24     the text may not be in NFC because of this code point (quick check: No or Maybe)
    bits 26-31  rank of the canonical combining class, 0 for class 0

A character is part of a word when its general category is a letter (L*), number (N*) or mark (M*).
Scripts written without spaces between words (`SOLO_RANGES`) give one token per character.
Sources: UAX 15 section 9 (NFC quick check), Unicode standard 3.13 (case folding).
"""

from __future__ import annotations

import functools
import itertools
import unicodedata
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SEPARATOR, LETTER, SOLO, MARK = 0, 1, 2, 3
CLASS_SHIFT = 21
MULTI_BIT = 1 << 23
NOT_NFC_BIT = 1 << 24
CCC_SHIFT = 26
CODEPOINT_MASK = (1 << 21) - 1
MAX_FOLD = 3  # the longest full case folding has three code points

# Scripts without spaces between words (Unicode blocks; letters and numbers within them).
SOLO_RANGES = (
    (0x0E00, 0x0E7F),  # Thai
    (0x0E80, 0x0EFF),  # Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x3005, 0x3007),  # ideographic iteration mark, closing mark, zero
    (0x3021, 0x3029),  # Hangzhou numerals
    (0x3038, 0x303B),
    (0x3041, 0x312F),  # Hiragana, Katakana, Bopomofo
    (0x31A0, 0x31BF),  # Bopomofo extended
    (0x31F0, 0x31FF),  # Katakana phonetic extensions
    (0x3400, 0x4DBF),  # Han extension A
    (0x4E00, 0x9FFF),  # Han
    (0xA000, 0xA48F),  # Yi
    (0xA9E0, 0xA9FF),  # Myanmar extended B
    (0xAA60, 0xAA7F),  # Myanmar extended A
    (0xAA80, 0xAADF),  # Tai Viet
    (0xF900, 0xFAFF),  # Han compatibility
    (0xFF66, 0xFF9F),  # halfwidth Katakana
    (0x1AFF0, 0x1B16F),  # Kana extensions
    (0x20000, 0x323AF),  # Han extensions B to H
)
# Planes beyond these hold nothing assigned, or private use: separators that fold to themselves.
_SCANNED = ((0, 0xD800), (0xE000, 0x34000), (0xE0000, 0xE01F0))


@dataclass(frozen=True, kw_only=True)
class CodepointTables:
    """`packed` uint32 [0x110000]; `multi` uint32 [rows, MAX_FOLD], code point | class, 0 = end."""

    packed: npt.NDArray[np.uint32]
    multi: npt.NDArray[np.uint32]


def character_class(character: str) -> int:
    """SEPARATOR, LETTER, SOLO or MARK."""
    kind = unicodedata.category(character)[0]
    if kind == "M":
        return MARK
    if kind not in "LN":
        return SEPARATOR
    code = ord(character)
    return SOLO if any(first <= code <= last for first, last in SOLO_RANGES) else LETTER


def _second_of_compositions(codes: list[int]) -> set[int]:
    """Code points that may compose with the one before: NFC quick check Maybe."""
    seconds = set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))  # Hangul vowels and finals
    for code in codes:
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            seconds.add(int(parts[1], 16))
    return seconds


@functools.lru_cache(maxsize=1)
def tables() -> CodepointTables:
    """The tables of this Python's Unicode version (about 0.3 s, once per process)."""
    packed = np.arange(0x110000, dtype=np.uint32)
    codes = list(itertools.chain.from_iterable(range(first, end) for first, end in _SCANNED))
    maybe = _second_of_compositions(codes)
    ranks = {c: i for i, c in enumerate(sorted({unicodedata.combining(chr(i)) for i in codes}))}
    classes = {code: character_class(chr(code)) for code in codes}
    multi: list[list[int]] = []
    for code in codes:
        character = chr(code)
        folded = character.casefold()
        if len(folded) == 1:
            entry = ord(folded) | classes[ord(folded)] << CLASS_SHIFT
        else:
            entry = len(multi) | classes[code] << CLASS_SHIFT | MULTI_BIT
            row = [ord(c) | classes[ord(c)] << CLASS_SHIFT for c in folded]
            multi.append(row + [0] * (MAX_FOLD - len(row)))
        if code in maybe or unicodedata.normalize("NFC", character) != character:
            entry |= NOT_NFC_BIT
        packed[code] = entry | ranks[unicodedata.combining(character)] << CCC_SHIFT
    return CodepointTables(packed=packed, multi=np.array(multi, dtype=np.uint32))


@functools.lru_cache(maxsize=1)
def ascii_table() -> npt.NDArray[np.uint8]:
    """uint8 [128]: the folded byte of a word character, a space for a separator."""
    return np.array(
        [ord(chr(i).lower()) if chr(i).isalnum() else 32 for i in range(128)], dtype=np.uint8
    )
