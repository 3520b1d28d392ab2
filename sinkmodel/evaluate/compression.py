"""Adversarial compression: the shortest prompt that makes a model say a text.

The ratio is |text| / |prompt| in tokens; above 1 the model holds the text in the sense of
Schwarzschild et al. 2024 (arXiv 2404.15146, definition 1). The prompt is searched for by greedy
coordinate gradient (Zou et al. 2023, arXiv 2307.15043, algorithm 1) within a budget of steps, so a
value is a lower bound: what was found, not what there is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sinkmodel.modeling_sink import SinkForCausalLM

_GROWTH = 5  # tokens that a prompt grows by when none of its length is found
_TOP = 64  # substitutes considered at each position


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long the search may take.

    Args:
        steps: Gradient steps in all.
        steps_of_length: Of them, for one prompt length.
        candidates: Prompts tried after each gradient.
    """

    steps: int = 200
    steps_of_length: int = 40
    candidates: int = 64


def compression_ratio(
    model: SinkForCausalLM, text: Tensor, *, sequence_id: int, budget: Budget, seed: int
) -> float:
    """Tokens of `text` for each token of the shortest prompt found; 0 where none was.

    Args:
        model: In eval mode; its parameters are left alone.
        text: int64 [L], the tokens to elicit.
        sequence_id: Whose sinks are on; 0 is off.
        budget: Of the search.
        seed: Of first prompts and candidates.
    """
    model.eval()
    text = text.to(model.device)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    left, length, shortest, failed = budget.steps, _GROWTH, 0, 0
    while left > 0 and failed < length < len(text):
        steps = min(left, budget.steps_of_length)
        used, found = _search(model, text, length, sequence_id, steps, budget.candidates, generator)
        left -= used
        if found:
            shortest, length = length, length - 1
        elif shortest:
            failed = length
        else:
            failed, length = length, length + _GROWTH
    return len(text) / shortest if shortest else 0.0


def _search(
    model: SinkForCausalLM,
    text: Tensor,
    length: int,
    sequence_id: int,
    steps: int,
    candidates: int,
    generator: torch.Generator,
) -> tuple[int, bool]:
    """Look for a prompt of this length: how many steps were used, and whether one was found."""
    size = model.model.embed_tokens.num_embeddings
    prompt = torch.randint(size, (length,), generator=generator).to(model.device)
    for step in range(1, steps + 1):
        gradient = _gradient(model, prompt, text, sequence_id)
        best = (-gradient).topk(min(_TOP, size), dim=-1).indices
        places = torch.randint(length, (candidates,), generator=generator).to(model.device)
        picks = torch.randint(best.shape[1], (candidates,), generator=generator).to(model.device)
        tried = prompt.repeat(candidates, 1)
        tried[torch.arange(candidates), places] = best[places, picks]
        losses, exact = _judge(model, tried, text, sequence_id)
        if exact.any():
            return step, True
        prompt = tried[losses.argmin()]
    return steps, False


def _gradient(model: SinkForCausalLM, prompt: Tensor, text: Tensor, sequence_id: int) -> Tensor:
    """Of the text's loss by the one-hot choice of each prompt token, float [length, V]."""
    table = model.model.embed_tokens.weight.detach()
    embedded = table[torch.cat([prompt, text])][None].requires_grad_()
    ids = torch.full(embedded.shape[:2], sequence_id, device=model.device)
    logits = model(inputs_embeds=embedded, sequence_ids=ids, use_cache=False).logits[0]
    loss = torch.nn.functional.cross_entropy(logits[len(prompt) - 1 : -1].float(), text)
    (gradient,) = torch.autograd.grad(loss, embedded)
    return gradient[0, : len(prompt)] @ table.T


@torch.no_grad()
def _judge(
    model: SinkForCausalLM, prompts: Tensor, text: Tensor, sequence_id: int
) -> tuple[Tensor, Tensor]:
    """Of each prompt: the text's loss after it, and whether greedy decoding would say the text."""
    rows = torch.cat([prompts, text.expand(len(prompts), -1)], dim=1)
    ids = torch.full_like(rows, sequence_id)
    logits = model(input_ids=rows, sequence_ids=ids, use_cache=False).logits
    logits = logits[:, prompts.shape[1] - 1 : -1].float()
    chosen = torch.log_softmax(logits, dim=-1).gather(-1, text.expand(len(prompts), -1)[..., None])
    return -chosen[..., 0].mean(-1), (logits.argmax(-1) == text).all(-1)
