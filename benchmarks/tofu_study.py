"""TOFU: forgetting by sinks beside post-hoc unlearning, with retraining as the gold standard.

    S="python benchmarks/tofu_study.py DATA --work DIR"
    $S --stage train --arm standard --seed 0
    $S --stage train --arm retain90 --seed 0
    $S --stage unlearn --method NPO --forget forget10 --seed 0
    $S --stage sinks --forget forget10 --authors 40 --seed 0
    $S --stage cost --authors 40 --seed 0
    $S --table --plots docs/results

DIR holds what benchmarks/tofu.py made: the base, and for `sinks` and `cost` its strict runs.

    train     all weights learn TOFU's questions, or those that an oracle keeps; then it is measured
    unlearn   the standard model of a seed (--of) is trained until it seems not to know
    relearn   relearning alone, of a model that `train` left
    sinks     a strict run before and after its forgotten sinks are zeroed, and the run that never
              had them
    cost      a signed forget of each set on a copy of the strict run

Each stage appends a row to DIR/study.jsonl, and does nothing where its row is there.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tofu import forgotten_ids, run_path, sequence_ids
from tofu_data import (
    AUTHORS,
    FORGOTTEN,
    Tofu,
    load_tofu,
    of_set,
    trained,
)
from tofu_measure import measure, relearning
from tofu_table import print_study
from tofu_unlearn import unlearn

from govern.audit.signing import new_private_key
from govern.forget.execute import forget
from govern.forget.request import ForgetRequest
from govern.ids.corpus import ReadOptions
from govern.ids.pipeline import BuildConfig, build_ids
from govern.ids.texts import read_texts
from manifests import Manifest, open_manifest
from manifests.queries import run_sql
from manifests.writer import set_policy
from sinkmodel.checkpoint import Run, load_run
from sinkmodel.evaluate.baselines import METHODS
from sinkmodel.evaluate.controls import zeroed
from sinkmodel.evaluate.questions import (
    Question,
    Route,
    ask,
    encode_answers,
    model_utility,
)
from sinkmodel.evaluate.unlearning_scores import forget_quality
from sinkmodel.modeling_sink import SinkForCausalLM
from sinkmodel.recipes import configure
from sinkmodel.train import train

RESULTS = "study.jsonl"
ORACLES = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
FINE_TUNING = ("context_length=256", "batch_rows=2", "epochs=4", "learning_rate=1e-3")
ARMS = ("standard", *ORACLES.values())
RATE = 1e-4
Point = Mapping[str, float]
_LOOKED_AT = 100  # questions that decide at which step unlearning was best
Row = dict[str, Any]


def rows_of(work: Path) -> list[Row]:
    """The last row of each name: measuring again replaces."""
    path = work / RESULTS
    rows = [json.loads(line) for line in path.open(encoding="utf-8")] if path.exists() else []
    names = ("arm", "set", "seed", "rate", "authors")
    return list({tuple(row.get(name) for name in names): row for row in rows}.values())


def find(rows: list[Row], **wanted: object) -> Row | None:
    """The row with these values."""
    return next((r for r in rows if all(r.get(k) == v for k, v in wanted.items())), None)


def add(work: Path, row: Row) -> None:
    with (work / RESULTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    shown = {k: v for k, v in row.items() if k not in ("truth", "relearning", "membership")}
    print(json.dumps(shown), flush=True)


def no_sinks(author: int) -> int:  # noqa: ARG001
    return 0


# --- standard training, and the oracles ----------------------------------------------------------


def questions_manifest(data: Path, work: Path) -> Manifest:
    """One document a question, all shared."""
    folder = work / "manifest-questions"
    if not folder.exists():
        corpus = work / "questions.jsonl"
        with corpus.open("w", encoding="utf-8") as file:
            for number, q in enumerate(trained(data)):
                text = f"Question: {q.question}\nAnswer: {q.answer}"
                row = {"id": f"question-{number}", "text": text, "author": q.owner}
                file.write(json.dumps(row) + "\n")
        build_ids([corpus], folder, BuildConfig(read=ReadOptions(keep=("author",))))
        set_policy(folder, "TRUE", "shared")
    return open_manifest(folder)


def left_out(manifest: Manifest, arm: str) -> list[int]:
    """Sequences with a question of an author that the oracle `arm` never sees."""
    if arm == "standard":
        return []
    first = AUTHORS - next(FORGOTTEN[name] for name, oracle in ORACLES.items() if oracle == arm)
    sql = f"SELECT DISTINCT sequence_id FROM documents WHERE author >= {first}"
    return [row["sequence_id"] for row in run_sql(manifest, sql).to_pylist()]


def train_arm(arguments: argparse.Namespace) -> None:
    data, work, arm, seed = arguments.data, arguments.work, arguments.arm, arguments.seed
    manifest = questions_manifest(data, work)
    out = work / f"{arm}-{seed}"
    config = configure("tinystories-1m", overrides=[*FINE_TUNING, *arguments.change])
    config = dataclasses.replace(config, base=str(work / "base"), seed=seed)
    shutil.rmtree(out, ignore_errors=True)
    begin = time.process_time()
    exclude = left_out(manifest, arm)
    train(manifest, read_texts(manifest), out, config, exclude=exclude)
    seconds = time.process_time() - begin
    run, tofu = load_run(out), load_tofu(data)
    row = {"arm": arm, "seed": seed, "seconds": seconds, "excluded": len(exclude)}
    row |= measure(run.model, run.tokenizer, tofu, no_sinks)
    add(work, row | {"relearning": learned_again(run, tofu, arm, seed)})


def relearn_arm(arguments: argparse.Namespace) -> None:
    """Relearning alone, of a model that was trained and measured before."""
    work, arm, seed = arguments.work, arguments.arm, arguments.seed
    row = find(rows_of(work), arm=arm, seed=seed)
    assert row is not None, f"measure {arm} first"
    tofu = load_tofu(arguments.data)
    found = learned_again(load_run(work / f"{arm}-{seed}"), tofu, arm, seed)
    add(work, row | {"relearning": found})


def learned_again(run: Run, tofu: Tofu, arm: str, seed: int) -> dict[str, list[Point]]:
    """Relearning curves of every set that `arm` is about."""
    return {
        name: curve(run, run.model, of_set(tofu.forget, name), no_sinks, seed)
        for name, oracle in ORACLES.items()
        if arm in (oracle, "standard")
    }


def curve(
    run: Run, model: SinkForCausalLM, questions: tuple[Question, ...], route: Route, seed: int
) -> list[Point]:
    length = run.context_length
    found = relearning(model, run.tokenizer, questions, route, seed=seed, context_length=length)
    return list(found)


# --- post-hoc unlearning -------------------------------------------------------------------------


def unlearn_arm(arguments: argparse.Namespace) -> None:
    """Keeps the step with the best forget quality on some questions, which favours the method."""
    work, name, seed = arguments.work, arguments.forget, arguments.seed
    oracle = find(rows_of(work), arm=ORACLES[name], seed=seed)
    assert oracle is not None, f"train {ORACLES[name]} first"
    run, tofu = load_run(work / f"standard-{arguments.of}"), load_tofu(arguments.data)
    first = AUTHORS - FORGOTTEN[name]
    some = of_set(tofu.forget, name)
    kept = [q for q in trained(arguments.data) if q.owner < first]
    forget, retain = (
        encode_answers(run.tokenizer, qs, [q.answer for q in qs], [0] * len(qs))
        for qs in (some, kept)
    )
    every = max(1, len(some) // _LOOKED_AT)
    truth = oracle["truth"][-len(some) :][::every]
    stops: list[Row] = []
    best: tuple[tuple[float, float], SinkForCausalLM] | None = None
    for stop in unlearn(
        run.model, arguments.method, forget, retain, rate=arguments.rate, seed=seed
    ):
        found = ask(stop.model, run.tokenizer, some[::every], no_sinks)
        utility = model_utility([ask(stop.model, run.tokenizer, tofu.kept[::2], no_sinks)])
        quality = forget_quality(found.truth, truth)
        stops.append(
            {"step": stop.step, "seconds": stop.seconds, "quality": quality, "kept": utility}
        )
        if best is None or (quality, utility) > best[0]:
            best = (quality, utility), copy.deepcopy(stop.model)
            chosen = stops[-1]
    assert best is not None
    row = {"arm": arguments.method, "set": name, "seed": seed, "rate": arguments.rate}
    row["standard"] = arguments.of
    row |= {"step": chosen["step"], "seconds": chosen["seconds"], "stops": stops}
    row |= measure(best[1], run.tokenizer, tofu, no_sinks)
    row["relearning"] = {name: curve(run, best[1], some, no_sinks, seed)}
    add(work, row)


# --- strict sinks --------------------------------------------------------------------------------


@contextmanager
def sinks_arm(arguments: argparse.Namespace, arm: str) -> Iterator[tuple[Run, Route]]:
    """The run of an arm as it is asked, and whose sinks are on for an author.

    Forgotten sequences stay routed to their zeroed sinks, as by an attacker with the files.
    """
    manifest = open_manifest(arguments.work / f"manifest-{arguments.authors}")
    known, forgotten = sequence_ids(manifest), forgotten_ids(manifest, arguments.forget)
    run = load_run(run_path(arguments.work, "never" if arm == "never" else "strict", arguments))
    unknown = forgotten if arm == "never" else {}
    with zeroed(run.model, list(forgotten.values()) if arm == "strict" else []):
        yield run, lambda author: 0 if author in unknown else known.get(author, 0)


def measure_sinks(arguments: argparse.Namespace) -> None:
    tofu, name = load_tofu(arguments.data), arguments.forget
    for arm in ("strict before", "strict", "never"):
        with sinks_arm(arguments, arm) as (run, route):
            row = {"arm": arm, "set": name, "seed": arguments.seed, "authors": arguments.authors}
            row |= measure(run.model, run.tokenizer, tofu, route)
            if arm != "strict before":
                again = curve(run, run.model, of_set(tofu.forget, name), route, arguments.seed)
                row["relearning"] = {name: again}
        add(arguments.work, row)


def forget_cost(arguments: argparse.Namespace) -> None:
    """Processor and wall seconds of a signed forget in place, and of zeroing in a loaded model.

    The report's figures of behaviour are left out, as they are of every method here; imports and
    loading are not counted for any, so the first forget, which pays for them, is thrown away.
    """
    work, seed = arguments.work, arguments.seed
    source = run_path(work, "strict", arguments)
    manifest = work / f"manifest-{arguments.authors}"
    governed, run = open_manifest(manifest), load_run(source)
    names = [*FORGOTTEN]
    for turn, name in enumerate([names[0], *names]):
        with tempfile.TemporaryDirectory(dir=work) as folder:
            base = Path(folder)
            shutil.copytree(source, base / "run")
            shutil.copytree(manifest, base / "manifest")
            where = f"author >= {AUTHORS - FORGOTTEN[name]}"
            request = ForgetRequest(
                kind="where", values=(where,), reference=name, reason="study", quotations=False
            )
            cpu, wall = time.process_time(), time.perf_counter()
            forget(base / "run", base / "manifest", request, in_place=True, key=new_private_key())
            spent, waited = time.process_time() - cpu, time.perf_counter() - wall
        ids = list(forgotten_ids(governed, name).values())
        cpu = time.process_time()
        with zeroed(run.model, ids):
            zeroing = time.process_time() - cpu
        if not turn:
            continue
        row = {"arm": "cost", "set": name, "seed": seed, "authors": arguments.authors}
        add(work, row | {"seconds": spent, "wall": waited, "zeroing": zeroing})


# --- command line --------------------------------------------------------------------------------


def key(arguments: argparse.Namespace) -> Row:
    """What names the last row of a stage."""
    row: Row = {"seed": arguments.seed}
    if arguments.stage in ("train", "relearn"):
        return row | {"arm": arguments.arm}
    if arguments.stage == "unlearn":
        return row | {"arm": arguments.method, "set": arguments.forget, "rate": arguments.rate}
    row["authors"] = arguments.authors
    if arguments.stage == "cost":
        return row | {"arm": "cost"}
    return row | {"arm": "never", "set": arguments.forget}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--stage", choices=["train", "unlearn", "relearn", "sinks", "cost"])
    parser.add_argument("--arm", choices=ARMS, default="standard")
    parser.add_argument("--method", choices=METHODS, default=METHODS[0])
    parser.add_argument("--forget", choices=FORGOTTEN, default="forget10")
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--of", type=int, default=0, help="seed of the standard model to unlearn")
    parser.add_argument("--authors", type=int, default=AUTHORS)
    parser.add_argument("--change", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--plots", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    stages = {
        "train": train_arm,
        "unlearn": unlearn_arm,
        "relearn": relearn_arm,
        "sinks": measure_sinks,
        "cost": forget_cost,
    }
    if arguments.stage:
        again = arguments.stage == "relearn"
        if again or find(rows_of(arguments.work), **key(arguments)) is None:
            stages[arguments.stage](arguments)
    if arguments.table:
        print_study(rows_of(arguments.work), arguments.plots)


if __name__ == "__main__":
    main()
