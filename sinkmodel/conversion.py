"""Out of the sink model: the shared part as a plain Llama.

The way in is `SinkForCausalLM.from_llama`.
"""

from __future__ import annotations

from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from sinkmodel.modeling_sink import SinkForCausalLM


def export_llama(model: SinkForCausalLM) -> LlamaForCausalLM:
    """The shared model alone, as a plain Llama with the logits of sinks off.

    The weights are copies: training the one does not change the other.
    """
    fields = model.config.to_diff_dict()
    ours = ("model_type", "architectures", "transformers_version", "dtype")
    for name in (*ours, "block_size", "num_blocks", "blocks_per_bank"):
        fields.pop(name, None)
    llama = LlamaForCausalLM(LlamaConfig(**fields))
    nn.Module.to(llama, dtype=model.dtype)
    shared = {
        name: value for name, value in model.state_dict().items() if not name.startswith("sinks.")
    }
    llama.load_state_dict(shared)
    llama.generation_config = model.generation_config
    return llama.eval()
