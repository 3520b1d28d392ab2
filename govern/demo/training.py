"""The demo's training: the run, and beside it one that never sees the texts to be forgotten."""

from __future__ import annotations

import dataclasses
import multiprocessing
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from govern.demo.places import Places
from govern.demo.story import Story
from govern.ids.texts import read_texts
from manifests import open_manifest
from manifests.errors import InputError

if TYPE_CHECKING:
    from sinkmodel.recipes import TrainConfig
    from sinkmodel.train import Progress

Report = Callable[["Progress"], None]
Progressing = Callable[[], AbstractContextManager["Report | None"]]


def chapter_train(places: Places, story: Story, forgotten: set[int], progress: Progressing) -> None:
    """Chapter 3: two runs at once, one of them without the sequences that will be forgotten."""
    from sinkmodel.recipes import demo

    story.chapter(3, "A sink model is trained, and one that never sees those two texts")
    config = dataclasses.replace(demo(), tokenizer=str(places.tokenizer))
    _train_tokenizer(places, config)
    begin = time.monotonic()
    # Both at once, one thread each: models this small gain little from threads, and the second
    # process takes the second core.
    context = multiprocessing.get_context("spawn")
    arguments = (places.manifest, places.reference, config, sorted(forgotten))
    other = context.Process(target=_train_one, args=arguments)
    other.start()
    try:
        with progress() as report:
            _train_one(places.manifest, places.run, config, (), report)
        other.join()
    finally:
        if other.is_alive():
            other.terminate()
    if other.exitcode != 0:
        raise InputError(
            "the reference run of the demo",
            expected="a training that ends",
            found=f"exit code {other.exitcode}",
            remedy="free some memory (the demo needs 4 GB) and run the demo again",
        )
    story.say(f"Two runs of the same recipe, {time.monotonic() - begin:.0f} s.")


def _train_tokenizer(places: Places, config: TrainConfig) -> None:
    from sinkmodel.prepare import train_tokenizer
    from sinkmodel.tokens import collect_texts, trainable_documents

    manifest = open_manifest(places.manifest)
    documents = trainable_documents(manifest)
    corpus = collect_texts(documents, read_texts(manifest))
    tokenizer = train_tokenizer(corpus, documents["policy"].to_pylist(), config.vocab_size)
    tokenizer.save_pretrained(places.tokenizer)


def _train_one(
    manifest: Path,
    out: Path,
    config: TrainConfig,
    exclude: Any = (),
    report: Report | None = None,
) -> None:
    """Train one run on one thread; also the target of the second process."""
    import torch

    from sinkmodel.train import train

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        opened = open_manifest(manifest)
        train(opened, read_texts(opened), out, config, exclude=exclude, report=report)
    finally:
        torch.set_num_threads(threads)
