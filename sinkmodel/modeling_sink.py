"""SinkForCausalLM: a Llama whose MLPs have sinks that each sequence ID switches on for its tokens.

Routes a batch once, copies its sinks and hands them to the decoder; head, loss, generation, saving
and loading are here.

Importing this module registers the Auto classes.

Tensor suffixes: B rows, T tokens of a row, D hidden, V vocabulary.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationMixin,
    LlamaForCausalLM,
)
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from manifests.errors import CheckpointError, InputError
from sinkmodel.allocation import SINK_MAP_FILE, IntArray, SinkMap
from sinkmodel.configuration_sink import BANK_BYTES, SinkConfig
from sinkmodel.decoder import SinkModel, SinkPreTrainedModel, check_packing
from sinkmodel.losses import mean_loss, token_losses
from sinkmodel.sink_mlp import Routing, SinkBanks, route
from sinkmodel.weights import write_weights


class SinkForCausalLM(SinkPreTrainedModel, GenerationMixin):
    """The sink model with its head.

    Args:
        config: Shapes; banks start at zero, see `SinkBanks.initialise`.

    Attributes:
        sinks: The banks.
        sink_map: Sequence ID to blocks; `from_pretrained` reads it, `attach_sink_map` sets it.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: SinkConfig) -> None:
        super().__init__(config)
        self.model = SinkModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.sinks = SinkBanks(
            config.bank_sizes(),
            layers=config.num_hidden_layers,
            block_size=config.block_size,
            hidden=config.hidden_size,
        )
        self.sink_map = SinkMap.empty()
        self.post_init()

    def attach_sink_map(self, sink_map: SinkMap) -> None:
        """Use this map from now on.

        Raises:
            CheckpointError: It names blocks that the banks do not have.
        """
        if sink_map.num_blocks > self.config.num_blocks:
            raise CheckpointError(
                "sink map",
                expected=f"blocks below num_blocks={self.config.num_blocks} of config.json",
                found=f"block {sink_map.num_blocks - 1}",
                remedy="use the sink map that was saved with this model",
            )
        self.sink_map = sink_map

    def shared_parameters(self) -> list[nn.Parameter]:
        """All parameters that are not sinks; tied ones once."""
        return [*self.model.parameters(), *self._head_parameters()]

    def _head_parameters(self) -> list[nn.Parameter]:
        tied = self.lm_head.weight is self.model.embed_tokens.weight
        return [] if tied else [self.lm_head.weight]

    def forward(
        self,
        input_ids: Tensor | None = None,
        sequence_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits, and the mean loss where labels are given. There is no `**kwargs`: a misspelt
        argument is a TypeError, never silently no sinks.

        Args:
            input_ids: int64 [B, T].
            sequence_ids: int64 [B, T], whose sinks each token uses; 0 is none. Required in
                training; in eval mode None is sinks off.
            attention_mask: [B, past + T], 0 at padding; not for packed rows.
            position_ids: int64 [B, T]. Where they do not go up by one a new document begins:
                attention does not cross it, and its first token is not predicted. Padding at the
                end of a packed row is a document with sequence ID 0 and ignored labels.
            past_key_values: Cache of earlier tokens; not for packed rows.
            inputs_embeds: [B, T, D] instead of `input_ids`.
            labels: int64 [B, T], unshifted; -100 is ignored. The loss is a mean, float32, in nats.
            use_cache: By default `config.use_cache` in eval mode, for rows that are not packed.
            logits_to_keep: Compute only the last so many logits, or those at these indices.
            return_dict: False returns a tuple.

        Raises:
            InputError: `sequence_ids` are missing in training, or of another dtype or shape.
            CheckpointError: A sequence ID is unknown or forgotten.
        """
        tokens = input_ids if input_ids is not None else inputs_embeds
        if tokens is None:
            raise ValueError("give either input_ids or inputs_embeds")
        routing = self._route(sequence_ids, tokens)
        check_packing(position_ids, attention_mask, past_key_values)
        if use_cache is None:
            use_cache = bool(self.config.use_cache) and not self.training and position_ids is None
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            sinks=None if routing is None else self.sinks.gather(routing),
            routing=routing,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits_BTV = self.lm_head(outputs.last_hidden_state[:, kept])
        output = CausalLMOutputWithPast(
            loss=None if labels is None else mean_loss(logits_BTV, labels, position_ids),
            logits=logits_BTV,
            past_key_values=outputs.past_key_values,
        )
        return output if return_dict is not False else output.to_tuple()

    def loss_sum(
        self,
        *,
        input_ids: Tensor,
        sequence_ids: Tensor,
        position_ids: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """Summed loss of a packed batch, float32 in nats; arguments as in `forward`.

        A sum, so that a sequence's gradient does not depend on how many other tokens the batch has.
        """
        logits_BTV = self(
            input_ids=input_ids,
            sequence_ids=sequence_ids,
            position_ids=position_ids,
            use_cache=False,
        ).logits
        return token_losses(logits_BTV, labels, position_ids).sum()

    def _route(self, sequence_ids: Tensor | None, tokens: Tensor) -> Routing | None:
        if sequence_ids is None:
            if self.training:
                raise InputError(
                    "sequence_ids",
                    expected="int64 [B, T] in training, 0 for tokens without a sequence",
                    found="nothing",
                    remedy="pass them with every batch, or call model.eval() to use no sinks",
                )
            return None
        if sequence_ids.dtype != torch.int64 or sequence_ids.shape != tokens.shape[:2]:
            raise InputError(
                "sequence_ids",
                expected=f"int64 {list(tokens.shape[:2])}",
                found=f"{str(sequence_ids.dtype).removeprefix('torch.')} "
                f"{list(sequence_ids.shape)}",
                remedy="give one 64-bit ID for every token",
            )
        return route(sequence_ids, self.sink_map, blocks_per_bank=self.sinks.blocks_per_bank)

    if TYPE_CHECKING:
        # transformers annotates `self` of `generate` as a protocol that no model fulfils.
        def generate(self, *args: Any, **kwargs: Any) -> Any:
            """As in transformers, with `sequence_ids` [B] or [B, T]."""

    # --- generation ------------------------------------------------------------------------------

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, **kwargs: Any
    ) -> dict[str, Any]:
        """Model inputs of one decoding step; the base class refuses unknown arguments before.

        `sequence_ids` [B] (one ID a row) or [B, T] are cut to the step's tokens.
        """
        # Untyped on purpose: the mixin annotates its own `self` as another protocol.
        prepare: Any = GenerationMixin.prepare_inputs_for_generation
        inputs: dict[str, Any] = prepare(self, input_ids, **kwargs)
        sequence_ids = inputs.get("sequence_ids")
        if sequence_ids is not None:
            step = inputs["input_ids"] if inputs.get("input_ids") is not None else input_ids
            length = step.shape[1]
            if sequence_ids.ndim == 1:
                inputs["sequence_ids"] = sequence_ids[:, None].expand(-1, length)
            else:
                inputs["sequence_ids"] = sequence_ids[:, -length:]
        return inputs

    def _update_model_kwargs_for_generation(
        self, outputs: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """New tokens inherit the sequence ID of the last one of their row."""
        updated: dict[str, Any] = super()._update_model_kwargs_for_generation(
            outputs, model_kwargs, *args, **kwargs
        )
        sequence_ids = updated.get("sequence_ids")
        if sequence_ids is not None and sequence_ids.ndim == 2:
            updated["sequence_ids"] = torch.cat([sequence_ids, sequence_ids[:, -1:]], dim=1)
        return updated

    # --- files -----------------------------------------------------------------------------------

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:  # type: ignore[override]
        """Write configuration, weights and sink map in the layout of a run directory.

        `from_pretrained` reads the same bits. Files of other names are left alone, banks of an
        earlier save that no longer exist are removed.

        Raises:
            CheckpointError: The directory holds another model's `model.safetensors`.
        """
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.save_configuration(directory, self.config.num_blocks)
        tied = set(self._tied_weights_keys) if self.config.tie_word_embeddings else set()
        state = {name: value for name, value in self.state_dict().items() if name not in tied}
        write_weights(directory, state)
        self.sink_map.save(directory / SINK_MAP_FILE)

    def save_configuration(self, directory: Path, num_blocks: int) -> None:
        """Write the configurations, with so many blocks where this model has only some of them."""
        config = copy.deepcopy(self.config)
        config.architectures = [type(self).__name__]
        config.dtype = str(self.dtype).removeprefix("torch.")
        config.num_blocks = num_blocks
        config.save_pretrained(directory)
        self.generation_config.save_pretrained(directory)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> Any:
        """Load a run directory: weights, then its sink map.

        Takes the arguments of `PreTrainedModel.from_pretrained`, which refuses unknown ones.

        Raises:
            CheckpointError: The directory has no sink map, or one that does not fit the banks.
        """
        sink_map = SinkMap.read(Path(pretrained_model_name_or_path) / SINK_MAP_FILE)
        # Where there are none, transformers would go on to look for pickled weights.
        kwargs = {**kwargs, "use_safetensors": True}
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.attach_sink_map(sink_map)
        return loaded

    @classmethod
    def from_llama(
        cls,
        llama: LlamaForCausalLM | str | os.PathLike[str],
        sink_map: SinkMap,
        *,
        block_size: int,
        seed: int,
        bank_bytes: int = BANK_BYTES,
        blocks: IntArray | None = None,
        disk: Path | None = None,
    ) -> SinkForCausalLM:
        """Add sinks to a Llama-family checkpoint, whose weights become the shared part.

        Args:
            llama: A model, or a local path of one.
            sink_map: Sequences and their blocks, of `sinkmodel.allocation.allocate`.
            block_size: As given to `allocate`.
            seed: Keys the initial values of the blocks.
            bank_bytes: Bound on the bytes of one bank.
            blocks: As in `SinkBanks.initialise`.
            disk: As in `SinkBanks.keep_on_disk`; by default banks are in memory.

        Returns:
            A model in eval mode whose logits are the Llama's, until its sinks are trained.
        """
        if not isinstance(llama, LlamaForCausalLM):
            llama = LlamaForCausalLM.from_pretrained(
                llama, local_files_only=True, use_safetensors=True
            )
        fields = llama.config.to_diff_dict()
        for name in ("model_type", "architectures", "transformers_version", "dtype"):
            fields.pop(name, None)
        config = SinkConfig.sized(
            num_blocks=sink_map.num_blocks, block_size=block_size, bank_bytes=bank_bytes, **fields
        )
        model = cls(config)
        nn.Module.to(model, dtype=llama.dtype)
        missing, unexpected = model.load_state_dict(llama.state_dict(), strict=False)
        assert not unexpected
        assert all(name.startswith("sinks.") for name in missing)
        model.generation_config = llama.generation_config
        model.attach_sink_map(sink_map)
        if disk is not None:
            model.sinks.keep_on_disk(disk)
        model.sinks.initialise(sink_map, seed=seed, blocks=blocks)
        return model.eval()


AutoConfig.register("sink_llama", SinkConfig)
AutoModelForCausalLM.register(SinkConfig, SinkForCausalLM)
