"""Training a run directory: the loop, resumable saves, and the record that seals it.

The directory appears whole, by one rename. Until then work in progress lies beside it in
`.NAME.training/save-NNNNNNNN`, each save again appearing by one rename, so that a kill at any
moment loses at most the steps since the last save.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests import Manifest
from manifests.errors import InputError, TrainingError
from manifests.files import canonical_json, fsync_directory, writer_lock
from manifests.sequence_id import format_id
from sinkmodel import checkpoint
from sinkmodel.recipes import TrainConfig
from sinkmodel.routing import ROUTE_INDEX_FILE, RouteIndex
from sinkmodel.run_record import RECORD
from sinkmodel.trainer import Prepared, Trainer, prepare

ALLOCATION_SCHEME = "splitmix64-v1"
_LOSS_SCHEMA = pa.schema(
    [
        ("micro_batch", pa.int64()),
        ("stream", pa.string()),
        ("time", pa.float64()),
        ("tokens", pa.int64()),
        ("loss", pa.float64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What the loop reports after each micro-batch.

    Args:
        done, total: Micro-batches.
        tokens: Predicted so far.
        open_loss, sink_loss: Latest mean loss (nats per token) of the open stream and of the sealed
            and strict ones; NaN before the first of its kind.
    """

    done: int
    total: int
    tokens: int
    open_loss: float
    sink_loss: float


def train(
    manifest: Manifest,
    texts: Iterable[pa.RecordBatch],
    out: Path,
    config: TrainConfig,
    *,
    recipe: str = "demo",
    exclude: Iterable[int] = (),
    resume: bool = False,
    report: Callable[[Progress], None] | None = None,
) -> Path:
    """Train a sink model and write its run directory.

    The directory appears whole, by one rename; until then work in progress lies beside it in
    `.NAME.training`, from which `resume=True` continues to the same weights.

    Args:
        manifest: Open manifest; its snapshot and content digest are pinned in `training.json`.
        texts: Batches of (source, doc_id, text) that hold the manifest's documents.
        out: Run directory to create.
        config: Everything that shapes the run.
        recipe: Name that the configuration started from, for the record.
        exclude: Sequence IDs to leave out, as an oracle does.
        resume: Continue from the last save.
        report: Called after every micro-batch.

    Raises:
        InputError: `out` is not empty, or nothing can be resumed there.
        TrainingError: Nothing to train on, or a loss that is not a number.
    """
    excluded = sorted(exclude)
    work = out.parent / f".{out.name}.training"
    _check_target(out, work, resume)
    prepared = prepare(manifest, texts, config, excluded)
    trainer = Trainer(prepared, config)
    identity = _identity(prepared, config)
    work.mkdir(parents=True, exist_ok=True)
    with writer_lock(work):
        if resume:
            _restore(_saves(work)[-1], trainer, identity)
        else:
            _remove(_saves(work))
        try:
            _loop(trainer, work, identity, report)
        except KeyboardInterrupt:
            _save(work, trainer, identity)
            raise TrainingError(
                f"run {out}",
                expected=f"{len(prepared.batches)} micro-batches",
                found=f"a stop after {trainer.done}, whose state is saved",
                remedy="run the same command with --resume to go on",
            ) from None
        final = work / "final"
        shutil.rmtree(final, ignore_errors=True)
        _write_run(final, trainer, _record(manifest, prepared, config, recipe, excluded))
        if out.exists():
            out.rmdir()  # empty: `_check_target` saw to it
        final.rename(out)
        fsync_directory(out.parent)
    shutil.rmtree(work)
    return out


def _check_target(out: Path, work: Path, resume: bool) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            f"--out {out}",
            expected="a directory that does not exist yet, or is empty",
            found="a finished run" if (out / RECORD).exists() else "other files",
            remedy="choose another name",
        )
    if resume and not _saves(work):
        raise InputError(
            f"--resume for {out}",
            expected="a save of an interrupted run",
            found="none",
            remedy="train without --resume; set save_every to save while training",
        )


