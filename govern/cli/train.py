"""`govern train`: manifest and corpus to a run directory."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from govern.cli.paths import LocalPath
from govern.cli.render import Settings, emit, note, progress_bar

if TYPE_CHECKING:
    from sinkmodel.train import Progress


@click.command(epilog="Example: govern train manifest --out run --recipe demo --set epochs=2")
@click.argument("manifest", type=LocalPath())
@click.option("--out", type=LocalPath(), required=True, help="Run directory to create.")
@click.option(
    "--corpus",
    multiple=True,
    metavar="INPUT",
    help="Where the text lies now; default: the inputs that the manifest was built from.",
)
@click.option("--recipe", default="demo", show_default=True, help="Named configuration.")
@click.option("--config", "toml", type=LocalPath(), help="TOML file with fields to override.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one field.")
@click.option(
    "--base",
    metavar="DIR",
    help="Add sinks to this Llama checkpoint; its weights become the shared part.",
)
@click.option(
    "--id-noise",
    type=click.FloatRange(0, 1, max_open=True),
    metavar="SHARE",
    help="Train this share of documents under a wrong ID, to measure robustness.",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
@click.pass_obj
def train(
    settings: Settings,
    manifest: Path,
    out: Path,
    corpus: tuple[str, ...],
    recipe: str,
    toml: Path | None,
    overrides: tuple[str, ...],
    base: str | None,
    id_noise: float | None,
    resume: bool,
) -> None:
    """Train a sink model on MANIFEST and its corpus.

    Sequences are trained by the policy that the manifest gives them (see `govern manifest policy`).
    Reserved and forgotten sequences are left out.

    On several ranks: torchrun --nproc-per-node 2 -m govern train …
    """
    from govern.ids.texts import read_texts
    from manifests import open_manifest
    from sinkmodel.ranks import is_first_rank
    from sinkmodel.recipes import configure
    from sinkmodel.train import train as train_run

    named = {"base": base, "id_noise": id_noise}
    given = [f"{name}={value}" for name, value in named.items() if value is not None]
    config = configure(recipe, toml=toml, overrides=[*overrides, *given])
    opened = open_manifest(manifest)
    settings = settings if is_first_rank() else dataclasses.replace(settings, quiet=True)
    note(settings, f"training on {manifest} into {out}")
    with training_progress(settings) as report:
        train_run(
            opened,
            read_texts(opened, list(corpus) or None),
            out,
            config,
            recipe=recipe,
            resume=resume,
            report=report,
        )
    if is_first_rank():
        _emit_run(settings, out)


def _emit_run(settings: Settings, out: Path) -> None:
    record = json.loads((out / "training.json").read_bytes())
    result = {
        "run": str(out),
        "documents": record["corpus"]["documents"],
        "tokens": record["corpus"]["tokens"],
        "micro_batches": record["micro_batches"],
        "banks": record["banks"],
    }
    emit(
        settings,
        result,
        lambda: (
            f"run {out}: {result['documents']:,} documents, {result['tokens']:,} tokens, "
            f"{sum(record['micro_batches'].values()):,} micro-batches"
        ),
    )


@contextmanager
def training_progress(settings: Settings) -> Iterator[Callable[[Progress], None] | None]:
    """A progress bar on stderr where that is a terminal and nobody asked for quiet."""
    with progress_bar(settings, "training") as bar:
        if bar is None:
            yield None
            return

        def report(progress: Progress) -> None:
            seconds = bar.elapsed()
            bar.update(
                progress.done,
                progress.total,
                f"{progress.tokens / seconds:,.0f} tokens/s  loss {progress.open_loss:.3f} "
                f"shared, {progress.sink_loss:.3f} sinks",
            )

        yield report
