"""`govern evaluate`: what a run remembers of chosen documents, and what forgetting would leave."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from govern.cli.paths import LocalPath
from govern.cli.render import Settings, duration, emit, note, progress_bar
from govern.cli.train import training_progress

if TYPE_CHECKING:
    from govern.evaluate.evaluating import EvaluateRequest, Evaluation


@click.command(
    epilog="Example: govern evaluate run --manifest manifest "
    "--where \"policy = 'private'\" --out evaluation"
)
@click.argument("run", type=LocalPath())
@click.option(
    "--manifest",
    type=LocalPath(),
    required=True,
    help="Manifest that RUN was trained on.",
)
@click.option("--where", metavar="SQL", help="Documents to measure; default: all that own sinks.")
@click.option("--out", type=LocalPath(), required=True, help="Directory for the results.")
@click.option(
    "--corpus",
    multiple=True,
    metavar="INPUT",
    help="Where the text lies now; default: the inputs that the manifest was built from.",
)
@click.option(
    "--reference",
    type=LocalPath(),
    help="A run of the same recipe that never saw the chosen documents; default: measure against "
    "reserved documents.",
)
@click.option(
    "--oracle",
    is_flag=True,
    help="Train that reference here first: the recipe of RUN on the same text without the chosen "
    "sequences. Takes as long as training RUN did, once; kept in --out, and goes on after a stop.",
)
@click.option(
    "--questions",
    type=LocalPath(),
    help="Also ask these questions: JSONL of question, answer, doc_id, and for truth ratios "
    "paraphrased_answer and perturbed_answer, as TOFU has them.",
)
@click.option(
    "--question-template",
    "template",
    metavar="TEXT",
    help="What stands before an answer, as in the trained text; \\n is a line feed. "
    "Default: Question: {question}\\nAnswer:",
)
@click.option(
    "--documents",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Documents of each kind at most.",
)
@click.option(
    "--full",
    is_flag=True,
    help="Also attack the erased run: weights changed, other sinks, sampling, prompts from kept "
    "near-duplicates, relearning, prompt search; and forget in several requests. Says first how "
    "long it will take; run it again to go on after a stop.",
)
@click.pass_obj
def evaluate(
    settings: Settings,
    run: Path,
    manifest: Path,
    where: str | None,
    out: Path,
    corpus: tuple[str, ...],
    reference: Path | None,
    oracle: bool,
    questions: Path | None,
    template: str | None,
    documents: int,
    full: bool,
) -> None:
    """Measure what RUN remembers of documents, with every control, and write one page.

    Forgetting is simulated in memory; nothing is written to RUN. Scores are kept in --out, so
    that the same question asked again is answered at once.
    """
    from govern.evaluate.evaluating import EvaluateRequest
    from govern.evaluate.page import findings
    from govern.evaluate.writing import claim, write_evaluation
    from manifests import open_manifest

    if settings.quiet or not sys.stderr.isatty():
        from transformers.utils import logging

        logging.disable_progress_bar()
    if oracle and reference is not None:
        raise click.UsageError("--oracle trains the reference that --reference names: give one")
    if template is not None and "{question}" not in template:
        raise click.UsageError("--question-template wants {question} in it")
    request = EvaluateRequest(
        run=run,
        manifest=manifest,
        where=where,
        corpus=corpus,
        reference=reference,
        most=documents,
        full=full,
        questions=questions,
        template=None if template is None else template.replace("\\n", "\n"),
    )
    cache = claim(out, run)
    if oracle:
        request = _with_oracle(settings, request, out)
    note(settings, f"measuring {run} into {out}")
    evaluation = _measured(settings, request, cache)
    files = write_evaluation(evaluation, open_manifest(manifest), out)
    lines = findings(evaluation)
    result = {
        "out": str(out),
        "page": str(files["EVALUATION.html"]),
        "chosen": dict(evaluation.chosen),
        "metrics": evaluation.metrics.to_pylist(),
        "findings": lines,
    }
    emit(settings, result, lambda: "\n".join([*lines, "", f"{files['EVALUATION.html']}"]))


def _with_oracle(settings: Settings, request: EvaluateRequest, out: Path) -> EvaluateRequest:
    """The request with a reference that is trained here, unless it was before."""
    from govern.evaluate.oracle import plan_oracle, train_oracle

    oracle = plan_oracle(request, out)
    what = f"{oracle.documents:,} documents, without {len(oracle.without):,} chosen sequences"
    verb = "the oracle is there" if oracle.trained else "training the oracle"
    note(settings, f"{verb}: {what}, {oracle.path}")
    with training_progress(settings) as report:
        reference = train_oracle(request, oracle, report=report)
    return dataclasses.replace(request, reference=reference)


def _measured(settings: Settings, request: EvaluateRequest, cache: Path) -> Evaluation:
    """The evaluation, with a bar over its steps and a word on how long attacks take."""
    from govern.evaluate.evaluating import count_steps
    from govern.evaluate.evaluating import evaluate as measure

    done, total = 0, count_steps(request)
    with progress_bar(settings, "measuring") as bar:

        def report(step: str) -> None:
            nonlocal done
            done += 1
            if bar is not None:
                bar.update(done, total, step)

        def announce(tasks: int, seconds: float) -> None:
            nonlocal total
            total += tasks
            note(settings, f"{tasks} attacks; those not done yet take about {duration(seconds)}")

        return measure(request, cache=cache, report=report, announce=announce)
