"""What a run is a function of, before its first step, and the model that it begins with.

prepare       manifest + text -> tokenizer, token store, sink map, schedule
build_model   a fresh model with the sinks of one rank
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from transformers import PreTrainedTokenizerBase

from manifests import Manifest
from manifests.errors import CheckpointError, TrainingError
from sinkmodel.allocation import SinkMap, allocate
from sinkmodel.configuration_sink import SinkConfig
from sinkmodel.data import MicroBatch, schedule
from sinkmodel.modeling_sink import SinkForCausalLM
from sinkmodel.ownership import Shard
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
        pool_parts=config.pool_parts,
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


def build_model(
    prepared: Prepared, config: TrainConfig, shard: Shard, disk: Path | None = None
) -> SinkForCausalLM:
    """A fresh model: shared weights from the seed, each block from (seed, sequence ID) alone.

    With `config.base` the shared weights are those of that checkpoint, to the bit. Banks lie in
    files of `disk`, a directory to be made, where one is given.
    """
    if config.base:
        return _from_base(prepared, config, shard, disk)
    model = _without_values(prepared, config, shard)
    model.attach_sink_map(shard.sink_map)
    if disk is not None:
        model.sinks.keep_on_disk(disk)
    model.sinks.initialise(shard.sink_map, seed=config.seed, blocks=shard.blocks)
    return model


def _without_values(prepared: Prepared, config: TrainConfig, shard: Shard) -> SinkForCausalLM:
    sink_config = SinkConfig.sized(
        num_blocks=len(shard.blocks),
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
        return SinkForCausalLM(sink_config)


def _from_base(
    prepared: Prepared, config: TrainConfig, shard: Shard, disk: Path | None
) -> SinkForCausalLM:
    assert config.base is not None  # the caller asked
    try:
        model = SinkForCausalLM.from_llama(
            config.base,
            shard.sink_map,
            block_size=config.block_size,
            seed=config.seed,
            bank_bytes=config.bank_bytes,
            blocks=shard.blocks,
            disk=disk,
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
