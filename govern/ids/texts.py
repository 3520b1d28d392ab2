"""The text of a manifest's documents, read again from the corpus and verified: `read_texts`.

A manifest holds no text. A document is found again by the SHA-256 of its text, which is the proof
that it is the same; so the corpus may have been moved, renamed, re-sharded or recompressed. Its
(source, doc_id) only serves to say whether a missing document was changed or is gone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from govern.ids.corpus import ReadOptions, read_files
from govern.ids.ingest import document_keys
from govern.ids.inputs import Inputs, find_inputs
from govern.ids.shingle import digests, text_buffers
from manifests.errors import InputError
from manifests.reader import Manifest

SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
    ]
)


def read_texts(
    manifest: Manifest, inputs: Sequence[str | os.PathLike[str]] | None = None
) -> Iterator[pa.RecordBatch]:
    """Every document of the manifest once, with its text.

    Args:
        manifest: The manifest.
        inputs: Where the corpus is now; by default the files that the manifest recorded.

    Yields:
        Batches with columns source, doc_id string and text large_string, in the order in which
        the texts stand in the corpus; exact copies come together.

    Raises:
        InputError: The corpus cannot be read, or the text of a document is not in it. Raised at
            the end, and naming the first such document; batches before it are right.
    """
    given = [i.uri for s in manifest.snapshots for i in s.inputs] if inputs is None else inputs
    options = _options(manifest)
    found = find_inputs(given, options.source)
    wanted = _Wanted(manifest)
    for batch in read_files(found.files, options):
        if batch.documents.num_rows:
            yield from wanted.match(batch.documents)
    wanted.require_all(given, found)


def _options(manifest: Manifest) -> ReadOptions:
    """How the records were read when the manifest was built."""
    known = manifest.parameters
    return ReadOptions(
        source=known["source"],
        text_field=known["text_field"],
        id_field=known["id_field"],
        max_record_bytes=known["max_record_bytes"],
    )


class _Wanted:
    """The documents of a manifest, found by the digest of their text; each is given once."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._documents = manifest.table("documents", ["source", "doc_id", "sha256"])
        raw = self._documents["sha256"].combine_chunks()
        bytes_ = np.frombuffer(raw.buffers()[1], dtype=np.uint8)
        rows = bytes_[32 * raw.offset : 32 * (raw.offset + len(raw))]
        self._digests = rows.reshape(-1, 32).view("V32").ravel()
        prefixes = _prefix(rows.reshape(-1, 32))
        self._order = np.argsort(prefixes, kind="stable")
        self._prefixes = prefixes[self._order]
        self._given = np.zeros(len(self._digests), dtype=bool)
        self._changed: set[bytes] = set()

    def match(self, documents: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """The manifest's documents whose text is in this batch of the corpus, not yet given."""
        texts = documents["text"]
        found = digests(*text_buffers(texts))
        prefixes = _prefix(found)
        begins = np.searchsorted(self._prefixes, prefixes, "left")
        counts = np.searchsorted(self._prefixes, prefixes, "right") - begins
        # All (record, manifest document) pairs whose digests begin alike.
        record = np.repeat(np.arange(len(counts)), counts)
        within = np.arange(len(record)) - np.repeat(np.cumsum(counts) - counts, counts)
        document = self._order[np.repeat(begins, counts) + within]
        equal = found.view("V32").ravel()[record] == self._digests[document]
        record, document = record[equal], document[equal]
        self._note_strangers(documents, np.setdiff1d(np.arange(len(counts)), record))
        # The same text may stand in the corpus more often than in the manifest, or earlier.
        document, first = np.unique(document, return_index=True)
        record = record[first]
        fresh = ~self._given[document]
        record, document = record[fresh], document[fresh]
        self._given[document] = True
        if len(record):
            order = np.lexsort((document, record))
            named = self._documents.take(pa.array(document[order])).combine_chunks()
            yield pa.RecordBatch.from_arrays(
                [
                    named["source"].combine_chunks(),
                    named["doc_id"].combine_chunks(),
                    texts.take(pa.array(record[order])),
                ],
                schema=SCHEMA,
            )

    def _note_strangers(self, documents: pa.RecordBatch, rows: npt.NDArray[np.int64]) -> None:
        # Texts the manifest does not have: rejected records, new ones, or changed ones.
        if len(rows):
            some = documents.take(pa.array(rows))
            keys = document_keys(some["source"], some["doc_id"])
            self._changed.update(keys[i].tobytes() for i in range(len(keys)))

    def require_all(self, given: Sequence[str | os.PathLike[str]], read: Inputs) -> None:
        """Refuse a corpus that lacks a document."""
        missing = np.flatnonzero(~self._given)
        if not len(missing):
            return
        rows = self._documents.take(pa.array(missing))
        keys = document_keys(rows["source"].combine_chunks(), rows["doc_id"].combine_chunks())
        changed = [i for i in range(len(missing)) if keys[i].tobytes() in self._changed]
        shown = changed[0] if changed else 0
        others = read.other_releases(self._manifest.extractors())
        name = f"{rows['doc_id'][shown].as_py()} of source {rows['source'][shown].as_py()}"
        more = f" (and {len(missing) - 1} more documents)" if len(missing) > 1 else ""
        raise InputError(
            f"document {name}{more}",
            expected=f"its text, as manifest {self._manifest.path} recorded it, in "
            + ", ".join(os.fspath(g) for g in list(given)[:3]),
            found="a changed text" if changed else "no such text",
            remedy=f"install what extracted the text then ({', '.join(others)})"
            if others
            else "give the corpus that the manifest was built from, or build the manifest anew",
        )


def _prefix(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """The first 8 bytes of each digest, uint64."""
    return np.ascontiguousarray(rows[:, :8]).view(np.uint64).ravel()
