"""First stage: read the corpus once, and keep on disk what the later stages need.

Text passes through and is not kept. Batches are sketched by worker threads (the kernel and the
hashes release the GIL) and written in order, as parts (`parts`): what was read is not read again
when an interrupted build goes on.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from govern.ids.corpus import BEGINNING, CorpusBatch, ReadOptions, read_files
from govern.ids.distinct import distinct_hashes
from govern.ids.inputs import CorpusFile
from govern.ids.minhash import Permutations
from govern.ids.names import Names
from govern.ids.parts import (
    PARTS_NAME,
    Part,
    PartWriter,
    Piece,
    Task,
    all_parts,
    plan_tasks,
    published,
)
from govern.ids.shingle import digests, sketch, text_buffers
from govern.ids.store import ArrayFile, ChunkedRows, DocumentStore
from manifests.schema import SHA256

# Columns of a working file that are no columns of a document.
COMPUTED = ("key", "content", "signature", "hashes")

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """The corpus after one pass; row i of every array is document i in reading order.

    Attributes:
        documents: source, doc_id, uri, row, start, end, n_bytes, n_words, sha256 and kept columns.
        names: source and doc_id once more, for looking up many.
        rejects: Columns of `manifests.schema.REJECTS`.
        keys: uint64 [n, 2], BLAKE2b-128 of (source, doc_id): identity without the strings.
        content: uint64 [n, 4], SHA-256 of the normalised text as big-endian words.
        signatures: uint32 [n, num_perm].
        hashes: For each batch of documents: uint64, the shingle sets (sorted distinct hashes), and
            int64 [documents + 1], where each document's begins.
        kinds: Per kept column, the JSON kinds that were seen.
        text_bytes: Bytes of text of all documents.
    """

    documents: DocumentStore
    names: Names
    rejects: pa.Table
    keys: npt.NDArray[np.uint64]
    content: npt.NDArray[np.uint64]
    signatures: ChunkedRows
    hashes: tuple[tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]], ...]
    kinds: tuple[frozenset[str], ...]
    text_bytes: int


def ingest(
    files: Sequence[CorpusFile],
    options: ReadOptions,
    directory: Path,
    *,
    ngram: int,
    permutations: Permutations,
    workers: int,
    advance: Callable[[int], None],
    durable: bool = False,
) -> Ingested:
    """Read, sketch and store a corpus; what is in `directory` from before is not done again.

    Args:
        files: The corpus.
        options: How records are read.
        directory: The folder for the working files.
        ngram: Words of a shingle.
        permutations: Coefficients of the signatures.
        workers: Threads.
        advance: Called with the bytes of text of each batch that is done.
        durable: Whether parts that were read must outlive the machine's power.
    """
    folder = directory / PARTS_NAME
    tasks = plan_tasks(files)

    def work(item: tuple[Task, CorpusBatch]) -> Piece:
        return sketched(*item, ngram, permutations)

    with PartWriter(folder, durable=durable) as writer, ThreadPoolExecutor(workers) as pool:
        missing = missing_batches(tasks, folder, options, advance)
        for piece in ordered_map(pool, work, missing, workers):
            writer.add(piece)
            advance(piece.text_bytes)
    return collect(list(all_parts(folder, tasks)), directory, len(permutations.a))


def missing_batches(
    tasks: Sequence[Task], folder: Path, options: ReadOptions, advance: Callable[[int], None]
) -> Iterator[tuple[Task, CorpusBatch]]:
    """The batches of every task behind the parts of it that are there."""
    for task in tasks:
        parts = published(folder, task)
        advance(sum(part.text_bytes for part in parts))
        begin = parts[-1].end if parts else BEGINNING
        if begin is not None:
            for batch in read_files(task.files, options, begin):
                yield task, batch


def collect(parts: Sequence[Part], directory: Path, num_perm: int) -> Ingested:
    """All parts as one.

    Raises:
        IntegrityError: One of them has lost bytes.
    """
    for part in parts:
        part.require_whole()
    documents = DocumentStore([part.path / "documents.arrow" for part in parts], COMPUTED)
    with (
        closing(ArrayFile(directory / "key.u64", np.uint64, 2)) as keys,
        closing(ArrayFile(directory / "content.u64", np.uint64, 4)) as content,
    ):
        for key, sha256 in documents.once("key", "content"):
            keys.append(fixed_rows(key, np.uint64, 2))
            content.append(fixed_rows(sha256, np.uint64, 4))
        arrays = {"keys": keys.finish(), "content": content.finish()}
    return Ingested(
        **arrays,
        documents=documents,
        names=Names(documents.once("source", "doc_id"), directory),
        rejects=pa.concat_tables(part.rejects() for part in parts),
        signatures=ChunkedRows(
            [fixed_rows(c, np.uint32, num_perm) for c in documents.column("signature")],
            np.uint32,
            num_perm,
            documents.leave,
        ),
        hashes=values_and_offsets(documents),
        kinds=tuple(
            frozenset().union(*seen) for seen in zip(*(part.kinds for part in parts), strict=True)
        ),
        text_bytes=sum(part.text_bytes for part in parts),
    )


def values_and_offsets(
    documents: DocumentStore,
) -> tuple[tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]], ...]:
    """The shingle sets of each batch, where they lie: `Ingested.hashes`."""
    return tuple(
        (column.values.to_numpy(), column.offsets.to_numpy())
        for column in documents.column("hashes")
    )


def fixed_rows(column: pa.Array, dtype: Any, width: int) -> npt.NDArray[Any]:
    """The rows of an array of fixed-size binary, without copying them."""
    values = np.frombuffer(column.buffers()[1], dtype=dtype, count=len(column) * width)
    return values.reshape(-1, width)


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


def sketched(task: Task, batch: CorpusBatch, ngram: int, permutations: Permutations) -> Piece:
    """A batch of a task with keys, content hashes, signatures and shingle sets for its text."""
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
    keys = document_keys(documents["source"], documents["doc_id"])
    content = sketches.content.view(">u8").astype(np.uint64)
    columns["key"] = fixed_binary(keys, pa.binary(16))
    columns["content"] = fixed_binary(content, pa.binary(32))
    columns["signature"] = fixed_binary(sketches.signatures, pa.binary(4 * len(permutations.a)))
    sets, bounds = distinct_hashes(sketches.hashes, sketches.hash_offsets)
    columns["hashes"] = pa.LargeListArray.from_arrays(pa.array(bounds), pa.array(sets))
    return Piece(
        task=task,
        documents=pa.record_batch(columns),
        rejects=batch.rejects,
        kinds=batch.kinds,
        text_bytes=int(offsets[-1]),
        end=batch.end,
    )


def fixed_binary(rows: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """An array of fixed-size binary from the rows of a contiguous array."""
    data = np.ascontiguousarray(rows)
    return pa.Array.from_buffers(kind, len(data), [None, pa.py_buffer(data)])
