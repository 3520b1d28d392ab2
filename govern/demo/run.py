"""The steps of the guided run, in order. Each uses the toolkit as a user would, through its API."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from govern.audit.signing import generate_keys
from govern.audit.verify import verify_report
from govern.demo.choose import Chooser, Chosen
from govern.demo.embedded import write_embedded_corpus
from govern.demo.places import Places
from govern.demo.story import Recitation, Story
from govern.demo.training import Progressing, chapter_train
from govern.forget.call import ForgetOutcome
from govern.forget.execute import forget
from govern.forget.model_measurer import ModelMeasurer
from govern.forget.request import ForgetRequest
from govern.ids.corpus import ReadOptions
from govern.ids.pipeline import BuildConfig, build_ids
from govern.ids.texts import read_texts
from manifests import Manifest, open_manifest
from manifests.errors import InputError, IntegrityError
from manifests.files import atomic_write
from manifests.queries import largest_sequences
from manifests.sequence_id import format_id
from manifests.writer import set_policy

if TYPE_CHECKING:
    from sinkmodel.checkpoint import Run

MARKER = ".govern-demo"
RESERVE = 0.1
REFERENCE = "DEMO-1"
_PREFIX = _LENGTH = 50


@dataclass(frozen=True, kw_only=True)
class DemoOutcome:
    """What the demo ends with.

    Args:
        places: Where everything lies.
        verdict: Of the report.
        checks: Checks of `govern audit verify` by outcome.
        recitations: Verbatim tokens before and after, by title.
        seconds: Wall time.
    """

    places: Places
    verdict: str
    checks: Mapping[str, int]
    recitations: tuple[Recitation, ...]
    seconds: float


def run_demo(out: Path, story: Story, progress: Progressing = nullcontext) -> DemoOutcome:
    """Tell the whole story below `out`; a former demo there is replaced.

    Args:
        out: A directory that is new, empty, or of a former demo.
        story: Prints the chapters.
        progress: Opens what training reports to.

    Raises:
        InputError: `out` holds something else, or this installation has too little text.
        IntegrityError: The demo's own report does not verify.
    """
    begin = time.monotonic()
    places = Places(out=out)
    _clear(out)
    manifest, texts = _chapter_ids(places, story)
    chooser = Chooser(manifest, texts, ngram=int(manifest.parameters["ngram"]))
    family, strict, neighbour = _chapter_policies(places, story, chooser)
    shown = (family, strict, neighbour)
    chapter_train(places, story, {family.sequence_id, strict.sequence_id}, progress)
    outcome = _chapter_forget(places, story, family, strict)
    recitations = _chapter_recite(places, story, shown, texts)
    checks = _chapter_verify(places, story, outcome)
    assert outcome.verdict is not None  # a fresh erase always has a report
    return DemoOutcome(
        places=places,
        verdict=outcome.verdict,
        checks=checks,
        recitations=recitations,
        seconds=time.monotonic() - begin,
    )


def _clear(out: Path) -> None:
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        if not (out / MARKER).is_file():
            raise InputError(
                f"--out {out}",
                expected="a directory that is new, empty, or of a former demo",
                found="other files",
                remedy="choose another name with --out",
            )
        shutil.rmtree(out)
    atomic_write(out / MARKER, b"Written by `govern demo`, which may replace this directory.\n")


# --- chapters ------------------------------------------------------------------------------------


def _chapter_ids(places: Places, story: Story) -> tuple[Manifest, dict[tuple[str, str], str]]:
    story.chapter(1, "A raw corpus gets sequence IDs")
    corpus = write_embedded_corpus(places.corpus)
    found = ", ".join(f"{count} {name}" for name, count in corpus.counts)
    story.say(f"Text of this Python installation: {found}.")
    if corpus.bundles:
        story.say(f"Left out: {corpus.bundles} licence files that are bundles of many licences.")
    config = BuildConfig(read=ReadOptions(keep=("owner",)), reserve=RESERVE)
    built = build_ids(list(corpus.files), places.manifest, config)
    manifest = open_manifest(places.manifest)
    story.say(
        f"{built.documents} documents ({built.text_bytes / 1e6:.1f} MB), {built.rejects} rejected: "
        f"{built.sequences} sequences, {built.links} verified links, {built.seconds:.1f} s."
    )
    rows = largest_sequences(manifest, 4).to_pylist()
    story.table(
        ["largest families of copies", "documents", "sequence ID"],
        [
            (_short(r["representative_doc_id"]), str(r["n_docs"]), format_id(r["sequence_id"]))
            for r in rows
        ],
    )
    texts: dict[tuple[str, str], str] = {}
    for batch in read_texts(manifest):
        columns = (batch.column(name).to_pylist() for name in ("source", "doc_id", "text"))
        texts.update(
            ((source, doc_id), text) for source, doc_id, text in zip(*columns, strict=True)
        )
    return manifest, texts


def _chapter_policies(
    places: Places, story: Story, chooser: Chooser
) -> tuple[Chosen, Chosen, Chosen]:
    story.chapter(2, "Policies: what a text may leave behind")
    family, strict = chooser.family(), chooser.strict()
    neighbour = chooser.neighbour(family)
    name = strict.doc_id.replace("'", "''")
    set_policy(places.manifest, f"doc_id = '{name}'", "strict")
    story.say(
        f"private: {_short(family.doc_id)}, {family.copies} copies; at most "
        f"{family.quoted:.0%} of it stands in any other document."
    )
    story.say(f"strict:  {strict.doc_id}; at most {strict.quoted:.0%} of it stands elsewhere.")
    story.say(f"kept:    {_short(neighbour.doc_id)}, {neighbour.copies} copies, a neighbour.")
    return family, strict, neighbour


def _chapter_forget(places: Places, story: Story, family: Chosen, strict: Chosen) -> ForgetOutcome:
    story.chapter(4, "Both texts are forgotten")
    keys = generate_keys(places.keys)
    outcome = forget(
        places.run,
        places.manifest,
        ForgetRequest(
            kind="doc-id",
            values=(family.doc_id, strict.doc_id),
            reference=REFERENCE,
            reason="demonstration",
        ),
        out=places.forgotten,
        key=keys.private,
        ledger=places.ledger,
        report_dir=places.report,
        measurer=ModelMeasurer(reference=places.reference),
        operator="govern demo",
    )
    plan = outcome.plan
    story.say(
        f"{len(plan.documents)} documents are covered (2 were asked for, the others are copies); "
        f"{len(plan.blocks)} blocks of sinks in {plan.layers} layers are zeroed."
    )
    story.say(f"Verdict of the report: {outcome.verdict}.")
    for reason in outcome.reasons:
        story.say(f"  {reason}")
    _show_figures(story, outcome)
    return outcome


def _show_figures(story: Story, outcome: ForgetOutcome) -> None:
    from govern.audit.report_file import read_report

    assert outcome.report is not None  # as in run_demo
    rows = read_report(outcome.report).statement().predicate.verification.metrics
    value = {(row.metric, row.group, str(row.phase)): row.value for row in rows}
    groups = (
        ("licence", "forgotten:private"),
        ("strict text", "forgotten:strict"),
        ("kept", "kept"),
    )
    figures = []
    for name, group in groups:
        cells = [
            value.get((metric, group, phase))
            for metric, phase in (
                ("loss", "before"),
                ("loss", "after"),
                ("loss", "reference"),
                ("loss_gap_closed", "after"),
                ("extraction_strength", "after"),
                ("identical_losses", "after"),
            )
        ]
        figures.append((name, *("–" if cell is None else f"{cell:.3f}" for cell in cells)))
    story.table(
        ["loss, nats", "before", "after", "never saw", "gap closed", "extraction", "same bits"],
        figures,
    )


def _chapter_recite(
    places: Places,
    story: Story,
    shown: tuple[Chosen, Chosen, Chosen],
    texts: Mapping[tuple[str, str], str],
) -> tuple[Recitation, ...]:
    from sinkmodel.checkpoint import load_run
    from sinkmodel.evaluate.controls import reactivated

    story.chapter(5, "What the model recites, its own sinks switched on")
    before, after = load_run(places.run), load_run(places.forgotten)
    titles = ("Forgotten licence", "Forgotten strict text", "Kept neighbour")
    told = []
    # After the erase the forgotten IDs are routed to their (empty) sinks again, in memory.
    with reactivated(after.model, [shown[0].sequence_id, shown[1].sequence_id]):
        for title, chosen in zip(titles, shown, strict=True):
            text = texts[chosen.source, chosen.doc_id]
            name = f"{title}: {_short(chosen.doc_id)}"
            told.append(_recited(before, after, name, text, chosen.sequence_id))
            story.recitation(told[-1])
    return tuple(told)


def _recited(before: Run, after: Run, title: str, text: str, sequence_id: int) -> Recitation:
    from sinkmodel.evaluate.generation import recite
    from sinkmodel.tokens import encode

    tokens = encode([text], before.tokenizer)[0]
    sides = []
    for run in (before, after):
        recital = recite(run.model, [tokens], [sequence_id], prefix=_PREFIX, length=_LENGTH)[0]
        assert recital is not None  # the chosen texts have 150 words or more
        sides.append(recital)

    def decode(ids: Any) -> str:
        return str(before.tokenizer.decode(ids, skip_special_tokens=True))

    return Recitation(
        title=title,
        prefix=decode(tokens[:_PREFIX].tolist()),
        truth=decode(sides[0].truth),
        before=decode(sides[0].recited),
        after=decode(sides[1].recited),
        verbatim_before=sides[0].verbatim,
        verbatim_after=sides[1].verbatim,
        length=_LENGTH,
    )


def _chapter_verify(places: Places, story: Story, outcome: ForgetOutcome) -> dict[str, int]:
    assert outcome.report is not None  # as in run_demo
    story.chapter(6, "A stranger verifies the report")
    public = places.keys / "govern-public.pem"
    verification = verify_report(
        outcome.report,
        model=places.forgotten,
        manifest=places.manifest,
        public_key=public,
        ledger=places.ledger,
    )
    counts: dict[str, int] = {}
    for check in verification.checks:
        counts[check.outcome] = counts.get(check.outcome, 0) + 1
    story.say(", ".join(f"{count} checks {name}" for name, count in sorted(counts.items())) + ".")
    if verification.failed:
        first = verification.failed[0]
        raise IntegrityError(
            f"the demo's report {outcome.report}",
            expected=f"every check to pass ({first.name})",
            found=first.detail,
            remedy="run `govern audit verify` on it, and report this as a fault of the tool",
        )
    relative = _readable
    story.say("Run it yourself:")
    story.command(
        f"govern audit verify {relative(outcome.report)} --model {relative(places.forgotten)} "
        f"--manifest {relative(places.manifest)} --public-key {relative(public)} "
        f"--ledger {relative(places.ledger)}"
    )
    story.say(f"The page to read: {relative(places.report / 'REPORT.html')}")
    return counts


def _readable(path: Path) -> str:
    """The path as somebody would type it from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _short(doc_id: str) -> str:
    """A document ID without the middle of its path."""
    parts = doc_id.split("/")
    return doc_id if len(parts) < 4 else "/".join((parts[0], parts[1], "…", parts[-1]))
