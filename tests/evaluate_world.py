"""A tiny trained run whose sequences are known by heart: what every sabotage is tried on.

Texts are words in an order that only their name gives, so that nothing but training on a text
teaches it. `excerpt` repeats most of `licence` under a sequence ID of its own.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from govern.forget.measuring import MeasureRequest
from govern.ids.corpus import ReadOptions
from govern.ids.pipeline import BuildConfig, build_ids
from govern.ids.texts import read_texts
from manifests import Manifest, open_manifest
from manifests.queries import find_document, run_sql
from manifests.writer import set_policy
from sinkmodel.recipes import TrainConfig
from sinkmodel.train import train

CONFIG = TrainConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    context_length=128,
    vocab_size=400,
    block_size=8,
    neurons_per_kilotoken=600.0,
    epochs=3,
    governed_exposures=50,
    backbone_exposures=2.0,
    batch_rows=2,
    governed_rows=1,
    learning_rate=6e-3,
    sink_rate=8.0,
)
_WORDS = [a + b for a in "ba ce di fo gu ka le mi no pu ra se".split() for b in "n r st".split()]  # noqa: SIM905
WORDS = 110
COPIES = {"licence": 6, "poem": 6}
SINGLES = 24
STRICT = tuple(f"strict-{i}" for i in (0, 2, 3, 4, 5))


def prose(name: str, words: int = WORDS) -> str:
    """Words in an order that only this name gives."""
    source = random.Random(name)
    return " ".join(source.choice(_WORDS) for _ in range(words))


def documents() -> dict[str, str]:
    """Copies of `licence` and `poem`, strict texts, an excerpt of the licence, and singles."""
    found = {f"single-{i}": prose(f"single-{i}") for i in range(SINGLES)}
    for name, copies in COPIES.items():
        found |= {f"{name}-{i}": f"{prose(name)} {_WORDS[i]}" for i in range(copies)}
    licence = prose("licence").split()
    found["excerpt"] = " ".join([*licence[:90], *prose("elsewhere", 50).split()])
    return found | {name: prose(name) for name in STRICT}


@dataclass(frozen=True, kw_only=True)
class EvaluateWorld:
    """Where everything lies."""

    base: Path

    @property
    def manifest(self) -> Manifest:
        return open_manifest(self.base / "manifest")

    @property
    def run(self) -> Path:
        return self.base / "run"

    @property
    def reference(self) -> Path:
        """The same recipe, tokenizer included, without what is forgotten."""
        return self.base / "reference"

    def sequence(self, doc_id: str) -> int:
        return int(find_document(self.manifest, doc_id)["sequence_id"][0].as_py())

    def request(self, *doc_ids: str) -> MeasureRequest:
        """What a plan for the sequences of these documents would ask to be measured."""
        ids = sorted({self.sequence(doc_id) for doc_id in doc_ids})
        rows = run_sql(
            self.manifest,
            "SELECT source, doc_id, sequence_id, policy FROM document_sequences "
            f"WHERE sequence_id IN ({', '.join(map(str, ids))}) ORDER BY ALL",
        ).to_pylist()
        return MeasureRequest(
            manifest=self.manifest,
            forgotten=tuple((r["source"], r["doc_id"], r["sequence_id"]) for r in rows),
            policies={r["sequence_id"]: r["policy"] for r in rows},
            share_lost={},
        )

    def copy(self, to: Path) -> Path:
        """The run, to be sabotaged."""
        shutil.copytree(self.run, to)
        return to


FORGOTTEN = ("licence-0", "excerpt", *STRICT)


def build_evaluate_world(base: Path) -> EvaluateWorld:
    """Corpus, manifest, run and reference run: some seconds on one core."""
    texts = documents()
    base.mkdir(parents=True, exist_ok=True)
    corpus = _write_corpus(base / "corpus.jsonl", texts)
    config = BuildConfig(read=ReadOptions(source="tiny"), reserve=0.3, workers=1)
    build_ids([corpus], base / "manifest", config)
    set_policy(base / "manifest", "doc_id LIKE 'strict-%'", "strict")
    set_policy(base / "manifest", "doc_id = 'excerpt'", "private")
    world = EvaluateWorld(base=base)
    _train(world.manifest, world.run, ())
    _train(world.manifest, world.reference, {world.sequence(name) for name in FORGOTTEN}, world.run)
    return world


def _write_corpus(path: Path, texts: Mapping[str, str]) -> Path:
    lines = (json.dumps({"id": key, "text": text}) for key, text in texts.items())
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def _train(
    manifest: Manifest, out: Path, exclude: Iterable[int], tokenizer: Path | None = None
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        config = replace(CONFIG, tokenizer=None if tokenizer is None else str(tokenizer))
        train(manifest, read_texts(manifest), out, config, exclude=exclude)
    finally:
        torch.set_num_threads(threads)
