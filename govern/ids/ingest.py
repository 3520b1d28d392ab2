"""First stage: read the corpus once, and keep on disk what the later stages need.

Text passes through and is not kept. Batches are sketched by worker threads (the kernel and the
hashes release the GIL) and appended in order.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from govern.ids.corpus import CorpusBatch
from govern.ids.minhash import Permutations
from govern.ids.shingle import Sketches, digests, sketch, text_buffers
from govern.ids.store import ArrayFile, DocumentStore
from manifests.schema import SHA256

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """The corpus after one pass; row i of every array is document i in reading order.

    Attributes:
        documents: source, doc_id, uri, row, start, end, n_bytes, n_words, sha256 and kept columns.
        rejects: Columns of `manifests.schema.REJECTS`.
        keys: uint64 [n, 2], BLAKE2b-128 of (source, doc_id): identity without the strings.
        content: uint64 [n, 4], SHA-256 of the normalised text as big-endian words.
        signatures: uint32 [n, num_perm].
        hashes: uint64, shingle hashes, repeats kept.
        hash_offsets: int64 [n + 1] into `hashes`.
        kinds: Per kept column, the JSON kinds that were seen.
        text_bytes: Bytes of text of all documents.
    """

    documents: DocumentStore
    rejects: pa.Table
    keys: npt.NDArray[np.uint64]
    content: npt.NDArray[np.uint64]
    signatures: npt.NDArray[np.uint32]
    hashes: npt.NDArray[np.uint64]
    hash_offsets: npt.NDArray[np.int64]
    kinds: tuple[frozenset[str], ...]
    text_bytes: int


@dataclass(frozen=True, kw_only=True)
class _Sketched:
    documents: pa.RecordBatch
    rejects: pa.RecordBatch
    kinds: tuple[frozenset[str], ...]
    keys: npt.NDArray[np.uint64]
    sketches: Sketches


def ingest(
    batches: Iterable[CorpusBatch],
    directory: Path,
    *,
    ngram: int,
    permutations: Permutations,
    workers: int,
    advance: Callable[[int], None],
) -> Ingested:
    """Read, sketch and store a corpus.

    Args:
        batches: The corpus.
        directory: An empty directory for the working files.
        ngram: Words of a shingle.
        permutations: Coefficients of the signatures.
        workers: Threads.
        advance: Called with the bytes of text of each batch that is done.
    """
    num_perm = len(permutations.a)
    with ExitStack() as stack:
        documents = DocumentStore(directory / "documents.arrow")
        files = {
            "keys": ArrayFile(directory / "keys.u64", np.uint64, 2),
            "content": ArrayFile(directory / "content.u64", np.uint64, 4),
            "signatures": ArrayFile(directory / "signatures.u32", np.uint32, num_perm),
            "hashes": ArrayFile(directory / "hashes.u64", np.uint64),
            "counts": ArrayFile(directory / "counts.i64", np.int64),
        }
        for file in files.values():
            stack.callback(file.close)
        rejects: list[pa.RecordBatch] = []
        kinds: list[set[str]] = []
        text_bytes = 0
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        for done in ordered_map(pool, lambda b: _sketch(b, ngram, permutations), batches, workers):
            documents.append(done.documents)
            rejects.append(done.rejects)
            kinds = kinds or [set() for _ in done.kinds]
            for seen, new in zip(kinds, done.kinds, strict=True):
                seen |= new
            files["keys"].append(done.keys)
            files["content"].append(done.sketches.content.view(">u8"))
            files["signatures"].append(done.sketches.signatures)
            files["hashes"].append(done.sketches.hashes)
            files["counts"].append(np.diff(done.sketches.hash_offsets))
            size = int(np.sum(done.documents["n_bytes"].to_numpy()))
            text_bytes += size
            advance(size)
    documents.finish()
    arrays = {name: file.finish() for name, file in files.items()}
    offsets = np.zeros(len(arrays["counts"]) + 1, dtype=np.int64)
    np.cumsum(arrays["counts"], out=offsets[1:])
    return Ingested(
        documents=documents,
        rejects=pa.Table.from_batches(rejects),
        keys=arrays["keys"],
        content=arrays["content"],
        signatures=arrays["signatures"],
        hashes=arrays["hashes"],
        hash_offsets=offsets,
        kinds=tuple(frozenset(seen) for seen in kinds),
        text_bytes=text_bytes,
    )


def ordered_map(
    pool: ThreadPoolExecutor, work: Callable[[_In], _Out], items: Iterable[_In], depth: int
) -> Iterator[_Out]:
    """Like `map` over a pool, in order, with at most `depth` + 1 items in flight."""
    waiting: deque[Future[_Out]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def document_keys(source: pa.Array, doc_id: pa.Array) -> npt.NDArray[np.uint64]:
    """BLAKE2b-128 of each (source, doc_id), uint64 [n, 2]; the order of keys is any but fixed."""
    blake2b = hashlib.blake2b
    raw = b"".join(
        [
            blake2b(f"{len(s)} {s}{d}".encode(), digest_size=16).digest()
            for s, d in zip(source.to_pylist(), doc_id.to_pylist(), strict=True)
        ]
    )
    return np.frombuffer(raw, dtype=">u8").astype(np.uint64).reshape(-1, 2)


def _sketch(batch: CorpusBatch, ngram: int, permutations: Permutations) -> _Sketched:
    documents = batch.documents
    texts = documents["text"]
    sketches = sketch(texts, ngram=ngram, permutations=permutations)
    data, offsets = text_buffers(texts)
    columns: dict[str, Any] = {
        name: documents[name] for name in ("source", "doc_id", "uri", "row", "start", "end")
    }
    columns["n_bytes"] = pa.array(np.diff(offsets))
    columns["n_words"] = pa.array(sketches.n_words)
    columns["sha256"] = fixed_binary(digests(data, offsets), SHA256)
    for name in documents.schema.names:
        if name not in columns and name != "text":
            columns[name] = documents[name]
    return _Sketched(
        documents=pa.record_batch(columns),
        rejects=batch.rejects,
        kinds=batch.kinds,
        keys=document_keys(documents["source"], documents["doc_id"]),
        sketches=sketches,
    )


def fixed_binary(rows: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """An array of fixed-size binary from the rows of a contiguous array."""
    data = np.ascontiguousarray(rows)
    return pa.Array.from_buffers(kind, len(data), [None, pa.py_buffer(data)])
