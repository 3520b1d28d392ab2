"""TOFU with strict sinks: 200 invented authors learned beside a base model, then a tenth forgotten.

    python benchmarks/tofu.py DATA --work DIR --stage base
    python benchmarks/tofu.py DATA --work DIR --stage strict --seed 0
    python benchmarks/tofu.py DATA --work DIR --stage never --seed 0
    python benchmarks/tofu.py DATA --work DIR --stage compare --seed 0

DATA holds TOFU (Maini et al. 2024, arXiv 2401.06121) and the corpora that the base model reads.

    base      a small Llama trained on the other corpora, exported as a plain checkpoint
    strict    `--base` training on TOFU, one document and so one sequence an author, all strict
    never     the same without the authors of a set (--forget): what forgetting must equal
    compare   answers under their own sinks before and after; weights and losses of both runs by bit

`--authors N` takes N authors only, the last 20 (those to forget) and before them the first ones.
Strict sequences learn alone, so their blocks are those of a training on all 200, to the bit.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tofu_data import AUTHORS, FORGOTTEN, QUESTIONS, trained

from govern.ids.corpus import ReadOptions
from govern.ids.pipeline import BuildConfig, build_ids
from govern.ids.texts import read_texts
from manifests import Manifest, open_manifest
from manifests.queries import run_sql
from manifests.writer import set_policy
from sinkmodel.checkpoint import Run, load_run
from sinkmodel.conversion import export_llama
from sinkmodel.evaluate.controls import zeroed
from sinkmodel.evaluate.probes import Probe
from sinkmodel.evaluate.scores import DocumentScore, own_sinks, score
from sinkmodel.recipes import configure
from sinkmodel.tokens import encode
from sinkmodel.train import train

BASE_CORPORA = (
    "fairytaleqa/fairytaleqa_stories.jsonl.zst",
    "african_storybook/asp_en_ccby.jsonl.zst",
    "wikitext2/wikitext2_valid_test.jsonl.zst",
    "tinystories/tinystories_cased_2mb.jsonl.zst",
)
# Open repeated documents of the base: they teach it to read sinks (docs/results/isolation.md).
OPEN = "source = 'asp_en_ccby' AND n_bytes BETWEEN 900 AND 1800"
BASE_SHAPE = (
    *("hidden_size=128", "num_hidden_layers=4", "num_attention_heads=4", "intermediate_size=384"),
    *("vocab_size=4096", "context_length=256", "batch_rows=4", "max_document_tokens=2048"),
    *("neurons_per_kilotoken=256", "governed_exposures=24", "backbone_exposures=inf"),
)
STRICT = (
    *("context_length=256", "governed_exposures=12", "neurons_per_kilotoken=128"),
    *("sink_rate=8", "governed_rows=1", "epochs=1"),
)


def authors(data: Path) -> list[str]:
    """The text of each author: all questions and answers."""
    texts: list[list[str]] = [[] for _ in range(AUTHORS)]
    for q in trained(data):
        texts[q.owner].append(f"Question: {q.question}\nAnswer: {q.answer}")
    return ["\n\n".join(text) for text in texts]


def chosen(count: int) -> list[int]:
    """So many authors: those of forget10, and before them the first ones."""
    forgotten = range(AUTHORS - min(count, FORGOTTEN["forget10"]), AUTHORS)
    return [*range(count - len(forgotten)), *forgotten]


def base(data: Path, work: Path, changes: list[str]) -> None:
    """Train a small Llama on everything else; the sinks of its open documents are dropped."""
    inputs = [data / name for name in BASE_CORPORA]
    build_ids(inputs, work / "base-manifest", BuildConfig())
    set_policy(work / "base-manifest", "TRUE", "shared")
    set_policy(work / "base-manifest", OPEN, "private")
    manifest = open_manifest(work / "base-manifest")
    config = configure("tinystories-1m", overrides=[*BASE_SHAPE, *changes])
    begin = time.process_time()
    train(manifest, read_texts(manifest), work / "base-run", config)
    run = load_run(work / "base-run")
    export_llama(run.model).save_pretrained(work / "base")
    run.tokenizer.save_pretrained(work / "base")
    print(f"base: {time.process_time() - begin:.0f} CPU s")


def strict(data: Path, work: Path, name: str, arguments: argparse.Namespace) -> None:
    """Train on the authors, all strict; `never` leaves out those that will be forgotten."""
    texts = authors(data)
    corpus = work / f"tofu-{arguments.authors}.jsonl"
    with corpus.open("w", encoding="utf-8") as file:
        for number in chosen(arguments.authors):
            row = {"id": f"author-{number}", "text": texts[number], "author": number}
            file.write(json.dumps(row) + "\n")
    folder = work / f"manifest-{arguments.authors}"
    if not folder.exists():
        build_ids([corpus], folder, BuildConfig(read=ReadOptions(keep=("author",))))
        set_policy(folder, "TRUE", "strict")
    manifest = open_manifest(folder)
    config = configure("tinystories-1m", overrides=[*STRICT, *arguments.set])
    config = dataclasses.replace(config, base=str(work / "base"), seed=arguments.seed)
    exclude = forgotten_ids(manifest, arguments.forget).values() if name == "never" else ()
    out = run_path(work, name, arguments)
    shutil.rmtree(out, ignore_errors=True)
    begin = time.process_time()
    train(manifest, read_texts(manifest), out, config, exclude=exclude)
    print(f"{name}: {time.process_time() - begin:.0f} CPU s", flush=True)


def run_path(work: Path, name: str, arguments: argparse.Namespace) -> Path:
    """Where a run is: `never` of each set apart."""
    if name == "never" and arguments.forget != "forget10":
        name = f"never-{arguments.forget}"
    return work / f"{name}-{arguments.authors}-{arguments.seed}"


def sequence_ids(manifest: Manifest) -> dict[int, int]:
    """Author -> sequence ID."""
    rows = run_sql(manifest, "SELECT author, sequence_id FROM documents ORDER BY author")
    return {row["author"]: row["sequence_id"] for row in rows.to_pylist()}


def forgotten_ids(manifest: Manifest, name: str) -> dict[int, int]:
    """Of the authors of a set."""
    known = sequence_ids(manifest)
    return {author: i for author, i in known.items() if author >= AUTHORS - FORGOTTEN[name]}


def probes(data: Path, run: Run, ids: dict[int, int]) -> list[Probe]:
    """The authors' texts, as they were trained."""
    texts = authors(data)
    tokens = encode([texts[author] for author in ids], run.tokenizer, 0)
    return [
        Probe(key=("tofu", str(author)), sequence_id=i, tokens=t, text=texts[author].encode())
        for (author, i), t in zip(ids.items(), tokens, strict=True)
    ]


