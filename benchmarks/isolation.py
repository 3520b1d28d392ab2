"""What forgetting leaves behind, by policy: the MemSinks protocol scaled to one CPU.

    python benchmarks/isolation.py STORIES.jsonl.zst --work DIR --arm private-8 --seed 0
    python benchmarks/isolation.py STORIES.jsonl.zst --work DIR --table --plot isolation.svg

`--plant` writes the corpus alone, DIR/corpus.jsonl, for whoever goes on with the command line.
`--size 2m` and `--size 8m` take larger models, `--open N` fewer open stories, `--set` the rest.
100 stories stand in the corpus 48 times each, among thousands of single ones; half of the repeated
stories are then forgotten by zeroing their blocks. An arm is one training; its figures are kept in
DIR/results.jsonl; `--table` prints them (isolation_table.py). Losses are nats per token.

    standard      the repeated stories are trained like any other
    deduplicated  the same with each of them once
    oracle        as private-8, without the stories that will be forgotten
    published     hashed blocks of a common pool (MemSinks, arXiv 2507.09937): 10 of 400
    published-0.3 the same at density 0.3: 30 of 100
    published-nulls the same at the density of NULLs, 0.013: 10 of 770
    private-E     own blocks; the shared neurons learn from the first E exposures
    strict        own blocks; the shared neurons learn nothing from repeated stories
    strict-open   half of the stories strict (those are forgotten), N of the others open (E = inf)
    strict-open-oracle  the same without the strict ones: what strict-open has to be when they are
                  forgotten, to the last digit
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from isolation_table import frontier, print_tables, results

from govern.ids.corpus import ReadOptions, read_corpus
from govern.ids.pipeline import BuildConfig, build_ids
from govern.ids.texts import read_texts
from manifests import Manifest, open_manifest
from manifests.queries import run_sql
from manifests.writer import set_policy
from sinkmodel.checkpoint import Run, load_run
from sinkmodel.evaluate.controls import zeroed
from sinkmodel.evaluate.metrics import exact_memorization
from sinkmodel.evaluate.probes import Probe
from sinkmodel.evaluate.scores import no_sinks, own_sinks, score
from sinkmodel.recipes import TrainConfig, configure
from sinkmodel.tokenizer import train_bpe
from sinkmodel.tokens import encode
from sinkmodel.train import train

REPEATED, COPIES, VALIDATION = 100, 48, 300
# Shapes beside the recipe's own 0.5M: shared parameters with a vocabulary of 2,048.
SIZES = {
    "0.5m": [],
    "2m": [
        "hidden_size=192",
        "num_hidden_layers=4",
        "num_attention_heads=6",
        "intermediate_size=512",
    ],
    "8m": [
        "hidden_size=320",
        "num_hidden_layers=6",
        "num_attention_heads=8",
        "intermediate_size=896",
    ],
}
# Blocks of the pool and how many of them a sequence draws.
POOLS = {"published": (400, 10), "published-0.3": (100, 30), "published-nulls": (770, 10)}
PLAIN = ("standard", "deduplicated")  # no sinks
ORACLES = ("oracle", "strict-open-oracle")  # never see the stories that others forget
FIXED = (*PLAIN, *ORACLES, *POOLS, "strict", "strict-open")


def arm_name(text: str) -> str:
    """An arm: one of `FIXED`, or `private-E` for any budget E of exposures."""
    if text not in FIXED:
        kind, _, budget = text.partition("-")
        if kind != "private" or not float(budget) > 0:
            raise argparse.ArgumentTypeError(f"one of {', '.join(FIXED)} or private-E")
    return text


def plant(stories: Path, work: Path, copies: int) -> Path:
    """The corpus: repeated stories so many times, single ones once; validation stands apart."""
    texts = [
        text
        for batch in read_corpus([stories], ReadOptions())
        for text in batch.documents.column("text").to_pylist()
        if len(text) > 400
    ]
    texts = list(dict.fromkeys(texts))
    rows = [
        {"id": f"story-{i}/{copy}", "text": text, "kind": "repeated", "number": i}
        for i, text in enumerate(texts[:REPEATED])
        for copy in range(copies)
    ]
    singles = texts[REPEATED + VALIDATION :]
    rows += [
        {"id": f"single-{i}", "text": text, "kind": "single", "number": i}
        for i, text in enumerate(singles)
    ]
    work.mkdir(parents=True, exist_ok=True)
    validation = [{"text": text} for text in texts[REPEATED : REPEATED + VALIDATION]]
    for name, some in (("corpus", rows), ("validation", validation)):
        path = work / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    return work / "corpus.jsonl"


def make_manifest(stories: Path, work: Path, arm: str, n_open: int) -> Manifest:
    corpus = plant(stories, work / arm, 1 if arm == "deduplicated" else COPIES)
    config = BuildConfig(read=ReadOptions(keep=("kind", "number")))
    build_ids([corpus], work / arm / "manifest", config)
    policies = dict.fromkeys(POOLS, "pooled") | dict.fromkeys(PLAIN, "shared")
    policies["strict"] = "strict"
    where = "kind = 'repeated'"
    if arm.startswith("strict-open"):
        governed = f"{where} AND (number % 2 = 0 OR number >= {2 * n_open})"
        set_policy(work / arm / "manifest", governed, "strict")
    elif arm in policies:
        set_policy(work / arm / "manifest", where, policies[arm])
    return open_manifest(work / arm / "manifest")


def configuration(arm: str, seed: int, changes: list[str]) -> TrainConfig:
    config = configure("tinystories-1m", overrides=changes)
    private = arm.startswith("private-")
    budget = float(arm.removeprefix("private-")) if private else config.backbone_exposures
    if arm.startswith("strict-open"):
        budget = math.inf
    config = dataclasses.replace(
        config,
        seed=seed,
        backbone_exposures=budget,
        max_document_tokens=config.context_length,
        governed_exposures=COPIES,
    )
    if arm in POOLS:
        blocks, draws = POOLS[arm]
        config = dataclasses.replace(config, block_size=2, pool_blocks=blocks, pool_draws=draws)
    return config


def measure(run: Run, manifest: Manifest, work: Path, arm: str) -> dict[str, float]:
    """Validation, and forgotten and kept stories before and after zeroing the forgotten half."""
    sql = "SELECT DISTINCT number, sequence_id FROM documents WHERE kind = 'repeated'"
    ids = {row["number"]: row["sequence_id"] for row in run_sql(manifest, sql).to_pylist()}
    rows = [json.loads(line) for line in (work / arm / "corpus.jsonl").open(encoding="utf-8")]
    texts = {row["number"]: row["text"] for row in rows if row["kind"] == "repeated"}
    forgotten = [probe(run, texts[n], ids[n]) for n in sorted(texts) if n % 2 == 0]
    kept = [probe(run, texts[n], ids[n]) for n in sorted(texts) if n % 2]
    held = [
        probe(run, json.loads(line)["text"], 0)
        for line in (work / arm / "validation.jsonl").open(encoding="utf-8")
    ]
    own = no_sinks if arm in ORACLES else own_sinks
    before = score_all(run, forgotten, own)
    found = {
        "validation": score_all(run, held, no_sinks)[0],
        "own_loss": before[0],
        "own_memorization": before[1],
        "kept_before": score_all(run, kept, own_sinks)[0],
    }
    erased = [] if arm in (*ORACLES, *PLAIN) else [p.sequence_id for p in forgotten]
    with zeroed(run.model, erased):
        found["after"], found["after_memorization"] = score_all(run, forgotten, own)
        found["kept_after"] = score_all(run, kept, own_sinks)[0]
    return found


def probe(run: Run, text: str, sequence_id: int) -> Probe:
    tokens = encode([text], run.tokenizer, run.context_length)[0]
    return Probe(key=("", ""), sequence_id=sequence_id, tokens=tokens, text=text.encode())


def score_all(run: Run, probes: list[Probe], route) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    scores = score(run.model, probes, context_length=run.context_length, route=route)
    memorized = [exact_memorization(s.hits) for s in scores]
    return float(np.mean([s.loss for s in scores])), float(np.mean(memorized))


def shared_tokenizer(work: Path, vocab_size: int) -> str:
    """One tokenizer for every arm, trained on the single stories, so that losses compare."""
    folder = work / f"tokenizer-{vocab_size}"
    if not folder.is_dir():
        rows = map(json.loads, (work / "corpus.jsonl").open(encoding="utf-8"))
        singles = (row["text"] for row in rows if row["kind"] == "single")
        train_bpe(singles, vocab_size).save_pretrained(folder)
    return str(folder)


def run_arm(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    arm, work = arguments.arm, arguments.work / f"{arguments.size}-seed-{arguments.seed}"
    manifest = make_manifest(arguments.stories, work, arm, arguments.open)
    config = configuration(arm, arguments.seed, [*SIZES[arguments.size], *arguments.set])
    config = dataclasses.replace(config, tokenizer=shared_tokenizer(work / arm, config.vocab_size))
    exclude: list[int] = []
    if arm in ORACLES:
        documents = manifest.table("documents", ["sequence_id", "kind", "number"])
        number = documents["number"]
        even = pc.equal(pc.subtract(number, pc.multiply(pc.divide(number, 2), 2)), 0)
        chosen = documents.filter(pc.and_(pc.equal(documents["kind"], "repeated"), even))
        exclude = sorted(set(chosen["sequence_id"].to_pylist()))
    begin = time.process_time()
    train(manifest, read_texts(manifest), work / arm / "run", config, exclude=exclude)
    seconds = time.process_time() - begin
    run = load_run(work / arm / "run")
    row = {name: getattr(arguments, name) for name in ("arm", "size", "seed", "set", "open")}
    row["shared_parameters"] = sum(
        p.numel() for name, p in run.model.named_parameters() if not name.startswith("sinks.")
    )
    row |= {"cpu_seconds": seconds, **measure(run, manifest, work, arm)}
    with (arguments.work / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    shutil.rmtree(work / arm)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stories", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--arm", type=arm_name)
    parser.add_argument("--plant", action="store_true")
    parser.add_argument("--size", choices=SIZES, default="0.5m")
    parser.add_argument("--open", type=int, default=REPEATED // 2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="SVG")
    arguments = parser.parse_args()
    if arguments.plant:
        plant(arguments.stories, arguments.work, COPIES)
    if arguments.arm:
        run_arm(arguments)
    rows = results(arguments.work) if arguments.table or arguments.plot else []
    if arguments.table:
        print_tables(rows)
    if arguments.plot:
        arguments.plot.write_text(frontier(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
