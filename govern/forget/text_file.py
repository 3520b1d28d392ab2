"""Which documents of a manifest hold a given text: the same words, or enough of the same shingles.

A manifest holds no text. The same text is recognised by its digest; a similar one by its signature
and then by exact Jaccard similarity on the stored shingle sets, so the corpus may be gone. Being
similar is for a person to judge: nothing but the same words is selected unless a least similarity
was asked for.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from manifests import Manifest, queries
from manifests.errors import InputError, SelectionError

if TYPE_CHECKING:
    import pyarrow as pa

    from govern.ids.shingle import Sketches

# A signature of n values estimates a similarity J with a standard deviation of sqrt(J(1-J)/n);
# five of them leave out one true match in a few million.
_DEVIATIONS = 5
_HINT_FROM = 0.05
_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class TextMatch:
    """A document near to the text.

    Attributes:
        row: Its row in `documents`.
        source, doc_id: Its name.
        jaccard: Exact Jaccard similarity of the two shingle sets.
        same: Whether both are the same words in the same order.
    """

    row: int
    source: str
    doc_id: str
    jaccard: float
    same: bool


def documents_with_text(
    manifest: Manifest, path: Path, min_similarity: float | None = None
) -> tuple[pa.Table, list[str]]:
    """The documents that hold the text of a file, or nearly.

    Args:
        manifest: The manifest; its corpus is not read.
        path: A UTF-8 text file.
        min_similarity: Least Jaccard similarity (0 to 1) of further documents; None selects only
            those with the same words in the same order.

    Returns:
        Columns source, doc_id and sequence_id of these documents, and one note for each of the
        nearest that says how near.

    Raises:
        SelectionError: There is none; the message shows what is similar and how to ask for it.
        InputError: The file is not UTF-8 text.
        ManifestError: A similar text is looked for in a manifest without comparable shingle sets.
    """
    text = _read(path)
    exact = queries.find_sha256(manifest, hashlib.sha256(text.encode()).digest())
    columns = ["source", "doc_id", "sequence_id"]
    if exact.num_rows and min_similarity is None:
        return exact.select(columns), [f"the text of {path} is found word for word"]
    threshold = float(manifest.parameters["threshold"])
    matches = _similar(manifest, text, threshold if min_similarity is None else min_similarity)
    if min_similarity is None:
        chosen = [match for match in matches if match.same]
    else:
        chosen = [match for match in matches if match.jaccard >= min_similarity]
    if not chosen:
        raise _not_found(path, matches, threshold, min_similarity)
    rows = manifest.table("documents", columns).take([match.row for match in chosen])
    notes = [f"similarity {m.jaccard:.3f} to {m.source}/{m.doc_id}" for m in chosen[:_SHOWN]]
    return rows, notes


def _read(path: Path) -> str:
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        found = "bytes that are not UTF-8" if isinstance(error, ValueError) else error.strerror
        raise _unusable(path, "a UTF-8 text file", found or "an unreadable file") from None
    if not text.strip():
        raise _unusable(path, "some text", "nothing but white space")
    return text


def _similar(manifest: Manifest, text: str, least: float) -> list[TextMatch]:
    """Documents whose signature allows `least`, and the nearest in any case, nearest first."""
    import numpy as np

    from govern.ids.rules import require_shingles
    from govern.ids.search import rows_like, sketch_for

    require_shingles(manifest)
    sketched = sketch_for(manifest, text)
    count = int(manifest.parameters["num_perm"])
    slack = _DEVIATIONS * math.sqrt(least * (1 - least) / count)
    rows, estimates = rows_like(manifest, sketched, min(_HINT_FROM, least - slack))
    wanted = np.flatnonzero(estimates >= least - slack)
    if not len(rows):
        return []
    if not len(wanted):
        wanted = np.array([int(estimates.argmax())])
    return _measured(manifest, sketched, rows[wanted].tolist())


def _measured(manifest: Manifest, sketched: Sketches, rows: list[int]) -> list[TextMatch]:
    """Exact Jaccard to the documents of these rows, nearest first."""
    import numpy as np

    from govern.ids.sets import stored_sets
    from govern.ids.stored import first_rows

    own, words = np.unique(sketched.hashes), sketched.content[0].tobytes()
    shingles = manifest.table("shingles", ["text", "content"])
    text_of = shingles["text"].to_numpy()
    content = shingles["content"].take(rows).to_pylist()
    standing = first_rows(text_of)[text_of[rows]]
    ascending = np.unique(standing)
    jaccard: dict[int, float] = {}
    for places, sets in stored_sets(manifest, ascending):
        for place, begin, size in zip(places, sets.begins, sets.sizes, strict=True):
            both = len(np.intersect1d(own, sets.values[begin : begin + size], assume_unique=True))
            jaccard[int(ascending[place])] = both / (len(own) + int(size) - both)
    names = manifest.table("documents", ["source", "doc_id"]).take(rows).to_pylist()
    found = [
        TextMatch(row=row, jaccard=jaccard[int(first)], same=bytes(digest) == words, **name)
        for row, first, digest, name in zip(rows, standing, content, names, strict=True)
    ]
    return sorted(found, key=lambda m: (-m.jaccard, m.source, m.doc_id))


def _not_found(
    path: Path, matches: list[TextMatch], threshold: float, asked: float | None
) -> SelectionError:
    near = [match for match in matches if match.jaccard >= threshold]
    if asked is None and near:
        least = math.floor(100 * near[-1].jaccard) / 100
        return SelectionError(
            f"--text-file {path}",
            expected="a text with the same words as a document",
            found=f"{len(near)} similar ones: {_named(near)}",
            remedy=f"--min-similarity {least:.2f} selects these; or give the text as it was",
        )
    wanted = threshold if asked is None else asked
    return SelectionError(
        f"--text-file {path}",
        expected=f"a document with similarity {wanted:g} or more",
        found=f"at best {_named(matches[:1])}" if matches else "none that is near",
        remedy="give the text as it stood in the corpus, or select that document with --doc-id",
    )


def _named(matches: Iterable[TextMatch]) -> str:
    shown = list(matches)
    names = [f"{m.jaccard:.3f} {m.doc_id[:80]!r} of source {m.source[:80]!r}" for m in shown[:3]]
    return ", ".join(names) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")


def _unusable(path: Path, expected: str, found: str) -> InputError:
    return InputError(
        f"--text-file {path}",
        expected=expected,
        found=found,
        remedy="give the text to forget as a plain text file",
    )