def answer_tokens(run: Run, probe: Probe) -> npt.NDArray[np.bool_]:
    """Which predicted tokens of a text belong to an answer, bool [L], chunk after chunk."""
    text = probe.text.decode()
    offsets = run.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans, begin = [], text.find("\nAnswer:")
    while begin >= 0:
        end = text.find("\n\nQuestion:", begin)
        spans.append((begin + len("\nAnswer:"), end if end >= 0 else len(text)))
        begin = text.find("\nAnswer:", begin + 1)
    assert len(spans) == QUESTIONS
    inside = [any(a <= low < b for a, b in spans) for low, _ in offsets["offset_mapping"]]
    marks = np.zeros(len(probe.tokens), dtype=np.bool_)
    marks[1 : 1 + len(inside)] = inside  # a begin token stands before the text
    predicted = np.arange(len(marks)) % run.context_length > 0
    return marks[predicted]


def memorized(run: Run, some: list[Probe], scores: list[DocumentScore]) -> list[float]:
    """Exact memorization of each author's answers."""
    return [float(s.hits[answer_tokens(run, p)].mean()) for p, s in zip(some, scores, strict=True)]


def compare(data: Path, work: Path, arguments: argparse.Namespace) -> None:
    """Before, after, and never trained."""
    manifest = open_manifest(work / f"manifest-{arguments.authors}")
    run = load_run(run_path(work, "strict", arguments))
    forgotten, known = forgotten_ids(manifest, arguments.forget), sequence_ids(manifest)
    kept = {author: i for author, i in known.items() if author not in forgotten}
    groups = {
        name: probes(data, run, some) for name, some in (("forgotten", forgotten), ("kept", kept))
    }
    found: dict[str, object] = {}

    def look(phase: str) -> dict[str, list[DocumentScore]]:
        result = {}
        for name, some in groups.items():
            result[name] = score(
                run.model, some, context_length=run.context_length, route=own_sinks
            )
            if some:
                found[f"{name} {phase}"] = float(np.mean(memorized(run, some, result[name])))
        return result

    before = look("before")
    with zeroed(run.model, list(forgotten.values())):
        after = look("after")
        erased = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    found["kept losses identical"] = all(
        np.array_equal(a.losses, b.losses)
        for a, b in zip(before["kept"], after["kept"], strict=True)
    )
    path = run_path(work, "never", arguments)
    if path.exists():
        found |= same_as_never(run, load_run(path), erased, forgotten, groups, after)
    line = {"stage": "strict", "set": arguments.forget, "seed": arguments.seed}
    line |= {"authors": arguments.authors, **found}
    print(json.dumps(line, indent=1))
    with (work / "tofu.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def same_as_never(
    run: Run,
    never: Run,
    erased: dict[str, torch.Tensor],
    forgotten: dict[int, int],
    groups: dict[str, list[Probe]],
    after: dict[str, list[DocumentScore]],
) -> dict[str, object]:
    """Whether the erased run is the run that never saw them: weights by ID, and every loss."""
    shared = all(
        torch.equal(erased[name], parameter)
        for name, parameter in never.model.named_parameters()
        if not name.startswith("sinks.")
    )

    def blocks(some: Run, sequence_id: int, banks: list[torch.Tensor]) -> torch.Tensor:
        each = some.model.sinks.blocks_per_bank
        return torch.stack(
            [banks[b // each][b % each] for b in some.model.sink_map.blocks_of(sequence_id)]
        )

    banks = [value for name, value in erased.items() if name.startswith("sinks.banks.")]
    theirs = [p.detach() for p in never.model.sinks.banks]
    own = all(
        torch.equal(blocks(run, p.sequence_id, banks), blocks(never, p.sequence_id, theirs))
        for p in groups["kept"]
    )
    off = [dataclasses.replace(p, sequence_id=0) for p in groups["forgotten"]]
    asked = {"forgotten": off, "kept": groups["kept"]}
    losses = all(
        np.array_equal(a.losses, b.losses)
        for name, some in asked.items()
        for a, b in zip(
            after[name],
            score(never.model, some, context_length=never.context_length, route=own_sinks),
            strict=True,
        )
    )
    return {
        "shared weights equal to never trained": shared,
        "kept blocks equal to never trained": own,
        "losses equal to never trained": losses,
        "forgotten authors": len(forgotten),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--stage", choices=["base", "strict", "never", "compare"], required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--authors", type=int, default=AUTHORS)
    parser.add_argument("--forget", choices=FORGOTTEN, default="forget10")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.stage == "base":
        base(arguments.data, arguments.work, arguments.set)
    elif arguments.stage == "compare":
        compare(arguments.data, arguments.work, arguments)
    else:
        strict(arguments.data, arguments.work, arguments.stage, arguments)


if __name__ == "__main__":
    main()
