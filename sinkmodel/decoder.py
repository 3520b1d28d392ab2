"""The decoder: Llama's layers, with the sinks of the batch handed to each.

    SinkDecoderLayer   Llama's layer, plus sinks
    SinkModel          embeddings, layers, norm
    check_packing      what packed rows must not be given

Tensor suffixes: B rows, T tokens of a row, D hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from sinkmodel.configuration_sink import SinkConfig
from sinkmodel.sink_mlp import Activation, Routing, gathered_sinks


class SinkDecoderLayer(GradientCheckpointingLayer):
    """Llama's decoder layer; the names of its parameters are Llama's."""

    def __init__(self, config: SinkConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = LlamaAttention(config=config, layer_idx=layer)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.activation: Activation = ACT2FN[config.hidden_act]

    def forward(
        self,
        hidden_BTD: Tensor,
        routing: Routing | None,
        *sinks: Tensor,
        attention_mask: Any,
        position_ids: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        past_key_values: Cache | None = None,
    ) -> Tensor:
        """One layer.

        Args:
            hidden_BTD: Its input.
            routing: Of the batch; None for no sinks.
            sinks: The layer's weights by bucket. Positional, because re-entrant checkpointing
                gives gradients to positional tensors only.
            attention_mask, position_ids, position_embeddings, past_key_values: For attention.
        """
        attention_BTD, _ = self.self_attn(
            hidden_states=self.input_layernorm(hidden_BTD),
            attention_mask=attention_mask,
            position_ids=position_ids,
            position_embeddings=position_embeddings,
            past_key_values=past_key_values,
        )
        hidden_BTD = hidden_BTD + attention_BTD
        x_BTD = self.post_attention_layernorm(hidden_BTD)
        y_BTD = self.mlp(x_BTD)
        if routing is not None:
            y_BTD = gathered_sinks(x_BTD, y_BTD, sinks, routing, self.activation)
        return hidden_BTD + y_BTD


class SinkPreTrainedModel(PreTrainedModel):
    """What transformers needs to know about the architecture."""

    config_class = SinkConfig
    config: SinkConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["SinkDecoderLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True


class SinkModel(SinkPreTrainedModel):
    """The decoder without its head. The banks are handed in, so that keys stay Llama's."""

    def __init__(self, config: SinkConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(
            SinkDecoderLayer(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool = False,
        sinks: list[list[Tensor]] | None = None,
        routing: Routing | None = None,
    ) -> BaseModelOutputWithPast:
        """Hidden states [B, T, D]; `sinks` are the weights by layer and bucket, of `routing`."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        seen = past_key_values.get_seq_length() if past_key_values is not None else 0
        if position_ids is None:
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)
            position_ids = position_ids[None] + seen
        # Before the cache exists: with one, transformers does not look for packed documents.
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        hidden_BTD = inputs_embeds
        rotary = self.rotary_emb(hidden_BTD, position_ids=position_ids)
        for number, layer in enumerate(self.layers):
            hidden_BTD = layer(
                hidden_BTD,
                routing,
                *(sinks[number] if sinks is not None else ()),
                attention_mask=mask,
                position_ids=position_ids,
                position_embeddings=rotary,
                past_key_values=past_key_values,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden_BTD), past_key_values=past_key_values
        )


def check_packing(
    position_ids: Tensor | None, attention_mask: Tensor | None, past_key_values: Cache | None
) -> None:
    """Refuse packed rows where transformers would let attention cross documents in silence."""
    if position_ids is None or (attention_mask is None and past_key_values is None):
        return
    begins = position_ids.diff(dim=1) != 1
    if attention_mask is not None and attention_mask.ndim == 2:
        # Left padding repeats positions; a document begins only between two real tokens.
        real = attention_mask[:, -position_ids.shape[1] :].bool()
        begins = begins & real[:, 1:] & real[:, :-1]
    if begins.any():
        raise ValueError(
            "packed rows (position_ids that restart) take no attention_mask and no cache: "
            "pad them with a document of sequence ID 0"
        )
