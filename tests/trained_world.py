"""A tiny real corpus, manifest and training run: seconds on one core."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from govern.ids.corpus import ReadOptions
from govern.ids.pipeline import BuildConfig, build_ids
from govern.ids.texts import read_texts
from manifests import Manifest, open_manifest
from manifests.queries import find_document
from manifests.writer import set_policy
from sinkmodel.allocation import SinkMap
from sinkmodel.recipes import TrainConfig
from sinkmodel.train import Progress, train

TINY = TrainConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    context_length=32,
    vocab_size=320,
    block_size=4,
    neurons_per_kilotoken=200.0,
    epochs=2,
    governed_exposures=6,
    backbone_exposures=2.0,
    batch_rows=2,
    learning_rate=3e-3,
)
_WORDS = "river stone garden lamp winter bread letter window cloud mountain paper song".split()  # noqa: SIM905


def prose(name: str, words: int = 40) -> str:
    """Words in an order that only this name gives."""
    source = random.Random(name)
    return " ".join(source.choice(_WORDS) for _ in range(words))


def documents() -> dict[str, str]:
    """Two families of copies, a strict text with a near-copy, and single documents."""
    found = {f"single-{i}": prose(f"single-{i}") for i in range(12)}
    found |= {f"licence-{i}": prose("licence", 60) for i in range(3)}
    found |= {f"poem-{i}": prose("poem", 30) for i in range(2)}
    secret = prose("secret", 70)
    return found | {"secret-0": secret, "secret-1": f"{secret} river"}


def write_corpus(path: Path, texts: Mapping[str, str]) -> Path:
    lines = (json.dumps({"id": key, "text": text}) for key, text in texts.items())
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def make_manifest(
    base: Path, texts: Mapping[str, str], strict: Iterable[str] = ("secret-0",)
) -> Manifest:
    """Corpus and manifest below `base`; the clusters of `strict` documents get that policy."""
    base.mkdir(parents=True, exist_ok=True)
    corpus = write_corpus(base / "corpus.jsonl", texts)
    config = BuildConfig(read=ReadOptions(source="tiny"), workers=1)
    build_ids([corpus], base / "manifest", config)
    for doc_id in strict:
        set_policy(base / "manifest", f"doc_id = '{doc_id}'", "strict")
    return open_manifest(base / "manifest")


def train_tiny(
    manifest: Manifest,
    out: Path,
    config: TrainConfig = TINY,
    *,
    exclude: Iterable[int] = (),
    resume: bool = False,
    report: Callable[[Progress], None] | None = None,
) -> Path:
    """`train` on one thread, so that equal work gives equal bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return train(
            manifest,
            read_texts(manifest),
            out,
            config,
            exclude=exclude,
            resume=resume,
            report=report,
        )
    finally:
        torch.set_num_threads(threads)


def sequence_of(manifest: Manifest, doc_id: str) -> int:
    return int(find_document(manifest, doc_id)["sequence_id"][0].as_py())


def shared_weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model-shared.safetensors")


def blocks_by_id(run: Path) -> dict[int, torch.Tensor]:
    """The blocks of every sequence that owns any, in its own order."""
    bank = load_file(run / "sinks-00000.safetensors")["sinks.banks.0"]
    rows = SinkMap.read(run / "sink_map.parquet").table.to_pylist()
    return {row["sequence_id"]: bank[row["blocks"]] for row in rows if row["blocks"]}


def optimizer_by_id(run: Path) -> dict[int, dict[str, torch.Tensor]]:
    """Optimizer state of every sequence's blocks, in its own order."""
    state = load_file(run / "state" / "sinks-00000.safetensors")
    place = {int(block): slot for slot, block in enumerate(state["blocks"].tolist())}
    rows = SinkMap.read(run / "sink_map.parquet").table.to_pylist()
    return {
        row["sequence_id"]: {
            name: state[name][[place[b] for b in row["blocks"]]]
            for name in ("exp_avg", "exp_avg_sq", "steps")
        }
        for row in rows
        if row["blocks"]
    }


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to the bit, so that 0.0 and -0.0 differ."""
    return a.shape == b.shape and np.array_equal(
        a.contiguous().view(torch.uint8).numpy(), b.contiguous().view(torch.uint8).numpy()
    )


def assert_same_weights(a: Path, b: Path) -> None:
    first, second = shared_weights(a), shared_weights(b)
    assert first.keys() == second.keys()
    for name in first:
        assert same_bits(first[name], second[name]), name


def assert_same_sinks(a: Path, b: Path, ids: set[int]) -> None:
    """Blocks and optimizer state, compared by ID: they may lie elsewhere in the bank."""
    blocks = blocks_by_id(a), blocks_by_id(b)
    states = optimizer_by_id(a), optimizer_by_id(b)
    for sequence_id in ids:
        assert same_bits(blocks[0][sequence_id], blocks[1][sequence_id])
        for name, value in states[0][sequence_id].items():
            assert same_bits(value, states[1][sequence_id][name]), name


class Interrupt:
    """Ctrl-C after so many micro-batches."""

    def __init__(self, after: int) -> None:
        self.after = after

    def __call__(self, progress: Progress) -> None:
        if progress.done == self.after:
            raise KeyboardInterrupt
