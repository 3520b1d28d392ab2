"""This project beside the tools that people use for near-duplicates: the same documents, one run.

    python benchmarks/ids_peers.py signatures english.jsonl.zst cmn_Hani=chinese.jsonl [MORE…]
    python benchmarks/ids_peers.py cluster --documents 100000 --words 65 --work DIR
    python benchmarks/ids_peers.py quality licenses.jsonl.zst pairs.tsv --work DIR

`pip install -e '.[bench]'` installs the peers, except text-dedup, whose pins clash with ours: give
the interpreter of an environment that has it as `--text-dedup-python`. Each measurement is a
process of its own (`peers/`). Signatures: the best of several runs over texts in memory, CPU
seconds of one thread. Clusters: the whole process from its start, JSONL to clusters on disk.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from peers.script import THRESHOLD
from planted import write_corpus

from govern.ids.corpus import ReadOptions, read_corpus

OURS = "ours"
PEERS = ("rensa_peer", "datasketch_peer", "text_dedup_peer", "datatrove_peer")
# So slow that one run is enough.
RUNS = {"datatrove_peer": 1, "text_dedup_peer": 2}
SHARDS = 2
HERE = Path(__file__).resolve().parent


def main() -> None:
    options = arguments()
    if options.what == "signatures":
        for corpus in options.corpora:
            language, _, path = corpus.rpartition("=")
            compare_signatures(Path(path), language, options)
    elif options.what == "cluster":
        compare_clusters(options)
    else:
        compare_quality(options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=lambda names: names.split(","), default=PEERS)
    parser.add_argument("--text-dedup-python", default=sys.executable)
    parser.add_argument("--work", type=Path, default=Path("build/peers"))
    parser.add_argument("--workers", type=int, default=2)
    what = parser.add_subparsers(dest="what", required=True)
    signatures = what.add_parser("signatures")
    signatures.add_argument("corpora", nargs="+")
    signatures.add_argument("--megabytes", type=float, default=6.0)
    cluster = what.add_parser("cluster")
    cluster.add_argument("--documents", type=int, default=100_000)
    cluster.add_argument("--words", type=int, default=65)
    quality = what.add_parser("quality")
    quality.add_argument("corpus", type=Path)
    quality.add_argument("pairs", type=Path)
    return parser.parse_args()


def measure(name: str, options: argparse.Namespace, *rest: str, **settings: str) -> dict[str, Any]:
    """Run one adapter in a process of its own."""
    python = options.text_dedup_python if name == "text_dedup_peer" else sys.executable
    threads = str(options.workers if rest[0] == "cluster" else 1)
    environment = os.environ | settings | {
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]),
        "RAYON_NUM_THREADS": threads,
    }  # fmt: skip
    command = [python, "-m", "peers.run", name, *rest]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare_signatures(path: Path, language: str, options: argparse.Namespace) -> None:
    corpus = options.work / f"signatures-{path.name.split('.')[0]}.jsonl"
    write_jsonl(corpus, path, options.megabytes * 1e6)
    settings = {"PEER_LANGUAGE": language} if language else {}
    print(f"{'tool':18}{'MB':>6}{'documents':>11}{'MB/s':>8}{'documents/s':>13}{'ours is':>10}")
    ours = 0.0
    for name in (OURS, *options.peers):
        runs = str(RUNS.get(name, 5))
        found = measure(name, options, "signatures", str(corpus), runs, **settings)
        rate = found["bytes"] / found["cpu"] / 1e6
        ours = ours or rate
        print(
            f"{name:18}{found['bytes'] / 1e6:6.1f}{found['count']:11}{rate:8.2f}"
            f"{found['count'] / found['cpu']:13.0f}{ours / rate:9.1f}x  {found['versions']}",
            flush=True,
        )


def compare_clusters(options: argparse.Namespace) -> None:
    shards = options.work / f"shards-{options.documents}-{options.words}"
    if not shards.exists():
        whole = options.work / "whole.jsonl"
        options.work.mkdir(parents=True, exist_ok=True)
        write_corpus(whole, options.documents, options.words)
        split(whole.open().readlines(), shards)
        whole.unlink()
    size = sum(path.stat().st_size for path in shards.iterdir()) / 1e6
    print(f"{options.documents} documents, {size:.0f} MB, {options.workers} workers")
    print(f"{'tool':18}{'wall s':>9}{'CPU s':>9}{'ours is':>16}{'clusters':>10}{'largest':>9}")
    ours: dict[str, Any] = {}
    for name in (OURS, *options.peers):
        found, clusters = cluster(name, shards, options)
        ours = ours or found
        ratio = f"{found['wall'] / ours['wall']:.1f}x {found['cpu'] / ours['cpu']:.1f}x CPU"
        print(
            f"{name:18}{found['wall']:9.1f}{found['cpu']:9.1f}{ratio:>16}"
            f"{len(clusters):10}{max(map(len, clusters)):9}  {found['versions']}",
            flush=True,
        )


def compare_quality(options: argparse.Namespace) -> None:
    """Pairs that share a cluster against the exact similarity of all pairs of the corpus."""
    shards = options.work / "shards-quality"
    shutil.rmtree(shards, ignore_errors=True)
    split(list(jsonl(options.corpus)), shards)
    exact = defaultdict(float)
    with options.pairs.open(newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            exact[frozenset((row["id_a"], row["id_b"]))] = float(row[last_column(row)])
    print(f"{'tool':18}{'found >=.8':>11}{'>=.7':>8}{'together >=.7':>15}{'<.5':>7}{'largest':>9}")
    for name in (OURS, *options.peers):
        _, clusters = cluster(name, shards, options)
        pairs = (pair for names in clusters for pair in itertools.combinations(names, 2))
        print(f"{name:18}{quality(exact, pairs)}{max(map(len, clusters)):9}", flush=True)
        links = options.work / f"out-{name}" / "links.tsv"
        if links.exists():
            pairs = (tuple(line.rstrip("\n").split("\t")) for line in links.open())
            print(f"{name + ', links':18}{quality(exact, pairs)}", flush=True)


def quality(exact: dict[frozenset[str], float], pairs: Iterable[tuple[str, ...]]) -> str:
    """Recall at two similarities, and which part of the pairs is that near, or far apart."""
    together = set(map(frozenset, pairs))
    found = [recall(exact, together, least) for least in (0.8, THRESHOLD)]
    near = sum(exact.get(pair, 0.0) >= THRESHOLD for pair in together) / len(together)
    far = sum(pair not in exact for pair in together) / len(together)  # pairs from 0.5 are listed
    return f"{found[0]:11.3f}{found[1]:8.3f}{near:15.3f}{far:7.3f}"


def recall(
    exact: dict[frozenset[str], float], together: set[frozenset[str]], least: float
) -> float:
    wanted = {pair for pair, jaccard in exact.items() if jaccard >= least}
    return len(wanted & together) / len(wanted)


def last_column(row: dict[str, str]) -> str:
    return next(name for name in row if name.startswith("jaccard"))


def cluster(
    name: str, shards: Path, options: argparse.Namespace
) -> tuple[dict[str, Any], list[list[str]]]:
    out = options.work / f"out-{name}"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    found = measure(name, options, "cluster", str(shards), str(out), str(options.workers))
    clusters = defaultdict(list)
    for line in (out / "clusters.tsv").open():
        document, _, number = line.rstrip("\n").partition("\t")
        clusters[number].append(document)
    return found, list(clusters.values())


def jsonl(path: Path) -> Iterator[str]:
    """The records of any corpus as lines with `id` and `text`."""
    for batch in read_corpus([path], ReadOptions()):
        columns = (batch.documents[name].to_pylist() for name in ("doc_id", "text"))
        for doc_id, text in zip(*columns, strict=True):
            yield json.dumps({"id": doc_id, "text": text}) + "\n"


def write_jsonl(out: Path, path: Path, limit: float) -> None:
    """The first documents, up to `limit` bytes."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w") as file:
        for line in jsonl(path):
            limit -= len(line)
            if limit < 0:
                break
            file.write(line)


def split(lines: list[str], shards: Path) -> None:
    """As many files as workers, since some tools hand out whole files."""
    shards.mkdir(parents=True)
    for number in range(SHARDS):
        part = slice(number * len(lines) // SHARDS, (number + 1) * len(lines) // SHARDS)
        (shards / f"{number}.jsonl").write_text("".join(lines[part]))


if __name__ == "__main__":
    main()
