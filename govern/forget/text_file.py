"""Which documents of a manifest hold a given text: exact digest, then MinHash and exact Jaccard.

A manifest holds no text. Candidates come from the stored signatures alone; that a candidate is
near enough is decided by the exact Jaccard similarity of its text, read again from the corpus that
the manifest names and recognised there by its digest.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from manifests import Manifest, queries
from manifests.errors import InputError, SelectionError

if TYPE_CHECKING:
    import pyarrow as pa

# A signature of n values estimates a similarity J with a standard deviation of sqrt(J(1-J)/n);
# five of them leave out one true match in a few million.
_DEVIATIONS = 5
_HINT_FROM = 0.05
_Key = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class TextMatch:
    """A document near to the text, with the exact Jaccard similarity of their shingle sets."""

    source: str
    doc_id: str
    jaccard: float


def documents_with_text(manifest: Manifest, path: Path) -> tuple[pa.Table, list[str]]:
    """The documents that hold the text of a file, or nearly.

    Args:
        manifest: The manifest; its corpus must still be readable unless the text is found exactly.
        path: A UTF-8 text file.

    Returns:
        Rows of `documents` whose similarity to the text is at least the manifest's threshold, and
        one note a row (the twelve nearest) that says how near.

    Raises:
        SelectionError: No document is near enough; names the nearest.
        InputError: The file is not UTF-8 text, or the corpus cannot be read.
    """
    text = _read(path)
    exact = queries.find_sha256(manifest, hashlib.sha256(text.encode()).digest())
    if exact.num_rows:
        return exact, ["the text is found word for word"]
    threshold = float(manifest.parameters["threshold"])
    matches = _verified(manifest, text, _candidates(manifest, text, threshold))
    near = [match for match in matches if match.jaccard >= threshold]
    if not near:
        raise _not_found(manifest, path, matches[:1], threshold)
    notes = [f"similarity {m.jaccard:.3f} to {m.source}/{m.doc_id}" for m in near[:12]]
    return _rows(manifest, near), notes


def _read(path: Path) -> str:
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        found = "bytes that are not UTF-8" if isinstance(error, ValueError) else error.strerror
        raise InputError(
            f"--text-file {path}",
            expected="a UTF-8 text file",
            found=found or "an unreadable file",
            remedy="give the text to forget as a plain text file",
        ) from None
    if not text.strip():
        raise InputError(
            f"--text-file {path}",
            expected="some text",
            found="nothing but white space",
            remedy="give the text to forget as a plain text file",
        )
    return text


def _candidates(manifest: Manifest, text: str, threshold: float) -> list[_Key]:
    """Documents whose signature allows the threshold; the nearest one in any case."""
    import numpy as np
    import pyarrow as pa

    from govern.ids.minhash import permutations
    from govern.ids.shingle import sketch

    known = manifest.parameters
    count = int(known["num_perm"])
    found = sketch(
        pa.array([text], pa.large_string()),
        ngram=int(known["ngram"]),
        permutations=permutations(count, int(known["seed"])),
    )
    table = manifest.table("signatures")
    raw = table["signature"].combine_chunks()
    if not len(raw):
        return []
    data = np.frombuffer(raw.buffers()[1], dtype="<u4")
    stored = data[count * raw.offset : count * (raw.offset + len(raw))].reshape(-1, count)
    estimates = (stored == found.signatures[0]).mean(axis=1)
    slack = _DEVIATIONS * (threshold * (1 - threshold) / count) ** 0.5
    rows = set(np.flatnonzero(estimates >= threshold - slack).tolist())
    if estimates.max() >= _HINT_FROM:
        rows.add(int(estimates.argmax()))
    chosen = table.take(sorted(rows))
    return list(zip(chosen["source"].to_pylist(), chosen["doc_id"].to_pylist(), strict=True))


def _verified(manifest: Manifest, text: str, candidates: list[_Key]) -> list[TextMatch]:
    """Exact Jaccard to every candidate, nearest first."""
    from govern.ids.reference import jaccard, shingles
    from govern.ids.texts import read_texts

    wanted = set(candidates)
    if not wanted:
        return []
    ngram = int(manifest.parameters["ngram"])
    own, found = set(shingles(text, ngram)), []
    for batch in read_texts(manifest):
        columns = (batch.column(name) for name in ("source", "doc_id", "text"))
        for source, doc_id, other in zip(*columns, strict=True):
            key = (source.as_py(), doc_id.as_py())
            if key in wanted:
                similarity = jaccard(own, set(shingles(other.as_py(), ngram)))
                found.append(TextMatch(source=key[0], doc_id=key[1], jaccard=similarity))
    return sorted(found, key=lambda m: (-m.jaccard, m.source, m.doc_id))


def _rows(manifest: Manifest, matches: list[TextMatch]) -> pa.Table:
    import pyarrow as pa

    tables = [queries.find_document(manifest, m.doc_id, m.source) for m in matches]
    return pa.concat_tables(tables)


def _not_found(
    manifest: Manifest, path: Path, nearest: list[TextMatch], threshold: float
) -> SelectionError:
    hint = "none that is near"
    if nearest:
        match = nearest[0]
        hint = f"at best {match.jaccard:.3f}, {match.doc_id[:80]!r} of source {match.source[:80]!r}"
    return SelectionError(
        f"--text-file {path}",
        expected=f"a document of manifest {manifest.path} with similarity {threshold:g} or more",
        found=hint,
        remedy="give the text as it stood in the corpus, or select that document with --doc-id",
    )
