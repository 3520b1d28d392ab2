"""`govern ids`: raw corpora to sequence IDs."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from govern.cli.paths import LocalPath
from govern.cli.render import Settings, emit, note
from govern.engines import ENGINES, LOCAL
from manifests.errors import InputError, StoppedError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from govern.ids.add import AddReport
    from govern.ids.pipeline import BuildReport


def _engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Who does the work."""
    address = click.option(
        "--engine-address",
        metavar="ADDRESS",
        help="A Ray cluster (auto, host:port) or Spark master.  [default: one on this machine]",
    )
    engine = click.option(
        "--engine",
        type=click.Choice(ENGINES),
        default=LOCAL,
        show_default=True,
        help="Threads of this process, processes of this machine, or a cluster: docs/scale.md.",
    )
    return engine(address(command))


@click.group(epilog="Example: govern ids build corpus.jsonl.gz --out manifest")
def ids() -> None:
    """Give every document of a raw corpus a sequence ID."""


@ids.command(epilog="Example: govern ids build 'dolma/*.json.gz' --out manifest --keep license")
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option("--out", required=True, type=LocalPath(), help="The new manifest.")
@click.option("--source", help="Source of all documents.  [default: the input's name]")
@click.option("--text-field", default="text", show_default=True, help="The field with the text.")
@click.option("--id-field", default="id", show_default=True, help="The field with the ID.")
@click.option(
    "--keep", default="", metavar="COL,...", help="Columns to keep, such as owner,license."
)
@click.option(
    "--threshold",
    default=0.7,
    show_default=True,
    help="Least Jaccard similarity of near-duplicates.",
)
@click.option("--ngram", default=5, show_default=True, help="Words of a shingle.")
@click.option(
    "--reserve",
    default=0.0,
    show_default=True,
    help="Fraction of sequences to set aside as never-trained reference.",
)
@click.option(
    "--tombstones",
    multiple=True,
    type=LocalPath(),
    metavar="MANIFEST",
    help="Recognise what was forgotten in this manifest; may be repeated.",
)
@click.option(
    "--memory",
    default="4GB",
    show_default=True,
    metavar="SIZE",
    help="What the pairs being compared may take; each document needs about 250 bytes besides.",
)
@click.option("--workers", type=int, help="Threads, or processes.  [default: all cores]")
@_engine_options
@click.option("--resume", is_flag=True, help="Go on with the unfinished build in --out.")
@click.pass_obj
def build(
    settings: Settings,
    inputs: tuple[str, ...],
    out: Path,
    source: str | None,
    text_field: str,
    id_field: str,
    keep: str,
    threshold: float,
    ngram: int,
    reserve: float,
    tombstones: tuple[Path, ...],
    memory: str,
    workers: int | None,
    engine: str,
    engine_address: str | None,
    resume: bool,
) -> None:
    """Read a corpus, find near-duplicates and write a manifest.

    A build that stops keeps what it has read in --out, in parts of 256 MB of text, and the same
    command with --resume goes on from there. While building, --out takes about four times the text
    on disk. The manifest is the same, resumed or not.

    INPUT is a file, a folder, a glob pattern, or an fsspec URL of these. Formats: JSONL, CSV, TSV,
    text, Parquet, Arrow, mbox and eml; with an extra of their own WARC and WET, HTML, PDF; each
    plain or compressed. Fields may be paths (meta.url) and alternatives (id,meta.url). Every record
    becomes a document or a reject. See docs/corpora.md.
    """
    import os

    from govern.ids.corpus import ReadOptions
    from govern.ids.output import is_unfinished
    from govern.ids.pipeline import BuildConfig, build_ids

    config = BuildConfig(
        read=ReadOptions(
            source=source,
            text_field=text_field,
            id_field=id_field,
            keep=tuple(name.strip() for name in keep.split(",") if name.strip()),
        ),
        threshold=threshold,
        ngram=ngram,
        reserve=reserve,
        tombstones=tombstones,
        memory=_bytes("--memory", memory),
        workers=workers if workers is not None else os.cpu_count() or 1,
        engine=engine,
        engine_address=engine_address,
    )
    with _stoppable("govern ids build", lambda: is_unfinished(out)), _progress(settings) as bars:
        report = build_ids(
            inputs, out, config, bars, resume=resume, note=lambda line: note(settings, line)
        )
    emit(settings, {**vars(report), "path": str(report.path)}, lambda: _report_text(report))


