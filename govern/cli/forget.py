"""`govern forget`: zero the sinks of chosen documents and prove it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from govern.cli.paths import LocalPath
from govern.cli.render import Settings, emit, note

if TYPE_CHECKING:
    from govern.forget.call import ForgetOutcome
    from govern.forget.measuring import Measurer
    from govern.forget.request import ForgetRequest

_PATH = LocalPath()
_EXIT_FAILED = 3


@dataclass(frozen=True, kw_only=True)
class _Options:
    """The options of one call, named as click gives them."""

    manifest: Path
    doc_id: tuple[str, ...]
    sequence_id: tuple[str, ...]
    where: str | None
    text_file: tuple[Path, ...]
    min_similarity: float | None
    skip_quoted: bool
    all_sinks: bool
    request_file: Path | None
    from_plan: Path | None
    also: tuple[Path, ...]
    out: Path | None
    in_place: bool
    plan: bool
    plan_file: Path | None
    request: str | None
    reason: str | None
    key: tuple[Path, ...]
    passphrase_env: tuple[str, ...]
    max_collateral: float
    report: Path | None
    ledger: Path | None
    reference: Path | None
    corpus: tuple[str, ...]
    yes: bool


@click.command(
    epilog="Example: govern forget run --manifest manifest --doc-id MIT --out run-after "
    "--request R-17 --reason 'GDPR art. 17' --key keys/govern-private.pem"
)
@click.argument("run", type=_PATH)
@click.option("--manifest", type=_PATH, required=True, help="The manifest RUN was trained on.")
@click.option("--doc-id", multiple=True, metavar="ID", help="A document; may be repeated.")
@click.option("--sequence-id", multiple=True, metavar="ID", help="A sequence; may be repeated.")
@click.option("--where", metavar="SQL", help="A condition over the columns of documents.")
@click.option("--text-file", multiple=True, type=_PATH, help="A text; may be repeated.")
@click.option(
    "--min-similarity",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="J",
    help="With --text-file: also documents of this Jaccard similarity or more.",
)
@click.option(
    "--skip-quoted",
    is_flag=True,
    help="Do not look for other sequences that quote the chosen ones; it reads all shingle sets.",
)
@click.option("--all-sinks", is_flag=True, help="Everything that owns sinks.")
@click.option(
    "--request-file", type=_PATH, metavar="JSON", help="Many subjects, erased in one operation."
)
@click.option("--from-plan", type=_PATH, metavar="PLAN", help="Execute what --plan-file wrote.")
@click.option(
    "--also",
    type=_PATH,
    multiple=True,
    metavar="RUN",
    help="Another checkpoint of the same training, for --in-place and --plan; may be repeated.",
)
@click.option("--out", type=_PATH, help="Write the erased run there.")
@click.option("--in-place", is_flag=True, help="Erase RUN itself. There is no undo.")
@click.option("--plan", is_flag=True, help="Show what would be done; change nothing.")
@click.option(
    "--plan-file",
    type=_PATH,
    metavar="PLAN",
    help="With --plan: write the plan there, to be approved and executed with --from-plan.",
)
@click.option("--request", metavar="REF", help="Your reference of the request.")
@click.option("--reason", metavar="TEXT", help="Legal basis or reason; must not name a person.")
@click.option(
    "--key",
    type=_PATH,
    multiple=True,
    help="Private key that signs report and ledger; repeat it for an approver.",
)
@click.option(
    "--passphrase-env",
    metavar="NAME",
    multiple=True,
    help="Environment variable with the passphrase of an encrypted --key; may be repeated.",
)
@click.option(
    "--max-collateral",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of its sinks that a kept sequence may lose.",
)
@click.option(
    "--report",
    type=_PATH,
    help="Directory for REPORT.json and REPORT.html; with --also, of a directory for each run.",
)
@click.option("--ledger", type=_PATH, help="Ledger directory.  [default: ledger, beside RUN]")
@click.option(
    "--reference",
    type=_PATH,
    metavar="RUN",
    help="A run of the same recipe that never saw the documents, to compare with.",
)
@click.option(
    "--corpus",
    multiple=True,
    metavar="INPUT",
    help="Where the text lies now; default: the inputs that the manifest was built from.",
)
@click.option("--yes", is_flag=True, help="Do not ask before --in-place.")
@click.pass_context
def forget(ctx: click.Context, /, run: Path, **values: Any) -> None:
    """Zero the sinks of chosen documents in RUN, verify it, and sign a report.

    The selection is closed over duplicates: every copy of a chosen text is forgotten with it.
    Give exactly one selection, and exactly one of --out, --in-place and --plan.
    """
    settings: Settings = ctx.obj
    options = _Options(**values)
    _require_usable(ctx, options)
    if options.plan:
        _show_plan(settings, run, options)
        return
    if options.in_place:
        _warn_of_no_undo(ctx, settings, run, options)
    outcome = _execute(settings, run, options)
    emit(settings, _as_json(outcome), lambda: _as_text(outcome, options.manifest))
    if "FAILED" in {one.verdict for one in (outcome, *outcome.also)}:
        ctx.exit(_EXIT_FAILED)


def _require_usable(ctx: click.Context, options: _Options) -> None:
    """Refuse options that contradict each other or lack another one."""
    _require_one(
        ctx,
        options,
        "doc_id",
        "sequence_id",
        "where",
        "text_file",
        "all_sinks",
        "request_file",
        "from_plan",
    )
    _require_one(ctx, options, "out", "in_place", "plan")
    if options.also:
        for name in ("out", "from_plan", "plan_file"):
            if getattr(options, name):
                raise click.UsageError(f"--also does not go with --{name.replace('_', '-')}.", ctx)
    if options.min_similarity is not None and not options.text_file:
        raise click.UsageError("--min-similarity goes with --text-file.", ctx)
    if options.from_plan:
        fixed = ("plan", "request", "reason", "max_collateral", "skip_quoted")
        for name in fixed:
            if ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
                flag = name.replace("_", "-")
                raise click.UsageError(f"--{flag} does not go with --from-plan.", ctx)
        return
    if options.plan_file and not options.plan:
        raise click.UsageError("--plan-file goes with --plan.", ctx)
    if options.plan_file or not options.plan:
        for name in ("request", "reason"):
            if not getattr(options, name):
                raise click.UsageError(f"Missing option '--{name}'.", ctx)


def _warn_of_no_undo(ctx: click.Context, settings: Settings, run: Path, options: _Options) -> None:
    """Ask on a terminal; elsewhere `--yes` must have answered already."""
    runs = ", ".join(map(str, (run, *options.also)))
    if options.yes:
        note(
            settings, f"{runs} {'are' if options.also else 'is'} erased in place: there is no undo"
        )
    elif not is_terminal():
        raise click.UsageError(
            "--in-place cannot be undone; give --yes where no terminal can ask.", ctx
        )
    else:
        question = f"{runs} will be erased in place. There is no undo. Continue?"
        click.confirm(question, abort=True, err=True)


def is_terminal() -> bool:
    """Whether a person can be asked; the tests answer for one."""
    return sys.stdin.isatty()


def make_measurer(corpus: tuple[str, ...], reference: Path | None) -> Measurer | None:
    """Whoever measures behaviour for the command; the tests put another one here."""
    from govern.forget.model_measurer import ModelMeasurer

    return ModelMeasurer(corpus=corpus or None, reference=reference)


def _show_plan(settings: Settings, run: Path, options: _Options) -> None:
    from govern.forget.estimate import estimate, estimate_text
    from govern.forget.execute import plan_checkpoints
    from govern.forget.plan_file import make_plan_file, write_plan_file
    from govern.forget.plan_text import also_text, plan_text

    request = _request(options)
    plan, *others = plan_checkpoints(
        (run, *options.also), options.manifest, request, max_collateral=options.max_collateral
    )
    cost = estimate(plan, run)
    result = plan.to_dict() | {"estimate": cost.to_dict()}
    lines = [plan_text(plan), estimate_text(cost)]
    also = [(path, p, estimate(p, path)) for path, p in zip(options.also, others, strict=True)]
    if also:
        result["also"] = [
            {"run": str(path)} | p.to_dict() | {"estimate": c.to_dict()} for path, p, c in also
        ]
    for path, p, c in also:
        lines += [also_text(path, p, plan), estimate_text(c)]
    if options.plan_file:
        file = make_plan_file(request, plan, run)
        write_plan_file(file, options.plan_file)
        result |= {"plan_file": str(options.plan_file), "plan_sha256": file.digest}
        lines += [f"Plan file  {options.plan_file}", f"  digest {file.digest}"]
    emit(settings, result, lambda: "\n".join(lines))


def _execute(settings: Settings, run: Path, options: _Options) -> ForgetOutcome:
    from govern.cli.keys import load_keys
    from govern.forget.execute import forget as execute
    from govern.forget.plan_file import read_plan_file
    from manifests.errors import InputError

    if not options.key:
        raise InputError(
            "--key",
            expected="a private key to sign the report",
            found="none",
            remedy="make one with `govern audit keygen --out keys`, or look at --plan first",
        )
    approved = read_plan_file(options.from_plan) if options.from_plan else None
    note(settings, f"forgetting in {', '.join(map(str, (run, *options.also)))}")
    return execute(
        run,
        options.manifest,
        approved.asked if approved else _request(options),
        also=options.also,
        out=options.out,
        in_place=options.in_place,
        key=load_keys(options.key, options.passphrase_env),
        ledger=options.ledger,
        report_dir=options.report,
        max_collateral=options.max_collateral,
        measurer=make_measurer(options.corpus, options.reference),
        approved=approved,
    )


def _request(options: _Options) -> ForgetRequest:
    from govern.forget.request import ForgetRequest, Kind
    from govern.forget.request_file import read_request_file

    chosen: list[tuple[Kind, tuple[str, ...]]] = [
        ("doc-id", options.doc_id),
        ("sequence-id", options.sequence_id),
        ("where", () if options.where is None else (options.where,)),
        ("text-file", tuple(map(str, options.text_file))),
    ]
    kind, values = next(((k, v) for k, v in chosen if v), ("all-sinks", ()))
    if options.request_file:
        kind = "request-file"
    return ForgetRequest(
        kind=kind,
        values=values,
        reference=options.request or "plan",
        reason=options.reason or "plan",
        min_similarity=options.min_similarity,
        quotations=not options.skip_quoted,
        subjects=read_request_file(options.request_file) if options.request_file else (),
    )


def _require_one(ctx: click.Context, options: _Options, *names: str) -> None:
    given = [name for name in names if getattr(options, name) not in (None, (), False)]
    if len(given) != 1:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in names)
        raise click.UsageError(f"Give exactly one of {flags}; found {len(given)}.", ctx)


def _as_json(outcome: ForgetOutcome) -> dict[str, Any]:
    also = {"also": [_as_json(other) for other in outcome.also]} if outcome.also else {}
    return also | {
        "run": str(outcome.run),
        "sequence_ids": [s.sequence_id for s in outcome.plan.sequences],
        "documents": len(outcome.plan.documents),
        "blocks": len(outcome.plan.blocks),
        "report": None if outcome.report is None else str(outcome.report),
        "html": None if outcome.html is None else str(outcome.html),
        "ledger": None if outcome.ledger is None else str(outcome.ledger),
        "verdict": outcome.verdict,
        "reasons": list(outcome.reasons),
        "already_forgotten": outcome.already_forgotten,
    }


def _as_text(outcome: ForgetOutcome, manifest: Path) -> str:
    from govern.forget.plan_text import also_text, plan_text

    parts: list[str] = []
    shown = None
    for one in (outcome, *outcome.also):
        if one.already_forgotten:
            where = f"; the report is {one.report}" if one.report else ""
            which = f" in {one.run}" if outcome.also else ""
            parts.append(f"Nothing to do{which}: all of this was forgotten before{where}.")
            continue
        parts.append(also_text(one.run, one.plan, shown) if shown else plan_text(one.plan))
        parts.append(_what_was_done(one, manifest))
        shown = shown or one.plan
    return "\n".join(parts)


def _what_was_done(outcome: ForgetOutcome, manifest: Path) -> str:
    lines = [
        f"Erased     {outcome.run}",
        f"Verdict    {outcome.verdict}",
        *(f"  {reason}" for reason in outcome.reasons),
        f"Report     {outcome.report}",
        f"Page       {outcome.html}",
        f"Ledger     {outcome.ledger}",
        f"Verify     govern audit verify {outcome.report} --model {outcome.run} "
        f"--ledger {outcome.ledger} --manifest {manifest}",
    ]
    return "\n".join(lines)