def _identity(prepared: Prepared, config: TrainConfig) -> str:
    """Digest of everything that decides the next step: a resume must match it."""
    shaping = {k: v for k, v in config.to_json().items() if k != "save_every"}
    parts = {
        "config": shaping,
        "tokens": prepared.store.digest(),
        "policies": list(prepared.policies),
        "sink_map": prepared.sink_map.digest(),
    }
    return hashlib.sha256(canonical_json(parts)).hexdigest()


def _loop(
    trainer: Trainer, work: Path, identity: str, report: Callable[[Progress], None] | None
) -> None:
    batches = trainer.prepared.batches
    every = trainer.config.save_every
    while trainer.done < len(batches):
        trainer.step(batches[trainer.done])
        if report is not None:
            report(
                Progress(
                    done=trainer.done,
                    total=len(batches),
                    tokens=trainer.tokens,
                    open_loss=trainer.open_loss,
                    sink_loss=trainer.sink_loss,
                )
            )
        if every and trainer.done % every == 0 and trainer.done < len(batches):
            _save(work, trainer, identity)


# --- saves in between ----------------------------------------------------------------------------


def _saves(work: Path) -> list[Path]:
    return sorted(work.glob("save-*")) if work.is_dir() else []


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        shutil.rmtree(path)


def _save(work: Path, trainer: Trainer, identity: str) -> None:
    older = _saves(work)
    target = work / f"save-{trainer.done:08d}"
    if target in older:
        return
    building = work / "saving"
    shutil.rmtree(building, ignore_errors=True)
    checkpoint.save_tensors(building / "model.safetensors", trainer.parameters())
    _write_state(building, trainer, identity)
    _sync(building)
    building.rename(target)
    fsync_directory(work)
    _remove(older)


def _sync(directory: Path) -> None:
    for file in directory.rglob("*"):
        if file.is_file():
            checkpoint.sync_file(file)


def _write_state(path: Path, trainer: Trainer, identity: str) -> None:
    """What resuming needs beside the weights: optimizer state, position, losses so far."""
    path.mkdir(parents=True, exist_ok=True)
    checkpoint.save_tensors(path / "shared.safetensors", trainer.shared_state())
    for index, tensors in enumerate(trainer.block_adam.bank_states()):
        checkpoint.save_tensors(path / f"sinks-{index:05d}.safetensors", tensors)
    pq.write_table(trainer.loss_table(_LOSS_SCHEMA), path / "losses.parquet")
    position = {"identity": identity, "done": trainer.done, "tokens": trainer.tokens}
    (path / "trainer.json").write_bytes(canonical_json(position))


def _restore(save: Path, trainer: Trainer, identity: str) -> None:
    position = json.loads((save / "trainer.json").read_bytes())
    if position["identity"] != identity:
        raise InputError(
            f"--resume from {save}",
            expected=f"the options, manifest and corpus of the interrupted run ({identity[:12]})",
            found=f"a save of another run ({position['identity'][:12]})",
            remedy="give the same manifest, corpus and options, or train without --resume",
        )
    banks = [
        checkpoint.load_tensors(path) for path in sorted(save.glob("sinks-[0-9]*.safetensors"))
    ]
    trainer.restore(
        parameters=checkpoint.load_tensors(save / "model.safetensors"),
        shared=checkpoint.load_tensors(save / "shared.safetensors"),
        banks=banks,
        losses=pq.read_table(save / "losses.parquet"),
        tokens=position["tokens"],
    )


# --- the finished run ----------------------------------------------------------------------------


def _record(
    manifest: Manifest, prepared: Prepared, config: TrainConfig, recipe: str, excluded: list[int]
) -> dict[str, Any]:
    streams = [batch.stream for batch in prepared.batches]
    return {
        "manifest": checkpoint.pin_manifest(manifest),
        "recipe": recipe,
        "config": config.to_json(),
        "seed": config.seed,
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


def _write_run(path: Path, trainer: Trainer, record: dict[str, Any]) -> None:
    banks = checkpoint.save_model(path, trainer.model, trainer.prepared.tokenizer)
    identity = _identity(trainer.prepared, trainer.config)
    _write_state(path / checkpoint.STATE, trainer, identity)
    _route_index(trainer.prepared).save(path / ROUTE_INDEX_FILE)
    checkpoint.seal(path, {**record, "banks": banks})


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
