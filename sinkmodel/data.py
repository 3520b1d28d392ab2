"""The data order: exposures -> packed micro-batches, as a pure function of content and seed.

An *exposure* is one pass over one document. Exposure k of a sequence with n of them happens at
time (k + r) / n of the training, r keyed by (seed, sequence, k): spread evenly, and independent of
every other sequence. Three streams keep the promises of the policies:

    open     shared, pooled, and the first E exposures of private sequences: packed together, one
             optimizer step each; the shared neurons learn, and the sinks of what is in the batch
    sealed   later exposures of private sequences: packed together; only sinks learn
    strict   every exposure in micro-batches of its own, one sequence alone; only its sinks learn

The open and the sealed stream do not depend on which strict documents exist, and no strict sequence
shares a micro-batch with another: hence `strict` is exact to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from sinkmodel.keyed_hash import keyed_uniform
from sinkmodel.losses import IGNORED
from sinkmodel.recipes import TrainConfig
from sinkmodel.tokens import TokenStore

Stream = Literal["open", "sealed", "strict"]
# Rows that may still take a chunk while packing: more rows pack tighter and reorder further.
_OPEN_ROWS = 16


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `begin:end` of a document (index into the token store)."""

    document: int
    begin: int
    end: int


Row = tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward and backward pass.

    Args:
        stream: Decides what learns from it.
        time: Progress of training in [0, 1) at which it happens; learning rates follow it.
        rows: What lies in each row.
    """

    stream: Stream
    time: float
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A micro-batch as tensors, all [B, T] int64.

    Labels are the inputs with `IGNORED` at padding and at the first token of every chunk, which
    must not be predicted from the chunk before it; `forward` shifts them by one.
    """

    input_ids: torch.Tensor
    sequence_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        return Batch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class _Exposures:
    """Arrays [n]: when, of which document, in which stream (0 open, 1 sealed, 2 strict)."""

    time: npt.NDArray[np.float64]
    document: npt.NDArray[np.int64]
    stream: npt.NDArray[np.int8]


def schedule(store: TokenStore, policies: Sequence[str], config: TrainConfig) -> list[MicroBatch]:
    """Every micro-batch of a run, in order.

    Args:
        store: Documents sorted by sequence ID.
        policies: The policy of each document's sequence, aligned with the store.
        config: Uses seed, epochs, governed_exposures, backbone_exposures, context_length and
            batch_rows.

    Returns:
        Micro-batches by time. Open ones are `optimizer steps` of the shared parameters; their times
        are evenly spaced.
    """
    exposures = _exposures(store, policies, config)
    streams = [exposures.document[exposures.stream == code] for code in range(3)]
    times = [exposures.time[exposures.stream == code] for code in range(3)]
    length, rows_each = config.context_length, config.batch_rows

    open_rows = list(pack(_chunks(store, streams[0], times[0], length), length))
    steps = [open_rows[i : i + rows_each] for i in range(0, len(open_rows), rows_each)]
    batches = [
        MicroBatch("open", index / len(steps), tuple(row for _, row in step))
        for index, step in enumerate(steps)
    ]
    sealed_rows = list(pack(_chunks(store, streams[1], times[1], length), length))
    batches += _sinks_only("sealed", sealed_rows, config.governed_rows)
    for document, time in zip(streams[2], times[2], strict=True):
        alone = pack(_chunks(store, np.array([document]), np.array([time]), length), length)
        batches += _sinks_only("strict", list(alone), config.governed_rows)
    # Total: open before sealed before strict at one time, one document's chunks in their order.
    rank = {"open": 0, "sealed": 1, "strict": 2}
    return sorted(
        batches,
        key=lambda b: (b.time, rank[b.stream], b.rows[0][0].document, b.rows[0][0].begin),
    )


def _sinks_only(
    stream: Stream, rows: list[tuple[float, Row]], rows_each: int
) -> Iterator[MicroBatch]:
    for i in range(0, len(rows), rows_each):
        group = rows[i : i + rows_each]
        yield MicroBatch(stream, group[0][0], tuple(row for _, row in group))


