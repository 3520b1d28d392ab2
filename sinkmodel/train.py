"""Training a run directory: the loop, resumable saves, and the record that seals it.

The directory appears whole, by one rename. Until then work in progress lies beside it in
`.NAME.training/save-NNNNNNNN`, each save again appearing by one rename, so that a kill at any
moment loses at most the steps since the last save.

Every rank calls `train` with the same arguments; see `sinkmodel.ranks` for who starts them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from accelerate.tracking import GeneralTracker

from manifests import Manifest
from manifests.errors import InputError, TrainingError
from manifests.files import writer_lock
from sinkmodel import finish, saves, tracking
from sinkmodel.prepare import prepare
from sinkmodel.ranks import Ranks, joined, shared_digest
from sinkmodel.recipes import TrainConfig
from sinkmodel.run_record import RECORD
from sinkmodel.stopping import StopRequest, stop_requests
from sinkmodel.trainer import Trainer

# Ranks without an open micro-batch between them still hear of a stop after so many others.
_MEET_EVERY = 32


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What the loop reports after each micro-batch.

    Args:
        done, total: Micro-batches.
        tokens: Predicted so far, by all ranks.
        open_loss, sink_loss: Latest mean loss (nats per token) of the open stream and of the sealed
            and strict ones (of this rank); NaN before the first of its kind.
    """

    done: int
    total: int
    tokens: int
    open_loss: float
    sink_loss: float


Report = Callable[[Progress], None]


def train(
    manifest: Manifest,
    texts: Iterable[pa.RecordBatch],
    out: Path,
    config: TrainConfig,
    *,
    recipe: str = "demo",
    exclude: Iterable[int] = (),
    resume: bool = False,
    report: Report | None = None,
) -> Path:
    """Train a sink model and write its run directory.

    The directory appears whole, by one rename; until then work in progress lies beside it in
    `.NAME.training`, from which `resume=True` continues to the same weights. In a process that a
    launcher has made one rank of several, every rank calls this with equal arguments.

    Args:
        manifest: Open manifest; its snapshot and content digest are pinned in `training.json`.
        texts: Batches of (source, doc_id, text) that hold the manifest's documents.
        out: Run directory to create, on a file system that all ranks see.
        config: Everything that shapes the run.
        recipe: Name that the configuration started from, for the record.
        exclude: Sequence IDs to leave out, as an oracle does.
        resume: Continue from the last save.
        report: Called after every micro-batch.

    Raises:
        InputError: `out` is not empty, or nothing can be resumed there.
        TrainingError: Nothing to train on, a loss that is not a number, a stop that was asked for,
            or another rank that is gone.
    """
    excluded = sorted(exclude)
    work = out.parent / f".{out.name}.training"
    with joined(config.rank_timeout) as ranks, ExitStack() as held:
        with ranks.together():
            _check_target(out, work, resume)
            if ranks.first:
                work.mkdir(parents=True, exist_ok=True)
                held.enter_context(writer_lock(work))
        with ranks.together():
            prepared = prepare(manifest, texts, config, excluded)
            trainer = Trainer(prepared, config, ranks, work)
            name = saves.identity(prepared, config)
        ranks.require_same("what the run is made of", name)
        ranks.require_same("initial weights", shared_digest(trainer.shared_weights()))
        with ranks.together():
            _begin(trainer, work, name, resume)
        _loop(trainer, work, name, report, out)
        record = finish.record_of(manifest, prepared, config, ranks, recipe, excluded)
        finish.write_run(work, out, trainer, name, record)
    return out


def _check_target(out: Path, work: Path, resume: bool) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            f"--out {out}",
            expected="a directory that does not exist yet, or is empty",
            found="a finished run" if (out / RECORD).exists() else "other files",
            remedy="choose another name",
        )
    if resume and not saves.saves_in(work):
        raise InputError(
            f"--resume for {out}",
            expected="a save of an interrupted run",
            found="none",
            remedy="train without --resume; set save_every to save while training",
        )


def _begin(trainer: Trainer, work: Path, name: str, resume: bool) -> None:
    if resume:
        saves.restore(saves.saves_in(work)[-1], trainer, name)
    elif trainer.ranks.first:
        for path in saves.saves_in(work):
            shutil.rmtree(path)


def _loop(trainer: Trainer, work: Path, name: str, report: Report | None, out: Path) -> None:
    """Every micro-batch from where the trainer is, with the saves between them.

    Raises:
        TrainingError: See `train`.
    """
    ranks, batches = trainer.ranks, trainer.prepared.batches
    telling = _Telling(trainer, report)
    with (
        stop_requests(insisting=ranks.alone) as request,
        tracking.tracker(trainer.config, out, trainer.done, here=ranks.first) as telling.tracker,
    ):
        begun = trainer.done
        while True:
            at, every = trainer.done, trainer.config.save_every
            due = bool(every) and at % every == 0 and begun < at < len(batches)
            if due or _meeting(ranks, at, trainer):
                stop, failed = ranks.meet(stop=request.asked, failed=trainer.failure is not None)
                if failed:
                    raise trainer.failure or _failed_elsewhere(ranks)
                if at == len(batches):
                    return
                if stop or due:
                    saves.save(work, trainer, name)
                if stop:
                    raise _stopped(out, trainer)
            trainer.step(batches[at])
            telling.tell(request)


def _meeting(ranks: Ranks, at: int, trainer: Trainer) -> bool:
    """Whether the ranks exchange a word before micro-batch `at`: all of them must say the same."""
    batches = trainer.prepared.batches
    if ranks.alone or at == len(batches) or at % _MEET_EVERY == 0:
        return True
    return batches[at].stream == "open"


class _Telling:
    """Tells the caller and the tracker how far training is."""

    def __init__(self, trainer: Trainer, report: Report | None) -> None:
        self.tracker: GeneralTracker | None = None
        self._trainer = trainer
        self._report = report
        self._begin = time.monotonic()
        self._tokens_before = trainer.tokens

    def tell(self, request: StopRequest) -> None:
        """One micro-batch is done. A KeyboardInterrupt of the caller is a wish to stop."""
        trainer = self._trainer
        if self.tracker is not None:
            seconds = max(time.monotonic() - self._begin, 1e-6)
            values = {
                "shared loss": trainer.open_loss,
                "sink loss": trainer.sink_loss,
                "tokens": float(trainer.tokens),
                "tokens per second": (trainer.tokens - self._tokens_before) / seconds,
            }
            tracking.record(self.tracker, trainer.done, values)
        if self._report is None:
            return
        try:
            self._report(
                Progress(
                    done=trainer.done,
                    total=len(trainer.prepared.batches),
                    tokens=trainer.tokens,
                    open_loss=trainer.open_loss,
                    sink_loss=trainer.sink_loss,
                )
            )
        except KeyboardInterrupt:
            request.asked = True


def _stopped(out: Path, trainer: Trainer) -> TrainingError:
    return TrainingError(
        f"run {out}",
        expected=f"{len(trainer.prepared.batches)} micro-batches",
        found=f"a stop after {trainer.done}, whose state is saved",
        remedy="run the same command with --resume to go on",
    )


def _failed_elsewhere(ranks: Ranks) -> TrainingError:
    return TrainingError(
        f"rank {ranks.rank} of {ranks.world}",
        expected="finite losses on every rank",
        found="another rank whose loss is not a number",
        remedy="see its message; nothing was saved after the last good step",
    )
