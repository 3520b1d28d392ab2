"""Controls: a model changed in memory, and as it was again afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import torch

from sinkmodel.allocation import ACTIVE, SCHEMA, SinkMap
from sinkmodel.keyed_hash import keyed_hash
from sinkmodel.modeling_sink import SinkForCausalLM


@contextmanager
def zeroed(model: SinkForCausalLM, sequence_ids: Sequence[int]) -> Iterator[None]:
    """The model with the blocks of these sequences zeroed; they come back afterwards."""
    blocks = sorted({b for i in sequence_ids for b in model.sink_map.blocks_of(i)})
    each = model.sinks.blocks_per_bank
    saved: list[tuple[torch.Tensor, torch.Tensor]] = []
    with torch.no_grad():
        for block in blocks:
            row = model.sinks.banks[block // each][block % each]
            saved.append((row, row.clone()))
            row.zero_()
    try:
        yield
    finally:
        with torch.no_grad():
            for row, value in saved:
                row.copy_(value)


@contextmanager
def reactivated(model: SinkForCausalLM, sequence_ids: Iterable[int]) -> Iterator[None]:
    """The model with forgotten sequences routed to their blocks again."""
    stored = model.sink_map
    wanted = np.isin(stored.sequence_ids, sorted(sequence_ids))
    status = np.where(wanted, ACTIVE, stored.table["status"].to_numpy()).astype(object)
    column = pa.array(status, pa.string())
    model.sink_map = SinkMap(stored.table.set_column(2, SCHEMA.field("status"), column))
    try:
        yield
    finally:
        model.sink_map = stored


def other_sequences(sink_map: SinkMap, forgotten: set[int], seed: int) -> list[int]:
    """Active sequences with blocks that are not to be forgotten, in a keyed order."""
    counts = np.diff(sink_map.lists.offsets)
    able = sink_map.sequence_ids[sink_map.active & (counts > 0)].tolist()
    others = [int(i) for i in able if i not in forgotten]
    return sorted(others, key=lambda i: int(keyed_hash(seed, i, [0])[0]))
