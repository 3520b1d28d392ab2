"""The sequence ID: derive, print, parse.

A sequence ID is a positive 63-bit integer, so that it fits a signed int64 column everywhere; 0
means "no sequence". It is derived from content alone, so the same cluster has the same ID whatever
the order of files, the number of threads or the machine.
"""

from __future__ import annotations

import hashlib
import re

from manifests.errors import InputError

NO_SEQUENCE = 0
_PATTERN = re.compile(r"(?:sq-)?([0-9a-f]{16})")
_DOMAIN = b"memsinks-govern sequence id v1\x00"


def derive(content_hash: bytes, generation: int = 0) -> int:
    """The sequence ID of the cluster whose founding representative has `content_hash`.

    Args:
        content_hash: SHA-256 of the representative's normalised text, 32 bytes.
        generation: How many IDs of this text are taken: an ID that became an alias is not given
            again when its text founds a cluster once more.

    Returns:
        The first 63 bits of SHA-256(domain || content_hash), never 0; behind it, in a later
        generation, its number as four bytes, big-endian.
    """
    suffix = generation.to_bytes(4, "big") if generation else b""
    digest = hashlib.sha256(_DOMAIN + content_hash + suffix).digest()
    return int.from_bytes(digest[:8], "big") >> 1 or 1


def format_id(sequence_id: int) -> str:
    """Print an ID as `sq-` and 16 hex digits; `parse_id` is its inverse."""
    return f"sq-{sequence_id:016x}"


def parse_id(text: str) -> int:
    """Read an ID in the printed form, or as a decimal integer as SQL prints it.

    Raises:
        InputError: The text is neither, or is out of range.
    """
    match = _PATTERN.fullmatch(text.strip().lower())
    if match and (text.strip().lower().startswith("sq-") or not text.strip().isdecimal()):
        value = int(match[1], 16)
    elif text.strip().isdecimal():
        value = int(text)
    else:
        value = 0
    if not 0 < value < 2**63:
        raise InputError(
            f"sequence ID {text!r}",
            expected="sq- and 16 hex digits, or a decimal integer below 2^63",
            found="something else",
            remedy="copy the ID from `govern manifest find` or `govern manifest query`",
        )
    return value
