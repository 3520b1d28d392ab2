"""Training configurations: one frozen dataclass, named recipes, TOML and `key=value` overrides.

A recipe is a function that returns a `TrainConfig`; a TOML file and `--set key=value` replace
fields of it. Every field is written into `training.json`; all but the last few shape the weights.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from manifests.errors import InputError

_ABOVE_ZERO = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("context_length", "vocab_size", "block_size", "bank_bytes"),
    *("epochs", "batch_rows", "governed_rows", "learning_rate", "sink_rate", "clip_norm"),
    *("accumulation", "pool_parts", "rank_timeout"),
)
_ZERO_OR_MORE = (
    *("neurons_per_kilotoken", "pool_blocks", "pool_draws", "governed_exposures"),
    *(
        "backbone_exposures",
        "max_document_tokens",
        "weight_decay",
        "save_every",
        "initializer_range",
    ),
)

TRACKERS = ("none", "jsonl", "tensorboard")
BANKS = ("memory", "disk")
AROUND_THE_RUN = ("save_every", "banks", "tracker", "rank_timeout")
"""Fields that shape no weights, and may differ when a run is resumed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that shapes a training run.

    Model (Llama names):
        base: Path of a local Llama checkpoint whose weights become the shared part; its shapes and
            its tokenizer take the place of those below. None starts from the seed.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: `intermediate_size`
            is the width of the shared neurons.
        context_length: Tokens a row; longer documents are cut into chunks.
        initializer_range: Standard deviation of initial shared weights; 0 is 1 / sqrt(hidden_size),
            which lets a briefly trained backbone tell contexts apart (docs/adr/0007).
        vocab_size: Size of the BPE trained on the corpus (never on `strict` text).
        tokenizer: Path of a local tokenizer to use instead; None trains one.

    Sinks:
        block_size: Neurons a block.
        neurons_per_kilotoken: Sink neurons that a private or strict sequence gets for 1,000 tokens
            of its longest document; at least one block.
        pool_blocks, pool_draws: Blocks of the common pool of `pooled` sequences, and how many of
            them each draws.
        pool_parts: Equal parts of the pool, from one of which a sequence draws: with several ranks,
            part p and all its sequences belong to rank p mod ranks. Take a multiple of the ranks
            where many sequences are pooled.
        bank_bytes: Upper bound of one bank's bytes on disk.

    Schedule:
        epochs: Passes over the corpus.
        governed_exposures: Least number of exposures (passes over one of its documents) of a
            private or strict sequence; matters for sequences with few copies.
        backbone_exposures: E of the design: a private sequence's first E exposures also train the
            shared neurons (docs/adr/0014); `inf` is the published MemSinks training.
        batch_rows: Rows of `context_length` tokens in one step of the shared parameters.
        governed_rows: Rows in one step of sinks alone; sinks learn a text by heart in steps, so few
            rows a step are worth their overhead.
        accumulation: Passes in which the rows of one step go through the model, for less memory;
            the step is the same but for the order of sums.
        id_noise: Share of the documents of private and pooled sequences that are trained under the
            ID of another such sequence: how robust isolation is to wrong IDs. Not for production.
        max_document_tokens: Train on the first so many tokens of each document; 0 is all.

    Optimisation:
        learning_rate: Peak rate of shared parameters (AdamW, warm-up and cosine to a tenth).
        sink_rate: The sinks' rate as a multiple of it.
        warmup: Share of the steps spent warming up.
        weight_decay, clip_norm: Of the shared parameters; sinks are clipped by block.
        precision: `no` (float32) or `bf16` (autocast; master weights stay float32).
        seed: Of weights and data order.

    The run around it (shapes no weights):
        save_every: Micro-batches between resumable saves; 0 saves only at the end and on Ctrl-C.
        banks: `memory`, or `disk` for sinks and optimizer state that are larger: files beside the
            run, mapped into memory (CPU only).
        tracker: `none`, `jsonl` or `tensorboard`: losses and speed into OUT.log while training.
        rank_timeout: Seconds that one rank waits for another before it gives up.
    """

    base: str | None = None
    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    intermediate_size: int = 384
    context_length: int = 256
    initializer_range: float = 0.0
    vocab_size: int = 4096
    tokenizer: str | None = None

    block_size: int = 8
    neurons_per_kilotoken: float = 64.0
    pool_blocks: int = 256
    pool_draws: int = 4
    pool_parts: int = 1
    bank_bytes: int = 1 << 30

    epochs: int = 1
    governed_exposures: int = 32
    backbone_exposures: float = 2.0
    batch_rows: int = 8
    governed_rows: int = 1
    accumulation: int = 1
    max_document_tokens: int = 0
    id_noise: float = 0.0

    learning_rate: float = 2e-3
    sink_rate: float = 4.0
    warmup: float = 0.05
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    precision: str = "no"
    seed: int = 0
    save_every: int = 0
    banks: str = "memory"
    tracker: str = "none"
    rank_timeout: float = 1800.0

    def __post_init__(self) -> None:
        for name in _ABOVE_ZERO:
            if not getattr(self, name) > 0:
                raise _bad(name, "a number above 0", getattr(self, name))
        for name in _ZERO_OR_MORE:
            if not getattr(self, name) >= 0:  # also refuses NaN
                raise _bad(name, "a number of 0 or more", getattr(self, name))
        if self.hidden_size % self.num_attention_heads:
            raise _bad("hidden_size", "a multiple of num_attention_heads", self.hidden_size)
        choices = {"precision": ("no", "bf16"), "banks": BANKS, "tracker": TRACKERS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise _bad(name, " or ".join(known), getattr(self, name))
        for name in ("warmup", "id_noise"):
            if not 0 <= getattr(self, name) < 1:
                raise _bad(name, "a share in [0, 1)", getattr(self, name))
        if self.context_length < 8:
            raise _bad("context_length", "at least 8 tokens", self.context_length)

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON values; `inf` becomes the string "inf"."""
        values = dataclasses.asdict(self)
        if math.isinf(self.backbone_exposures):
            values["backbone_exposures"] = "inf"
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The inverse of `to_json`, as `training.json` holds it.

        Raises:
            InputError: Other fields, or values that no configuration may have.
        """
        fields = {field.name for field in dataclasses.fields(cls)}
        if set(values) != fields:
            raise InputError(
                "training configuration",
                expected="the fields of this version",
                found=f"others: {', '.join(sorted(fields.symmetric_difference(values)))}",
                remedy="use the version of memsinks-govern that trained the run",
            )
        return cls(**{name: _typed(cls(), name, value) for name, value in values.items()})


def _bad(name: str, expected: str, found: object) -> InputError:
    return InputError(
        f"training option {name}",
        expected=expected,
        found=repr(found),
        remedy=f"give another value with --set {name}=…",
    )


def demo() -> TrainConfig:
    """A minute on one core: the embedded corpus of `govern demo`.

    So small a model learns a text by heart only when it is short and comes often, hence 256 tokens
    of each document and 120 exposures.
    """
    return TrainConfig(
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=256,
        context_length=128,
        vocab_size=2048,
        max_document_tokens=256,
        neurons_per_kilotoken=512.0,
        epochs=2,
        governed_exposures=120,
        batch_rows=2,
    )


def tinystories_1m() -> TrainConfig:
    """The MemSinks protocol scaled to one CPU: hidden 96, 3 layers, 128-token stories."""
    return TrainConfig(
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=256,
        context_length=128,
        neurons_per_kilotoken=256.0,
        governed_exposures=48,
        batch_rows=16,
    )


def tinystories_8m() -> TrainConfig:
    """The same protocol at 8M parameters."""
    return TrainConfig(
        hidden_size=288,
        num_hidden_layers=6,
        num_attention_heads=6,
        intermediate_size=768,
        context_length=256,
        vocab_size=8192,
        neurons_per_kilotoken=256.0,
        governed_exposures=48,
        batch_rows=16,
        learning_rate=1e-3,
    )


def smol_360m() -> TrainConfig:
    """The 360M shape of the MemSinks and NULLs papers; wants a GPU."""
    return TrainConfig(
        hidden_size=960,
        num_hidden_layers=32,
        num_attention_heads=15,
        intermediate_size=2560,
        context_length=1024,
        vocab_size=49152,
        batch_rows=32,
        learning_rate=5e-4,
        precision="bf16",
        save_every=500,
    )


def smol_1_7b() -> TrainConfig:
    """The 1.7B shape of the MemSinks paper; wants several GPUs."""
    return dataclasses.replace(
        smol_360m(),
        hidden_size=2048,
        num_hidden_layers=24,
        num_attention_heads=32,
        intermediate_size=8192,
        learning_rate=3e-4,
    )


RECIPES: Mapping[str, Callable[[], TrainConfig]] = {
    "demo": demo,
    "tinystories-1m": tinystories_1m,
    "tinystories-8m": tinystories_8m,
    "smol-360m": smol_360m,
    "smol-1.7b": smol_1_7b,
}


def configure(
    recipe: str = "demo", *, toml: Path | None = None, overrides: Sequence[str] = ()
) -> TrainConfig:
    """A recipe with the fields of a TOML file and of `key=value` strings put over it.

    Raises:
        InputError: Unknown recipe or field, a value of the wrong type, an unreadable file.
    """
    if recipe not in RECIPES:
        raise InputError(
            f"recipe {recipe!r}",
            expected=f"one of {', '.join(RECIPES)}",
            found="another name",
            remedy="choose one of them with --recipe",
        )
    config = RECIPES[recipe]()
    changes: dict[str, Any] = {}
    if toml is not None:
        try:
            changes.update(tomllib.loads(toml.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise InputError(
                f"configuration {toml}",
                expected="a readable TOML file",
                found=str(error),
                remedy="mend the file or leave --config out",
            ) from error
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise InputError(
                f"--set {override!r}",
                expected="key=value",
                found="no equals sign",
                remedy="write for example --set epochs=2",
            )
        changes[key.strip()] = text.strip()
    return dataclasses.replace(config, **{k: _typed(config, k, v) for k, v in changes.items()})


def _typed(config: TrainConfig, name: str, value: Any) -> Any:
    if name not in {field.name for field in dataclasses.fields(config)}:
        known = ", ".join(field.name for field in dataclasses.fields(config))
        raise InputError(
            f"training option {name!r}",
            expected=f"one of {known}",
            found="another name",
            remedy="correct the name",
        )
    if name in ("tokenizer", "base"):
        return None if value in (None, "", "none") else str(value)
    kind = type(getattr(config, name))
    try:
        if kind is int and isinstance(value, str):
            return int(value)
        if kind is int and (isinstance(value, bool) or not isinstance(value, int)):
            raise ValueError(value)
        return kind(value)
    except (TypeError, ValueError):
        raise _bad(name, f"a value of type {kind.__name__}", value) from None
