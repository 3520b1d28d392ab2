"""From trained parts to a run directory: every rank writes banks, the first one the rest.

The directory holds nothing that says how many ranks made it but a number in its record: whoever
loads, forgets in or verifies it reads the one format.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from manifests import Manifest
from manifests.files import fsync_directory
from manifests.sequence_id import format_id
from sinkmodel import checkpoint, saves
from sinkmodel.allocation import SINK_MAP_FILE
from sinkmodel.bank_format import open_bank, open_state
from sinkmodel.bank_parts import (
    Part,
    bank_ranges,
    merged_state,
    merged_weights,
    state_parts,
    weight_parts,
)
from sinkmodel.bank_tree import write_leaves
from sinkmodel.configuration_sink import block_bytes
from sinkmodel.prepare import Prepared
from sinkmodel.ranks import Ranks
from sinkmodel.recipes import TrainConfig
from sinkmodel.routing import ROUTE_INDEX_FILE, RouteIndex
from sinkmodel.trainer import Trainer
from sinkmodel.weights import bank_file, bank_name, write_bank, write_shared

ALLOCATION_SCHEME = "splitmix64-v1"


def record_of(
    manifest: Manifest,
    prepared: Prepared,
    config: TrainConfig,
    ranks: Ranks,
    recipe: str,
    excluded: Sequence[int],
) -> dict[str, Any]:
    """What `training.json` says of a run beside its files and banks."""
    streams = [batch.stream for batch in prepared.batches]
    return {
        "manifest": checkpoint.pin_manifest(manifest),
        "recipe": recipe,
        "config": config.to_json(),
        "seed": config.seed,
        "ranks": ranks.world,
        "versions": checkpoint.library_versions(),
        "allocation": {"scheme": ALLOCATION_SCHEME, "seed": config.seed},
        "corpus": {
            "documents": len(prepared.policies),
            "tokens": int(prepared.store.offsets[-1]),
            "digest": prepared.store.digest(),
            "excluded_sequences": [format_id(sequence_id) for sequence_id in excluded],
        },
        "micro_batches": {name: streams.count(name) for name in ("open", "sealed", "strict")},
    }


def write_run(work: Path, out: Path, trainer: Trainer, name: str, record: dict[str, Any]) -> None:
    """Write the run of all ranks as `out`, and remove the work in progress.

    With several ranks a last save is written first: its parts are what the banks are made of, and
    a run that is killed meanwhile has nothing to train anew.

    Args:
        work: Where the saves are.
        out: Does not exist, or is empty.
        trainer: At the end of its micro-batches.
        name: Of `saves.identity`.
        record: Of `record_of`.
    """
    ranks = trainer.ranks
    final = work / "final"
    source = _Source(trainer, None if ranks.alone else saves.save(work, trainer, name))
    with ranks.together():
        if ranks.first:
            shutil.rmtree(final, ignore_errors=True)
            _write_shared(final, trainer, name)
    with ranks.together():
        _write_banks(final, trainer, source)
    with ranks.together():
        if ranks.first:
            losses = saves.merged_losses(source.losses())
            pq.write_table(losses, final / checkpoint.STATE / saves.LOSSES)
            checkpoint.seal(final, {**record, "banks": checkpoint.bank_records(final)})
            if out.exists():
                out.rmdir()  # empty, as was checked before training
            final.rename(out)
            fsync_directory(out.parent)
            shutil.rmtree(work)


class _Source:
    """Where the parts of the banks come from: this rank's memory, or the save of all ranks."""

    def __init__(self, trainer: Trainer, save: Path | None) -> None:
        self._trainer = trainer
        self._save = save

    def weights(self) -> list[Part]:
        """Banks of all ranks."""
        if self._save is not None:
            return saves.stored_parts(self._save, self._trainer.ranks, "weights")
        return list(weight_parts(self._trainer.model.sinks, self._trainer.shard.blocks))

    def states(self) -> list[Part]:
        """Optimizer state of all ranks."""
        if self._save is not None:
            return saves.stored_parts(self._save, self._trainer.ranks, "state")
        return list(state_parts(self._trainer.block_adam, self._trainer.shard.blocks))

    def losses(self) -> list[Any]:
        """Loss tables of all ranks."""
        if self._save is not None:
            return saves.stored_losses(self._save, self._trainer.ranks)
        return [saves.loss_table(self._trainer)]


def _write_shared(final: Path, trainer: Trainer, name: str) -> None:
    """Everything that is not sharded, but the losses and the record."""
    prepared, model = trainer.prepared, trainer.model
    final.mkdir(parents=True)
    sink_map = prepared.sink_map
    model.save_configuration(final, sink_map.num_blocks)
    sink_map.save(final / SINK_MAP_FILE)
    sizes = {bank_name(index): size for index, (_, size) in enumerate(_ranges(trainer))}
    block = block_bytes(
        layers=model.sinks.layers,
        block_size=model.sinks.block_size,
        hidden=model.sinks.hidden,
        element_bytes=model.dtype.itemsize,
    )
    write_shared(
        final, trainer.shared_weights(), {bank: size * block for bank, size in sizes.items()}
    )
    prepared.tokenizer.save_pretrained(final)
    saves.write_position(final / checkpoint.STATE, trainer, name)
    _route_index(prepared).save(final / ROUTE_INDEX_FILE)


def _write_banks(final: Path, trainer: Trainer, source: _Source) -> None:
    """Bank n, its optimizer state and their trees are written by rank n mod ranks."""
    ranks = trainer.ranks
    weights, states = source.weights(), source.states()
    for index, (begin, size) in enumerate(_ranges(trainer)):
        if index % ranks.world == ranks.rank:
            write_bank(final, index, merged_weights(weights, begin, size))
            write_leaves(open_bank(final / bank_file(index)))
            path = final / checkpoint.STATE / bank_file(index)
            checkpoint.save_tensors(path, merged_state(states, begin, size))
            state = open_state(path)
            if state.blocks:
                write_leaves(state)


def _ranges(trainer: Trainer) -> list[tuple[int, int]]:
    per_bank = trainer.model.config.blocks_per_bank
    assert per_bank is not None  # set by the configuration itself
    return bank_ranges(trainer.prepared.sink_map.num_blocks, per_bank)


def _route_index(prepared: Prepared) -> RouteIndex:
    """Every sequence that owns sinks, by the text of its first document."""
    store = prepared.store
    ids, first = np.unique(store.sequence_ids, return_index=True)
    owning = [
        (int(sequence_id), store.document(int(document)))
        for sequence_id, document in zip(ids, first, strict=True)
        if prepared.sink_map.blocks_of(int(sequence_id))
    ]
    decode = prepared.tokenizer.decode
    texts = [str(decode(tokens.tolist(), skip_special_tokens=True)) for _, tokens in owning]
    return RouteIndex.build([sequence_id for sequence_id, _ in owning], texts)
