"""`govern demo`: the whole story on an embedded corpus."""

from __future__ import annotations

from pathlib import Path

import click

from govern.cli.paths import LocalPath
from govern.cli.render import Settings, emit

_PLAIN_WIDTH = 110  # columns of what goes into a file or a pipe


@click.command(epilog="Example: govern demo --out demo-out")
@click.option(
    "--out",
    type=LocalPath(),
    default="demo-out",
    show_default=True,
    help="Directory for everything that the demo makes; a former demo there is replaced.",
)
@click.pass_obj
def demo(settings: Settings, out: Path) -> None:
    """Tell the whole story on text that this Python installation has, in minutes on 2 cores.

    Raw corpus, sequence IDs, manifest, training, forgetting, a signed report, and its verification.
    Nothing is downloaded.
    """
    from rich.console import Console

    from govern.cli.train import training_progress
    from govern.demo.run import run_demo
    from govern.demo.story import Story

    console = Console(stderr=settings.json, quiet=settings.quiet, highlight=False)
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH
    outcome = run_demo(out, Story(console), lambda: training_progress(settings))
    result = {
        "out": str(out),
        "verdict": outcome.verdict,
        "checks": dict(outcome.checks),
        "report": str(outcome.places.report / "REPORT.json"),
        "page": str(outcome.places.report / "REPORT.html"),
        "seconds": round(outcome.seconds, 1),
        "recitations": [
            {
                "title": shown.title,
                "verbatim_before": shown.verbatim_before,
                "verbatim_after": shown.verbatim_after,
                "of": shown.length,
            }
            for shown in outcome.recitations
        ],
    }
    emit(settings, result, lambda: f"\ndone in {outcome.seconds:.0f} s: {out}")