def _exposures(store: TokenStore, policies: Sequence[str], config: TrainConfig) -> _Exposures:
    times, documents, streams = [], [], []
    ids, first, counts = np.unique(store.sequence_ids, return_index=True, return_counts=True)
    for sequence_id, begin, copies in zip(ids, first, counts, strict=True):
        policy = policies[begin]
        total = int(copies) * config.epochs
        if policy in ("private", "strict"):
            total = max(total, config.governed_exposures)
        k = np.arange(total)
        uniform = keyed_uniform(config.seed, int(sequence_id), k)
        times.append((k + uniform) / total)
        documents.append(begin + k % copies)
        stream = np.zeros(total, dtype=np.int8)
        if policy == "strict":
            stream[:] = 2
        elif policy == "private":
            stream[k >= config.backbone_exposures] = 1
        streams.append(stream)
    time = np.concatenate(times) if times else np.empty(0)
    document = np.concatenate(documents) if documents else np.empty(0, dtype=np.int64)
    stream = np.concatenate(streams) if streams else np.empty(0, dtype=np.int8)
    order = np.lexsort((document, time))
    return _Exposures(time=time[order], document=document[order], stream=stream[order])


def _chunks(
    store: TokenStore,
    documents: npt.NDArray[np.int64],
    times: npt.NDArray[np.float64],
    length: int,
) -> Iterator[tuple[float, Chunk]]:
    for document, time in zip(documents, times, strict=True):
        size = int(store.offsets[document + 1] - store.offsets[document])
        for begin in range(0, size, length):
            yield float(time), Chunk(int(document), begin, min(begin + length, size))


def pack(chunks: Iterator[tuple[float, Chunk]], length: int) -> Iterator[tuple[float, Row]]:
    """First fit over the last `_OPEN_ROWS` rows; rows leave in the order in which they began."""
    waiting: list[tuple[float, list[Chunk], int]] = []
    for time, chunk in chunks:
        size = chunk.end - chunk.begin
        for index, (begun, row, free) in enumerate(waiting):
            if size <= free:
                row.append(chunk)
                waiting[index] = (begun, row, free - size)
                break
        else:
            waiting.append((time, [chunk], length - size))
            if len(waiting) > _OPEN_ROWS:
                begun, row, _ = waiting.pop(0)
                yield begun, tuple(row)
    for begun, row, _ in waiting:
        yield begun, tuple(row)


def predicted_tokens(batch: MicroBatch) -> int:
    """How many tokens a loss is taken of: all but the first of each chunk."""
    return sum(chunk.end - chunk.begin - 1 for row in batch.rows for chunk in row)


def collate(
    store: TokenStore, batch: MicroBatch, length: int, pad_id: int, *, trim: bool = False
) -> Batch:
    """Tensors of a micro-batch.

    Open and sealed rows are padded to `length`; strict ones, and all with `trim`, to their own
    longest row, which no other micro-batch can change.
    """
    if batch.stream == "strict" or trim:
        length = max(sum(chunk.end - chunk.begin for chunk in row) for row in batch.rows)
    shape = (len(batch.rows), length)
    input_ids = np.full(shape, pad_id, dtype=np.int64)
    sequence_ids = np.zeros(shape, dtype=np.int64)
    positions = np.zeros(shape, dtype=np.int64)
    labels = np.full(shape, IGNORED, dtype=np.int64)
    for r, row in enumerate(batch.rows):
        at = 0
        for chunk in row:
            end = at + chunk.end - chunk.begin
            tokens = store.document(chunk.document)[chunk.begin : chunk.end]
            input_ids[r, at:end] = tokens
            sequence_ids[r, at:end] = store.sequence_ids[chunk.document]
            positions[r, at:end] = np.arange(end - at)
            labels[r, at + 1 : end] = tokens[1:]
            at = end
        positions[r, at:] = np.arange(length - at)
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        sequence_ids=torch.from_numpy(sequence_ids),
        position_ids=torch.from_numpy(positions),
        labels=torch.from_numpy(labels),
    )
