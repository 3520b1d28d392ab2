"""Resumable saves: written by all ranks, each its own sinks, read by as many.

save-NNNNNNNN/            appears by one rename, when all ranks have written
  trainer.json            where training is, and what it is a training of
  weights.safetensors     shared weights, the same on every rank
  shared.safetensors      their optimizer state
  rank-00000/ …           of each rank
    weights-00000.safetensors …   its banks (see `sinkmodel.bank_parts`)
    state-00000.safetensors …     their optimizer state
    losses.parquet                of what it computed
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.errors import InputError, TrainingError
from manifests.files import canonical_json, fsync_directory
from sinkmodel import checkpoint
from sinkmodel.bank_parts import Part, restore_parts, state_parts, weight_parts
from sinkmodel.prepare import Prepared
from sinkmodel.ranks import Ranks
from sinkmodel.recipes import AROUND_THE_RUN, TrainConfig
from sinkmodel.trainer import Loss, Trainer

LOSSES = "losses.parquet"
_POSITION, _WEIGHTS, _SHARED = "trainer.json", "weights.safetensors", "shared.safetensors"
_FORMAT = 2
_LOSS_SCHEMA = pa.schema(
    [
        ("micro_batch", pa.int64()),
        ("stream", pa.string()),
        ("time", pa.float64()),
        ("tokens", pa.int64()),
        ("total", pa.float64()),
    ]
)


def identity(prepared: Prepared, config: TrainConfig) -> str:
    """Digest of everything that decides the next step: a resume must match it."""
    shaping = {k: v for k, v in config.to_json().items() if k not in AROUND_THE_RUN}
    parts = {
        "format": _FORMAT,
        "config": shaping,
        "tokens": prepared.store.digest(),
        "policies": list(prepared.policies),
        "sink_map": prepared.sink_map.digest(),
    }
    return hashlib.sha256(canonical_json(parts)).hexdigest()


def saves_in(work: Path) -> list[Path]:
    """The saves below a directory of work in progress, oldest first."""
    return sorted(work.glob("save-*")) if work.is_dir() else []


def save(work: Path, trainer: Trainer, name: str) -> Path:
    """Write a save of all ranks, and then remove older ones.

    Args:
        work: A directory that all ranks see.
        trainer: What to save.
        name: Of `identity`.
    """
    ranks = trainer.ranks
    target, building = work / f"save-{trainer.done:08d}", work / "saving"
    trainer.require_equal_replicas()
    with ranks.together():
        if ranks.first:
            shutil.rmtree(building, ignore_errors=True)
            write_position(building, trainer, name)
            checkpoint.save_tensors(building / _WEIGHTS, trainer.shared_weights())
    with ranks.together():
        _require_seen(building)
        _write_own(building / _folder(ranks.rank), trainer)
    with ranks.together():
        if ranks.first:
            older = saves_in(work)
            _sync(building)
            if target in older:  # written a second time, equal: a stop right after a save
                older.remove(target)
                shutil.rmtree(target)
            building.rename(target)
            fsync_directory(work)
            for path in older:
                shutil.rmtree(path)
    return target


def write_position(path: Path, trainer: Trainer, name: str) -> None:
    """What is not sharded: where training is, and the optimizer state of the shared weights."""
    path.mkdir(parents=True, exist_ok=True)
    checkpoint.save_tensors(path / _SHARED, trainer.shared_state())
    position = {
        "identity": name,
        "done": trainer.done,
        "tokens": trainer.tokens,
        "ranks": trainer.ranks.world,
    }
    (path / _POSITION).write_bytes(canonical_json(position))


def restore(path: Path, trainer: Trainer, name: str) -> None:
    """Continue from a save.

    Raises:
        InputError: It is of another run, or of another number of ranks.
    """
    position = json.loads((path / _POSITION).read_bytes())
    if position["identity"] != name:
        raise InputError(
            f"--resume from {path}",
            expected=f"the options, manifest and corpus of the interrupted run ({name[:12]})",
            found=f"a save of another run ({position['identity'][:12]})",
            remedy="give the same manifest, corpus and options, or train without --resume",
        )
    ranks = trainer.ranks
    if position["ranks"] != ranks.world:
        raise InputError(
            f"--resume from {path}",
            expected=f"as many ranks as the interrupted run had, {position['ranks']}",
            found=str(ranks.world),
            remedy=f"start {position['ranks']} processes, or train without --resume",
        )
    own = path / _folder(ranks.rank)
    trainer.load_shared(
        checkpoint.load_tensors(path / _WEIGHTS), checkpoint.load_tensors(path / _SHARED)
    )
    restore_parts(
        trainer.model.sinks,
        trainer.block_adam,
        trainer.shard.blocks,
        _read(own, "weights"),
        _read(own, "state"),
    )
    trainer.losses = [Loss(**row) for row in pq.read_table(own / LOSSES).to_pylist()]
    trainer.done, trainer.tokens = position["done"], position["tokens"]


def stored_parts(path: Path, ranks: Ranks, kind: str) -> list[Part]:
    """The parts (`weights` or `state`) of all ranks in a save."""
    return [part for rank in range(ranks.world) for part in _read(path / _folder(rank), kind)]


def stored_losses(path: Path, ranks: Ranks) -> list[pa.Table]:
    """The losses of all ranks in a save."""
    return [pq.read_table(path / _folder(rank) / LOSSES) for rank in range(ranks.world)]


def loss_table(trainer: Trainer) -> pa.Table:
    """The losses of what this rank computed: micro_batch, stream, time, tokens, total (nats)."""
    return pa.Table.from_pylist([dataclasses.asdict(loss) for loss in trainer.losses], _LOSS_SCHEMA)


def merged_losses(tables: Iterable[pa.Table]) -> pa.Table:
    """The loss of every micro-batch from those of the ranks' parts.

    Returns:
        micro_batch, stream, time, tokens, loss (mean, nats); ascending.
    """
    keys = ["micro_batch", "stream", "time"]
    parts = pa.concat_tables(tables).group_by(keys)
    sums = parts.aggregate([("tokens", "sum"), ("total", "sum")]).sort_by("micro_batch")
    tokens = sums["tokens_sum"]
    loss = pc.divide(sums["total_sum"], pc.max_element_wise(tokens, 1).cast(pa.float64()))
    columns = [*(sums[key] for key in keys), tokens, loss]
    return pa.Table.from_arrays(columns, names=[*keys, "tokens", "loss"])


def _folder(rank: int) -> str:
    return f"rank-{rank:05d}"


def _write_own(path: Path, trainer: Trainer) -> None:
    path.mkdir(parents=True, exist_ok=True)
    blocks = trainer.shard.blocks
    for index, part in enumerate(weight_parts(trainer.model.sinks, blocks)):
        checkpoint.save_tensors(path / f"weights-{index:05d}.safetensors", part)
    for index, part in enumerate(state_parts(trainer.block_adam, blocks)):
        checkpoint.save_tensors(path / f"state-{index:05d}.safetensors", part)
    pq.write_table(loss_table(trainer), path / LOSSES)
    _sync(path)


def _read(path: Path, kind: str) -> list[Part]:
    return [checkpoint.load_tensors(file) for file in sorted(path.glob(f"{kind}-*.safetensors"))]


def _sync(directory: Path) -> None:
    for file in directory.rglob("*"):
        if file.is_file():
            checkpoint.sync_file(file)


def _require_seen(building: Path) -> None:
    if not building.is_dir():
        raise TrainingError(
            f"save {building}",
            expected="a folder that every rank sees",
            found="nothing on this rank's machine",
            remedy="let --out lie on a file system that all machines share",
        )
