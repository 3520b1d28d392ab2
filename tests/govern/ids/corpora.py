"""Corpora for tests: planted families, and writers of input files."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORDS = [
    "".join(syllables)
    for syllables in zip(
        *[
            random.Random(k).choices(["ba", "ko", "ri", "tu", "me", "sol"], k=3000)
            for k in range(3)
        ],
        strict=True,
    )
]


def prose(seed: int, n_words: int = 80) -> str:
    """A text of random words; two seeds share next to no five-word shingle."""
    return " ".join(random.Random(seed).choices(WORDS, k=n_words))


def edited(text: str, edits: int, seed: int) -> str:
    """The text with `edits` words replaced, each costing up to five shingles."""
    words = text.split(" ")
    chooser = random.Random(seed)
    for at in chooser.sample(range(len(words)), edits):
        words[at] = f"edit{seed}x{at}"
    return " ".join(words)


def planted(families: int = 12, singles: int = 20) -> list[dict[str, Any]]:
    """Families of exact copies, re-cased copies and light edits, and texts without a double."""
    records = []
    for family in range(families):
        base = prose(family)
        variants = [base, base, base.upper(), base + "!", edited(base, 1, family), base]
        for member, text in enumerate(variants[: 2 + family % 5]):
            records.append({"id": f"f{family}-{member}", "text": text, "owner": f"o{family}"})
    records += [{"id": f"s{k}", "text": prose(1000 + k), "owner": None} for k in range(singles)]
    return records


def write_jsonl(path: Path, records: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(json.dumps(record).encode() + b"\n" for record in records))
    return path


def tree_bytes(directory: Path) -> dict[str, bytes]:
    """Every file of a manifest but the lock, by relative name."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
