"""Small sink maps and models for tests."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from sinkmodel.allocation import SinkMap, allocate
from sinkmodel.configuration_sink import SinkConfig
from sinkmodel.evaluate.questions import Answer
from sinkmodel.modeling_sink import SinkForCausalLM

BLOCK_SIZE = 4
SEED = 7


def tiny_map(
    policies: dict[int, str], *, tokens: int = 60, pool_blocks: int = 6, pool_parts: int = 1
) -> SinkMap:
    """IDs with their policies; ID k has `tokens * (1 + k % 3)` tokens."""
    table = pa.table(
        {
            "sequence_id": pa.array(list(policies), pa.int64()),
            "policy": pa.array(list(policies.values()), pa.string()),
            "n_tokens": pa.array([tokens * (1 + k % 3) for k in policies], pa.int64()),
        }
    )
    return allocate(
        table,
        block_size=BLOCK_SIZE,
        neurons_per_kilotoken=64,
        pool_blocks=pool_blocks,
        pool_draws=2,
        pool_parts=pool_parts,
        seed=SEED,
    )


def mixed_map() -> SinkMap:
    """IDs 1 to 4 private, 5 and 6 pooled, 7 strict, 8 shared."""
    return tiny_map(
        {
            1: "private",
            2: "private",
            3: "private",
            4: "private",
            5: "pooled",
            6: "pooled",
            7: "strict",
            8: "shared",
        }
    )


def tiny_config(
    sink_map: SinkMap, *, bank_blocks: int | None = None, tied: bool = True
) -> SinkConfig:
    return SinkConfig(
        num_blocks=sink_map.num_blocks,
        block_size=BLOCK_SIZE,
        blocks_per_bank=bank_blocks,
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def tiny_model(
    sink_map: SinkMap | None = None, *, bank_blocks: int | None = None, tied: bool = True
) -> SinkForCausalLM:
    """A model whose sinks say something: down rows are not zero, but keyed by the block's owner."""
    sink_map = mixed_map() if sink_map is None else sink_map
    torch.manual_seed(SEED)
    model = SinkForCausalLM(tiny_config(sink_map, bank_blocks=bank_blocks, tied=tied))
    model.attach_sink_map(sink_map)
    model.sinks.initialise(sink_map, seed=SEED)
    with torch.no_grad():
        for bank in model.sinks.banks:
            bank[:, :, 2] = bank[:, :, 0].flip(-1)
    return model.eval()


def packed_rows(
    documents: list[list[tuple[int, int]]], *, length: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows of (sequence ID, tokens) -> input_ids, sequence_ids, position_ids, each [B, T]."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(3, 50, (len(documents), length), generator=generator)
    sequence_ids = torch.zeros(len(documents), length, dtype=torch.int64)
    position_ids = torch.zeros_like(sequence_ids)
    for row, spans in enumerate(documents):
        at = 0
        for sequence_id, size in [*spans, (0, length - sum(size for _, size in spans))]:
            sequence_ids[row, at : at + size] = sequence_id
            position_ids[row, at : at + size] = torch.arange(size)
            at += size
    return input_ids, sequence_ids, position_ids


def random_answers(count: int, sequence_id: int = 0) -> list[Answer]:
    """Prompts of 2 to 4 tokens and answers of 2 to 7, at random."""
    random = np.random.default_rng(count)
    return [
        Answer(
            tokens=random.integers(3, 50, size=6 + i % 4).astype(np.int32),
            prompt=2 + i % 3,
            sequence_id=sequence_id,
            text=b"x",
        )
        for i in range(count)
    ]