@ids.command(epilog="Example: govern ids add 'crawl-2/*.json.gz' --manifest manifest")
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option("--manifest", required=True, type=LocalPath(), help="The manifest to add to.")
@click.option("--source", help="Source of the new documents.  [default: as in the build]")
@click.option(
    "--memory",
    default="4GB",
    show_default=True,
    metavar="SIZE",
    help="What the pairs being compared may take; each document needs about 250 bytes besides.",
)
@click.option("--workers", type=int, help="Threads, or processes.  [default: all cores]")
@_engine_options
@click.pass_obj
def add(
    settings: Settings,
    inputs: tuple[str, ...],
    manifest: Path,
    source: str | None,
    memory: str,
    workers: int | None,
    engine: str,
    engine_address: str | None,
) -> None:
    """Add documents to a manifest as a new snapshot.

    The sequences become those of one build over everything, without reading old text. IDs are
    kept; IDs that merged become aliases. Text that was forgotten is recognised and stays out of
    training. A record that is there already changes nothing; one whose text changed is refused.
    """
    import os

    from govern.ids.add import AddConfig, add_documents

    config = AddConfig(
        source=source,
        memory=_bytes("--memory", memory),
        workers=workers if workers is not None else os.cpu_count() or 1,
        engine=engine,
        engine_address=engine_address,
    )
    with _stoppable("govern ids add", lambda: False), _progress(settings) as bars:
        report = add_documents(inputs, manifest, config, bars)
    emit(settings, {**vars(report), "path": str(report.path)}, lambda: _added_text(report))


def _added_text(report: AddReport) -> str:
    lines = [
        f"manifest   {report.path}, snapshot {report.snapshot}",
        *_inputs_text(report),
        f"documents  {report.documents:,} new, {report.already_there:,} already there",
        f"sequences  {report.new_sequences:,} new, {report.joined:,} documents joined old ones, "
        f"{report.merged:,} merged, {report.reassigned:,} documents reassigned",
        f"forgotten  {report.reappeared_forgotten:,} documents hold text that was forgotten",
        f"rejects    {report.rejects:,}" + _reasons(report.reject_reasons),
        f"digest     {report.digest}",
        f"time       {report.seconds:.1f} s",
    ]
    if report.other_extractors:
        lines.insert(
            -2,
            f"extracted  by {', '.join(report.other_extractors)} in earlier snapshots: the same "
            "page may give another text now",
        )
    if report.repeated_shared:
        lines.insert(
            -2,
            f"policies   {report.repeated_shared:,} sequences of policy shared have copies now; "
            "see `govern manifest policy`",
        )
    return "\n".join(lines)


def _inputs_text(report: AddReport | BuildReport) -> list[str]:
    read = f"{report.records:,} in {report.files:,} files, {report.text_bytes:,} bytes"
    lines = [f"records    {read}"]
    if report.skipped:
        total = sum(report.skipped.values())
        kinds = ", ".join(f"{why} {n:,}" for why, n in report.skipped.items())
        lines.append(f"skipped    {total:,} files: {kinds}")
    if report.extractors:
        lines.append(f"extractors {', '.join(report.extractors)}")
    return lines


def _report_text(report: BuildReport) -> str:
    lines = [
        f"manifest   {report.path}",
        *_inputs_text(report),
        f"documents  {report.documents:,}, {report.distinct_texts:,} distinct texts",
        f"sequences  {report.sequences:,}, from {report.links:,} verified links",
        f"rejects    {report.rejects:,}" + _reasons(report.reject_reasons),
        f"digest     {report.digest}",
        f"time       {report.seconds:.1f} s",
    ]
    if report.forgotten:
        lines.insert(-2, f"forgotten  {report.forgotten:,} sequences hold text that was forgotten")
    return "\n".join(lines)


def _bytes(option: str, text: str) -> int:
    """A size such as 4GB, 500MB or 1073741824."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip().upper())
    if match is None:
        raise InputError(
            f"{option} {text}",
            expected="a size such as 4GB",
            found="something else",
            remedy="give a number with KB, MB, GB or TB",
        )
    return int(float(match[1]) * 1000 ** " KMGT".index(match[2] or " "))


def _reasons(reasons: Mapping[str, int]) -> str:
    return "".join(f"; {reason} {n:,}" for reason, n in reasons.items())


class _Bars:
    """Stages as rich progress bars on stderr."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def stage(self, name: str, total: int | None, unit: str) -> None:
        """Finish the bar before and begin another."""
        self._end()
        self._task = self._bars.add_task(f"{name} ({unit})", total=total)

    def advance(self, amount: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bars.advance(self._task, amount)

    def _end(self) -> None:
        if self._task is not None:
            done = self._bars.tasks[-1].completed
            self._bars.update(self._task, total=done, completed=done)


@contextmanager
def _stoppable(command: str, is_unfinished: Callable[[], bool]) -> Iterator[None]:
    """Make Ctrl-C and SIGTERM one line that says how to go on."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        remedy = "what was there before is as it was; run it again"
        if is_unfinished():
            remedy = "run it again with --resume to go on, or without to begin anew"
        raise StoppedError(
            command, expected="to run to its end", found="an interruption", remedy=remedy
        ) from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _progress(settings: Settings) -> Iterator[_Bars | None]:
    if settings.quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield _Bars(bars)
