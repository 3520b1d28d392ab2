"""Find a text in a manifest: by its digest, else by its signature.

Without the corpus the similarity of a near-duplicate can only be estimated: the share of equal
signature values is an unbiased estimate of the Jaccard similarity (Broder 1997), with a standard
error of sqrt(J (1 - J) / num_perm), 0.04 at J = 0.7 with 128 values.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from govern.ids.minhash import permutations
from govern.ids.rules import require_rules
from manifests import queries
from manifests.errors import InputError
from manifests.plain_pages import fixed_rows, pages_of
from manifests.reader import Manifest

if TYPE_CHECKING:
    from govern.ids.shingle import Sketches
    from govern.ids.store import Indices


@dataclass(frozen=True, kw_only=True)
class Found:
    """A sequence that has the text.

    Attributes:
        sequence_id: The sequence.
        similarity: 1 for the same text, else the greatest estimate among its documents.
        exact: Whether a document has exactly this text.
    """

    sequence_id: int
    similarity: float
    exact: bool


def find_text(manifest: Manifest, data: bytes, *, what: str = "text") -> list[Found]:
    """Sequences that hold a text or a near-duplicate of it, most similar first.

    Args:
        manifest: The manifest.
        data: The text in UTF-8.
        what: How an error names it.

    Raises:
        InputError: Not UTF-8, or nothing but white space.
        ManifestError: The manifest's signatures were made by other rules than this release's.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _unusable(what, str(error)) from None
    if not text.strip():
        raise _unusable(what, "nothing but white space")
    same = queries.find_sha256(manifest, hashlib.sha256(data).digest())
    exact = set(same["sequence_id"].to_pylist())
    best = dict.fromkeys(exact, 1.0)
    similar = _similar(manifest, text)
    for sequence_id, similarity in similar:
        best[sequence_id] = max(best.get(sequence_id, 0.0), similarity)
    return [
        Found(sequence_id=i, similarity=s, exact=i in exact)
        for i, s in sorted(best.items(), key=lambda item: (item[0] not in exact, -item[1], item[0]))
    ]


def sketch_for(manifest: Manifest, text: str) -> Sketches:
    """Shingle hashes and signature of one text, comparable with those that the manifest stores.

    Raises:
        ManifestError: They were made by other rules than this release's.
    """
    from govern.ids.shingle import sketch

    require_rules(manifest)
    known = manifest.parameters
    return sketch(
        pa.array([text], pa.large_string()),
        ngram=known["ngram"],
        permutations=permutations(known["num_perm"], known["seed"]),
    )


def rows_like(
    manifest: Manifest, sketched: Sketches, least: float
) -> tuple[Indices, npt.NDArray[np.float64]]:
    """Rows of `documents`, ascending, whose estimated similarity is at least this, and it."""
    rows, estimates = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    for page in pages_of(manifest, "signatures", "signature"):
        estimate = (fixed_rows(page, "<u4") == sketched.signatures[0]).mean(axis=1)
        hits = np.flatnonzero(estimate >= least)
        rows.append(page.first + hits)
        estimates.append(estimate[hits])
    return np.concatenate(rows), np.concatenate(estimates)


def rows_near(
    manifest: Manifest, sketched: Sketches, least: float
) -> tuple[Indices, npt.NDArray[np.float64]]:
    """Those of `rows_like` that share a band, as two documents must to be compared in a build.

    Of all other rows only the halves of the band keys are read. At the manifest's threshold a row
    is missed as seldom as a pair is in a build.
    """
    from govern.ids.lsh import band_halves
    from govern.ids.minhash import Banding
    from govern.ids.stored import signature_rows

    known = manifest.parameters
    banding = Banding(bands=known["bands"], rows=known["rows"])
    halves = band_halves(sketched.signatures, banding)[0]
    found = [np.zeros(0, dtype=np.int64)]
    for page in pages_of(manifest, "signatures", "bands"):
        shared = (fixed_rows(page, "<u4") == halves).any(axis=1)
        found.append(page.first + np.flatnonzero(shared))
    rows = np.concatenate(found)
    if not len(rows):
        return rows, np.zeros(0)
    estimates = (signature_rows(manifest)[rows] == sketched.signatures[0]).mean(axis=1)
    near = estimates >= least
    return rows[near], estimates[near]


def _similar(manifest: Manifest, text: str) -> list[tuple[int, float]]:
    """(sequence ID, estimated similarity) of documents whose estimate reaches the threshold."""
    rows, estimates = rows_near(
        manifest, sketch_for(manifest, text), manifest.parameters["threshold"]
    )
    return list(zip(_sequence_ids(manifest, rows).tolist(), estimates.tolist(), strict=True))


def _sequence_ids(manifest: Manifest, rows: Indices) -> Indices:
    """The sequence of some rows of `documents`, reading only the files that hold them."""
    import pyarrow.parquet as pq

    from govern.ids.store import split_rows

    ends = np.cumsum([0, *(entry.rows for entry in manifest.index.tables["documents"])])
    ids = np.empty(len(rows), dtype=np.int64)
    for file, places, within in split_rows(rows, ends):
        found = pq.read_table(manifest.files("documents")[file], columns=["sequence_id"])
        ids[places] = found["sequence_id"].to_numpy()[within]
    return ids


def _unusable(what: str, found: str) -> InputError:
    return InputError(
        what, expected="text in UTF-8", found=found, remedy="give a file with the document's text"
    )
