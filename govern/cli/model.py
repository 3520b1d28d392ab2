"""`govern generate` and `govern export`: a trained run at work, and on its way out."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from govern.cli.paths import LocalPath
from govern.cli.render import Settings, emit, note
from manifests.errors import InputError
from manifests.files import canonical_json, fsync_directory, sha256_file
from manifests.sequence_id import format_id, parse_id

if TYPE_CHECKING:
    from sinkmodel.checkpoint import Run

_EXPORT_RECORD = "export.json"
_EXPORT_FORMAT = "memsinks-govern export"


@click.command(
    epilog="Example: govern generate run --prompt 'Permission is hereby granted' --sinks route"
)
@click.argument("run", type=LocalPath())
@click.option("--prompt", required=True, help="Text to continue.")
@click.option(
    "--sinks",
    default="off",
    show_default=True,
    metavar="off|route|ID,…",
    help="No sinks; those of the sequence most like the prompt; or one continuation for each ID.",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Length of a continuation at most.",
)
@click.pass_obj
def generate(settings: Settings, run: Path, prompt: str, sinks: str, max_new_tokens: int) -> None:
    """Continue a prompt greedily with the model of RUN."""
    from sinkmodel.checkpoint import load_run

    chosen = [] if sinks in ("off", "route") else [parse_id(text) for text in sinks.split(",")]
    _quiet_libraries(settings)
    loaded = load_run(run)
    if sinks == "route":
        chosen = _routed(settings, loaded, prompt)
    texts = _continuations(loaded, prompt, chosen or [0], max_new_tokens)
    names = [format_id(sequence_id) for sequence_id in chosen] or ["off"]
    result = {
        "run": str(run),
        "prompt": prompt,
        "continuations": [
            {"sinks": name, "text": text} for name, text in zip(names, texts, strict=True)
        ],
    }
    emit(settings, result, lambda: _as_text(prompt, names, texts))


def _as_text(prompt: str, names: list[str], texts: list[str]) -> str:
    if len(texts) == 1:
        return prompt + texts[0]
    return "\n\n".join(f"[{name}]\n{prompt}{text}" for name, text in zip(names, texts, strict=True))


def _routed(settings: Settings, run: Run, prompt: str) -> list[int]:
    """The sequence that the prompt resembles, or none."""
    from sinkmodel.routing import ROUTE_INDEX_FILE, RouteIndex

    match = RouteIndex.read(run.path / ROUTE_INDEX_FILE).route(prompt, run.model.sink_map)
    if match is None:
        note(settings, "no indexed text resembles the prompt: sinks are off")
        return []
    note(settings, f"routed to {format_id(match.sequence_id)}, similarity {match.similarity:.2f}")
    return [match.sequence_id]


def _continuations(
    run: Run, prompt: str, sequence_ids: list[int], max_new_tokens: int
) -> list[str]:
    """One greedy continuation for each sequence ID; 0 is sinks off."""
    import torch

    tokens = run.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if run.tokenizer.bos_token_id is not None:
        tokens = [run.tokenizer.bos_token_id, *tokens]  # as in training
    if not tokens:
        raise InputError(
            "--prompt",
            expected="some text",
            found="nothing, and a tokenizer without a begin token",
            remedy="give the beginning of a text",
        )
    input_ids = torch.tensor([tokens] * len(sequence_ids))
    output = run.model.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        sequence_ids=torch.tensor(sequence_ids, dtype=torch.int64),
        max_new_tokens=max_new_tokens,
        do_sample=False,
    )
    new = output[:, len(tokens) :]
    return [str(run.tokenizer.decode(row, skip_special_tokens=True)) for row in new.tolist()]


@click.command(epilog="Example: govern export run --out plain-llama")
@click.argument("run", type=LocalPath())
@click.option("--out", type=LocalPath(), required=True, help="Directory to create.")
@click.option(
    "--sinks",
    type=click.Choice(["off"]),
    default="off",
    show_default=True,
    help="A plain Llama has no sinks.",
)
@click.pass_obj
def export(settings: Settings, run: Path, out: Path, sinks: str) -> None:
    """Write the shared model of RUN as a Llama checkpoint that any transformers or vLLM loads."""
    from sinkmodel.checkpoint import load_run
    from sinkmodel.conversion import export_llama
    from sinkmodel.weights import SHARED_FILE

    _check_export_target(out)
    _quiet_libraries(settings)
    loaded = load_run(run)
    llama = export_llama(loaded.model)
    record = {
        "format": _EXPORT_FORMAT,
        "sinks": sinks,
        "run": {SHARED_FILE: sha256_file(run / SHARED_FILE)},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    # Built beside its place and renamed, so that a kill leaves no half-written checkpoint.
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        built = Path(folder) / "export"
        llama.save_pretrained(built)
        loaded.tokenizer.save_pretrained(built)
        (built / _EXPORT_RECORD).write_bytes(canonical_json(record))
        if out.exists():
            shutil.rmtree(out)
        built.rename(out)
    fsync_directory(out.parent)
    result: dict[str, Any] = {
        "out": str(out),
        "sinks": sinks,
        "parameters": llama.num_parameters(),
    }
    emit(settings, result, lambda: f"{out}: a Llama of {result['parameters']:,} parameters")


def _check_export_target(out: Path) -> None:
    """Only what does not exist, is empty, or was exported before may be replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if (out / _EXPORT_RECORD).is_file() and _EXPORT_FORMAT in (out / _EXPORT_RECORD).read_text():
        return
    raise InputError(
        f"--out {out}",
        expected="a directory that does not exist yet, is empty, or was exported before",
        found="other files" if out.is_dir() else "a file",
        remedy="choose another name",
    )


def _quiet_libraries(settings: Settings) -> None:
    """No bars of the model library where ours would not show either."""
    if settings.quiet or not sys.stderr.isatty():
        from transformers.utils import logging

        logging.disable_progress_bar()
