"""What forgetting leaves behind, by policy: the MemSinks protocol scaled to one CPU.

    python benchmarks/isolation.py STORIES.jsonl.zst --work DIR --arm private-8 --seed 0
    python benchmarks/isolation.py STORIES.jsonl.zst --work DIR --table

100 stories stand in the corpus 48 times each, among thousands of single ones; half of the repeated
stories are then forgotten by zeroing their blocks. An arm is one training; its figures are kept in
DIR/results.jsonl, and `--table` prints them. Losses are nats per token.

    standard      the repeated stories are trained like any other
    oracle        as private-8, without the stories that will be forgotten
    published     hashed blocks of a common pool (MemSinks, arXiv 2507.09937)
    private-E     own blocks; the shared neurons learn from the first E exposures
    strict        own blocks; the shared neurons learn nothing from repeated stories
    strict-open   half of the stories strict (those are forgotten), the other half open (E = inf)
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch

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
from sinkmodel.tokens import encode
from sinkmodel.train import train

REPEATED, COPIES, VALIDATION = 100, 48, 300
ARMS = "standard oracle published private-inf private-8 private-1 strict strict-open".split()  # noqa: SIM905


def plant(stories: Path, work: Path) -> Path:
    """The corpus: repeated stories COPIES times, single ones once; validation stands apart."""
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
        for copy in range(COPIES)
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


def make_manifest(stories: Path, work: Path, arm: str) -> Manifest:
    corpus = plant(stories, work / arm)
    config = BuildConfig(read=ReadOptions(keep=("kind", "number")))
    build_ids([corpus], work / arm / "manifest", config)
    policies = {"standard": "shared", "published": "pooled", "strict": "strict"}
    where = "kind = 'repeated'"
    if arm == "strict-open":
        set_policy(work / arm / "manifest", f"{where} AND number % 2 = 0", "strict")
    elif arm in policies:
        set_policy(work / arm / "manifest", where, policies[arm])
    return open_manifest(work / arm / "manifest")


def configuration(arm: str, seed: int, changes: list[str]) -> TrainConfig:
    config = configure("tinystories-1m", overrides=changes)
    budget = {"private-inf": math.inf, "strict-open": math.inf, "private-1": 1.0}.get(arm, 8.0)
    config = dataclasses.replace(
        config,
        seed=seed,
        backbone_exposures=budget,
        max_document_tokens=config.context_length,
        governed_exposures=COPIES,
    )
    if arm == "published":
        # The published scheme: 10 of 400 blocks of 2 neurons.
        config = dataclasses.replace(config, block_size=2, pool_blocks=400, pool_draws=10)
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
    own = no_sinks if arm == "oracle" else own_sinks
    before = score_all(run, forgotten, own)
    found = {
        "validation": score_all(run, held, no_sinks)[0],
        "own_loss": before[0],
        "own_memorization": before[1],
        "kept_before": score_all(run, kept, own_sinks)[0],
    }
    erased = [] if arm in ("oracle", "standard") else [p.sequence_id for p in forgotten]
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


def run_arm(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    arm, work = arguments.arm, arguments.work / f"seed-{arguments.seed}"
    manifest = make_manifest(arguments.stories, work, arm)
    config = configuration(arm, arguments.seed, arguments.set)
    exclude: list[int] = []
    if arm == "oracle":
        documents = manifest.table("documents", ["sequence_id", "kind", "number"])
        number = documents["number"]
        even = pc.equal(pc.subtract(number, pc.multiply(pc.divide(number, 2), 2)), 0)
        chosen = documents.filter(pc.and_(pc.equal(documents["kind"], "repeated"), even))
        exclude = sorted(set(chosen["sequence_id"].to_pylist()))
    begin = time.process_time()
    train(manifest, read_texts(manifest), work / arm / "run", config, exclude=exclude)
    seconds = time.process_time() - begin
    found = measure(load_run(work / arm / "run"), manifest, work, arm)
    line = {"arm": arm, "seed": arguments.seed, "set": arguments.set, "cpu_seconds": seconds}
    with (arguments.work / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({**line, **found}) + "\n")


def print_table(work: Path) -> None:
    """Mean over seeds (and spread, where there are several)."""
    rows = [json.loads(line) for line in (work / "results.jsonl").open(encoding="utf-8")]
    standard = [r for r in rows if r["arm"] == "standard"]
    gap = np.mean([r["validation"] - r["own_loss"] for r in standard]) if standard else math.nan
    print(f"standard training's gap between validation and repeated text: {gap:.3f}\n")
    print(
        "| arm | seeds | validation | own sinks on: loss | memorized | after: loss | memorized ",
        end="",
    )
    print("| gap closed | kept: before → after |")
    print("| --- " * 9 + "|")
    for arm in ARMS:
        some = [r for r in rows if r["arm"] == arm]
        if not some:
            continue
        closed = [1 - (r["validation"] - r["after"]) / gap for r in some]

        def cell(values: list[float]) -> str:
            spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
            return f"{np.mean(values):.3f}{spread}"

        names = ("validation", "own_loss", "own_memorization", "after", "after_memorization")
        cells = [cell([r[name] for r in some]) for name in names]
        kept = f"{cell([r['kept_before'] for r in some])} → {cell([r['kept_after'] for r in some])}"
        print(f"| {arm} | {len(some)} | {' | '.join(cells)} | {cell(closed)} | {kept} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stories", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--arm", choices=ARMS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.arm:
        run_arm(arguments)
    if arguments.table:
        print_table(arguments.work)


if __name__ == "__main__":
    main()
