"""Losses and speed as training goes, through accelerate's trackers, beside the run in `OUT.log`.

`jsonl` needs nothing; `tensorboard` needs the extra of that name.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, TensorBoardTracker

from manifests.errors import MissingExtraError
from manifests.files import atomic_write
from sinkmodel.recipes import TrainConfig

METRICS = "metrics.jsonl"


class JsonLines(GeneralTracker):
    """A line of JSON for every record."""

    name = "jsonl"
    requires_logging_directory = True

    def __init__(self, directory: Path, done: int) -> None:
        super().__init__()
        path = directory / METRICS
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]  # a kill may tear the last one
        kept = [line for line in whole if json.loads(line)["step"] <= done]
        atomic_write(path, "".join(kept).encode())
        self._file = path.open("a", encoding="utf-8", buffering=1)

    @property
    def tracker(self) -> Any:
        """The open file."""
        return self._file

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        """One line: the step and the values."""
        self._file.write(json.dumps({"step": step, **values}, sort_keys=True) + "\n")

    def finish(self) -> None:
        """Close the file."""
        self._file.close()


@contextmanager
def tracker(
    config: TrainConfig, out: Path, done: int, *, here: bool
) -> Iterator[GeneralTracker | None]:
    """What the configuration asks for, writing into `OUT.log`; None where it asks for nothing.

    Args:
        config: Names the tracker.
        out: The run directory to be.
        done: Micro-batches that a resumed run has behind it; later lines of `jsonl` are dropped.
        here: Whether this rank is the one that tracks.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """
    directory = out.with_name(f"{out.name}.log")
    chosen: GeneralTracker | None = None
    if not here:
        pass
    elif config.tracker == "jsonl":
        chosen = JsonLines(directory, done)
    elif config.tracker == "tensorboard":
        if importlib.util.find_spec("tensorboard") is None:
            raise MissingExtraError(
                "tracker tensorboard",
                expected="the package tensorboard",
                found="none",
                remedy="install memsinks-govern[tensorboard], or set tracker=jsonl",
            )
        chosen = TensorBoardTracker(run_name=".", logging_dir=str(directory))
        chosen.start()
    if chosen is None:
        yield None
        return
    try:
        yield chosen
    finally:
        chosen.finish()


def record(chosen: GeneralTracker, step: int, values: Mapping[str, float]) -> None:
    """Log what is known: NaN, before the first of its kind, is left out."""
    chosen.log({name: value for name, value in values.items() if value == value}, step=step)
