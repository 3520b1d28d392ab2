"""What one micro-batch does: the model, its two optimizers, three streams.

    prepare   manifest + text -> tokenizer, token store, sink map, schedule
    Trainer   the model and its optimizers; `step` takes one micro-batch

After an open micro-batch the shared parameters and the sinks step; after a sealed or strict one
only sinks do, because the backward pass never enters the shared parameters (see `sinkmodel.data`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from manifests import Manifest
from manifests.errors import CheckpointError, TrainingError
from sinkmodel.allocation import SinkMap, allocate
from sinkmodel.configuration_sink import SinkConfig
from sinkmodel.data import MicroBatch, collate, schedule
from sinkmodel.lazy_adam import BlockAdam
from sinkmodel.losses import IGNORED
from sinkmodel.modeling_sink import SinkForCausalLM
from sinkmodel.recipes import TrainConfig
from sinkmodel.tokenizer import load_tokenizer, train_bpe
from sinkmodel.tokens import (
    TokenStore,
    collect_texts,
    tokenize,
    trainable_documents,
    with_wrong_ids,
)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """All that a run is a function of, before the first step."""

    tokenizer: PreTrainedTokenizerBase
    store: TokenStore
    policies: Sequence[str]
    sink_map: SinkMap
    batches: Sequence[MicroBatch]


def prepare(
    manifest: Manifest,
    texts: Iterable[pa.RecordBatch],
    config: TrainConfig,
    exclude: Iterable[int] = (),
) -> Prepared:
    """Tokenise, allocate sinks and lay out the data order.

    Raises:
        TrainingError: Nothing to train on.
        ManifestError: A document of the manifest has no text in the corpus.
    """
    documents = trainable_documents(manifest, exclude)
    if not documents.num_rows:
        raise TrainingError(
            f"manifest {manifest.path}",
            expected="documents that are active, not reserved and not excluded",
            found="none",
            remedy="build the manifest from a corpus with text, or lower --reserve",
        )
    corpus = collect_texts(documents, texts)
    policies = documents["policy"].to_pylist()
    local = config.tokenizer or config.base
    tokenizer = (
        load_tokenizer(local) if local else train_tokenizer(corpus, policies, config.vocab_size)
    )
    store = tokenize(documents, corpus, tokenizer, config.max_document_tokens)
    if config.id_noise:
        store, policies = with_wrong_ids(store, policies, share=config.id_noise, seed=config.seed)
    sink_map = allocate(
        _sequence_lengths(store, policies),
        block_size=config.block_size,
        neurons_per_kilotoken=config.neurons_per_kilotoken,
        pool_blocks=config.pool_blocks if "pooled" in policies else 0,
        pool_draws=config.pool_draws,
        seed=config.seed,
    )
    return Prepared(
        tokenizer=tokenizer,
        store=store,
        policies=policies,
        sink_map=sink_map,
        batches=schedule(store, policies, config),
    )


def train_tokenizer(
    texts: Sequence[str], policies: Sequence[str], vocab_size: int
) -> PreTrainedTokenizerBase:
    """A BPE trained on every text but the `strict` ones."""
    pairs = zip(texts, policies, strict=True)
    return train_bpe((text for text, policy in pairs if policy != "strict"), vocab_size)


def _sequence_lengths(store: TokenStore, policies: Sequence[str]) -> pa.Table:
    """sequence_id, policy, n_tokens (of the longest document, which sizes the sinks)."""
    documents = pa.table(
        {
            "sequence_id": store.sequence_ids,
            "policy": pa.array(policies, pa.string()),
            "n_tokens": store.lengths,
        }
    )
    grouped = documents.group_by(["sequence_id", "policy"]).aggregate([("n_tokens", "max")])
    return grouped.rename_columns(["sequence_id", "policy", "n_tokens"]).sort_by("sequence_id")


def build_model(prepared: Prepared, config: TrainConfig) -> SinkForCausalLM:
    """A fresh model: shared weights from the seed, each block from (seed, sequence ID) alone.

    With `config.base` the shared weights are those of that checkpoint, to the bit.
    """
    if config.base:
        return _from_base(prepared, config)
    sink_config = SinkConfig.sized(
        num_blocks=prepared.sink_map.num_blocks,
        block_size=config.block_size,
        bank_bytes=config.bank_bytes,
        vocab_size=len(prepared.tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_attention_heads,
        max_position_embeddings=config.context_length,
        bos_token_id=prepared.tokenizer.bos_token_id,
        eos_token_id=prepared.tokenizer.eos_token_id,
        pad_token_id=prepared.tokenizer.pad_token_id,
        initializer_range=config.initializer_range or config.hidden_size**-0.5,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = SinkForCausalLM(sink_config)
    model.attach_sink_map(prepared.sink_map)
    model.sinks.initialise(prepared.sink_map, seed=config.seed)
    return model


def _from_base(prepared: Prepared, config: TrainConfig) -> SinkForCausalLM:
    assert config.base is not None  # the caller asked
    try:
        model = SinkForCausalLM.from_llama(
            config.base, prepared.sink_map, block_size=config.block_size, seed=config.seed
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"base {config.base}",
            expected="a local Llama checkpoint",
            found=(str(error).splitlines() or ["something else"])[0],
            remedy="give the folder that save_pretrained wrote",
        ) from error
    if len(prepared.tokenizer) > model.config.vocab_size:
        raise CheckpointError(
            f"tokenizer of {config.base}",
            expected=f"at most {model.config.vocab_size} entries, as the model has",
            found=str(len(prepared.tokenizer)),
            remedy="give the model's own tokenizer",
        )
    return model


class Trainer:
    """The model with its two optimizers; `step` is what one micro-batch does."""

    def __init__(self, prepared: Prepared, config: TrainConfig) -> None:
        self.prepared = prepared
        self.config = config
        self.accelerator = Accelerator(mixed_precision=config.precision)
        self.model = build_model(prepared, config).to(self.accelerator.device)
        self.model.train()
        shared = self.model.shared_parameters()
        decayed = [p for p in shared if p.ndim > 1]
        plain = [p for p in shared if p.ndim <= 1]
        self.adamw = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=(0.9, 0.95),
        )
        self.block_adam = BlockAdam(self.model.sinks, lr=config.learning_rate * config.sink_rate)
        self._losses: list[tuple[int, str, float, int, float]] = []
        self.done = 0
        self.tokens = 0
        self.open_loss = self.sink_loss = math.nan
        # Constant, so that a sequence's gradient does not depend on how full its batch is.
        self.normaliser = float(config.batch_rows * config.context_length)

    def rate(self, time: float) -> float:
        """Share of the peak learning rate at `time`: linear warm-up, cosine down to a tenth."""
        warmup = self.config.warmup
        if time < warmup:
            return max(time / warmup, 1e-3)
        return 0.1 + 0.45 * (1 + math.cos(math.pi * (time - warmup) / (1 - warmup)))

    def step(self, micro: MicroBatch) -> None:
        """Forward, backward and the optimizers' step for one micro-batch.

        Raises:
            TrainingError: The loss is not a number.
        """
        batch = collate(self.prepared.store, micro, self.config.context_length, self._pad_id)
        device = self.accelerator.device
        with self.accelerator.autocast():
            loss_sum = self.model.loss_sum(
                input_ids=batch.input_ids.to(device),
                sequence_ids=batch.sequence_ids.to(device),
                position_ids=batch.position_ids.to(device),
                labels=batch.labels.to(device),
            )
        counted = int((batch.labels != IGNORED).sum())
        value = float(loss_sum.detach()) / max(counted, 1)
        if not math.isfinite(value):
            raise TrainingError(
                f"loss of micro-batch {self.done}",
                expected="a finite number",
                found=str(value),
                remedy="lower learning_rate or sink_rate, or set precision=no; nothing was saved "
                "after the last good step",
            )
        self._update(loss_sum / self.normaliser, micro)
        self._losses.append((self.done, micro.stream, micro.time, counted, value))
        if micro.stream == "open":
            self.open_loss = value
        else:
            self.sink_loss = value
        self.tokens += counted
        self.done += 1

    @property
    def _pad_id(self) -> int:
        pad = self.prepared.tokenizer.pad_token_id
        return int(pad if pad is not None else self.prepared.tokenizer.eos_token_id)

    def _update(self, loss: torch.Tensor, micro: MicroBatch) -> None:
        rate = self.rate(micro.time)
        sinks = list(self.model.sinks.parameters())
        if micro.stream == "open":
            self.accelerator.backward(loss)
            torch.nn.utils.clip_grad_norm_(self.model.shared_parameters(), self.config.clip_norm)
            for group in self.adamw.param_groups:
                group["lr"] = self.config.learning_rate * rate
            self.adamw.step()
            self.adamw.zero_grad(set_to_none=True)
        elif loss.requires_grad:
            self.accelerator.backward(loss, inputs=sinks)
        self.block_adam.step(rate=rate)
        for bank in sinks:
            bank.grad = None

    # --- state, as named tensors and a table -----------------------------------------------------

    def parameters(self) -> dict[str, torch.Tensor]:
        """Every weight by name, tied ones once."""
        return dict(self.model.named_parameters())

    def shared_state(self) -> dict[str, torch.Tensor]:
        """AdamW's state of the shared parameters: `NAME.exp_avg`, `.exp_avg_sq`, `.step`."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return {
            f"{names[id(parameter)]}.{key}": value
            for parameter, state in self.adamw.state.items()
            for key, value in state.items()
        }

    def loss_table(self, schema: pa.Schema) -> pa.Table:
        """Loss of every micro-batch so far."""
        columns = zip(*self._losses, strict=True) if self._losses else [[] for _ in schema]
        fields = zip(columns, schema, strict=True)
        return pa.table([pa.array(list(c), f.type) for c, f in fields], schema=schema)

    def restore(
        self,
        *,
        parameters: dict[str, torch.Tensor],
        shared: dict[str, torch.Tensor],
        banks: list[dict[str, torch.Tensor]],
        losses: pa.Table,
        tokens: int,
    ) -> None:
        """Continue from a save: the inverse of `parameters`, `shared_state` and `loss_table`."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(parameters[name])
        for name, parameter in self.model.named_parameters():
            keys = ("step", "exp_avg", "exp_avg_sq")
            if f"{name}.step" in shared:
                self.adamw.state[parameter] = {key: shared[f"{name}.{key}"] for key in keys}
        self.block_adam.load_bank_states(banks)
        self._losses = list(zip(*(c.to_pylist() for c in losses.columns), strict=True))
        self.done = len(self._losses)
        self.tokens = tokens
