"""What builds and additions refuse alike."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from manifests.errors import InputError

_MOST_TEXTS = 1 << 32


def require_within(option: str, value: float, low: float, high: float) -> None:
    """Refuse an option's value outside its range.

    Raises:
        InputError: It is outside.
    """
    if not low <= value <= high:
        raise InputError(
            f"{option} {value}",
            expected=f"a number from {low} to {high}",
            found="one outside",
            remedy="choose one within",
        )


def require_documents(rejects: pa.Table, n_documents: int) -> None:
    """Refuse a corpus without any usable record.

    Raises:
        InputError: There is none; names the most frequent reason.
    """
    if n_documents:
        return
    found = "no records"
    if rejects.num_rows:
        reason = Counter(rejects["reason"].to_pylist()).most_common(1)[0][0]
        found = f"{rejects.num_rows} records, none usable (most often {reason})"
    raise InputError(
        "corpus",
        expected="at least one record with text",
        found=found,
        remedy="check --text-field, and that these are the right files",
    )


def require_countable(texts: int, remedy: str) -> None:
    """Refuse more texts than the 32 bits have numbers in which pairs are packed.

    Raises:
        InputError: There are more.
    """
    if texts > _MOST_TEXTS:
        raise InputError(
            "corpus",
            expected=f"at most {_MOST_TEXTS:,} distinct texts",
            found=f"{texts:,}",
            remedy=remedy,
        )
