"""SinkConfig: a Llama configuration plus the shape of the sink banks."""

from __future__ import annotations

import dataclasses
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import LlamaConfig

BANK_BYTES = 256 * 2**20
"""Default bound on the bytes of one bank: small enough to rewrite, large enough to be few."""

_FLOAT32_BYTES = 4


def block_bytes(*, layers: int, block_size: int, hidden: int, element_bytes: int) -> int:
    """Bytes of one block: gate, up and down rows of `block_size` neurons in every layer."""
    return layers * 3 * block_size * hidden * element_bytes


def bounded_blocks_per_bank(
    *, layers: int, block_size: int, hidden: int, bank_bytes: int = BANK_BYTES
) -> int:
    """How many float32 blocks fit into a bank of at most `bank_bytes`; at least one."""
    size = block_bytes(
        layers=layers, block_size=block_size, hidden=hidden, element_bytes=_FLOAT32_BYTES
    )
    return max(1, bank_bytes // size)


@strict
class SinkConfig(LlamaConfig):
    """Configuration of `SinkForCausalLM`. Every layer has sinks.

    Args:
        block_size: Sink neurons of one block in one layer.
        num_blocks: Blocks in all banks together; 0 is a model without sinks.
        blocks_per_bank: Block b lies in bank `b // blocks_per_bank`, row `b % blocks_per_bank`.
            By default as many float32 blocks as fit into `BANK_BYTES`; stored with the
            configuration, so that later defaults do not move blocks.

    All other fields are those of `LlamaConfig`; `intermediate_size` is the width of the shared
    neurons.
    """

    model_type = "sink_llama"

    block_size: int = 8
    num_blocks: int = 0
    blocks_per_bank: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # The base class takes the fields that JSON may hold beyond the declared ones.
        super().__post_init__(**kwargs)
        if self.blocks_per_bank is None and self.block_size > 0:
            self.blocks_per_bank = bounded_blocks_per_bank(
                layers=self.num_hidden_layers, block_size=self.block_size, hidden=self.hidden_size
            )

    def validate_sinks(self) -> None:
        """Refuse shapes that no bank can have; called by the `strict` validation."""
        if self.block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {self.block_size}")
        if self.num_blocks < 0:
            raise ValueError(f"num_blocks must not be negative, got {self.num_blocks}")
        if self.blocks_per_bank is not None and self.blocks_per_bank < 1:
            raise ValueError(f"blocks_per_bank must be at least 1, got {self.blocks_per_bank}")
        if self.mlp_bias:
            raise ValueError("mlp_bias is not supported: a sink neuron has no bias to forget")

    @classmethod
    def sized(
        cls, *, num_blocks: int, block_size: int, bank_bytes: int = BANK_BYTES, **llama: Any
    ) -> SinkConfig:
        """A configuration whose banks have at most `bank_bytes` bytes in float32.

        Args:
            num_blocks: Blocks in all banks together.
            block_size: Sink neurons of one block in one layer.
            bank_bytes: Bound on one bank.
            llama: Fields of `LlamaConfig`.

        Raises:
            TypeError: A field that `LlamaConfig` does not have.
        """
        unknown = set(llama) - {field.name for field in dataclasses.fields(LlamaConfig)}
        if unknown:
            raise TypeError(f"LlamaConfig has no field {sorted(unknown)[0]!r}")
        plain = LlamaConfig(**llama)
        per_bank = bounded_blocks_per_bank(
            layers=plain.num_hidden_layers,
            block_size=block_size,
            hidden=plain.hidden_size,
            bank_bytes=bank_bytes,
        )
        return cls(block_size=block_size, num_blocks=num_blocks, blocks_per_bank=per_bank, **llama)

    def bank_sizes(self) -> list[int]:
        """Number of blocks of each bank, in order; all but the last are full."""
        assert self.blocks_per_bank is not None  # set in __post_init__
        full, rest = divmod(self.num_blocks, self.blocks_per_bank)
        return [self.blocks_per_bank] * full + ([rest] if rest else [])
