"""Greedy continuations: what a model recites from a prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sinkmodel.evaluate.metrics import rouge_l_recall, verbatim_tokens
from sinkmodel.modeling_sink import SinkForCausalLM

_ROWS = 64  # prompts at a time: what a step costs beside its arithmetic is paid once for all


@dataclass(frozen=True, kw_only=True)
class Recital:
    """A continuation beside the true one.

    Args:
        truth, recited: Token IDs after the prefix, of equal length at most.
        verbatim: Leading tokens that agree.
        rouge_l: ROUGE-L recall of the recited tokens.
    """

    truth: tuple[int, ...]
    recited: tuple[int, ...]
    verbatim: int
    rouge_l: float

    @property
    def exact(self) -> bool:
        """Whether the whole continuation is the true one (discoverable extraction).

        Source: Carlini et al. 2023, arXiv 2202.07646, section 3 (50 tokens from a 50-token prefix).
        """
        return self.verbatim == len(self.truth)


@torch.no_grad()
def continuations(
    model: SinkForCausalLM, prompts: np.ndarray, sequence_ids: Sequence[int], *, length: int
) -> list[list[int]]:
    """Greedy `length` tokens after each prompt, all at once.

    Args:
        model: In eval mode.
        prompts: Integers [rows, tokens].
        sequence_ids: Whose sinks are on for each; 0 is off.
        length: Tokens asked for.
    """
    output = model.generate(
        torch.from_numpy(prompts.astype(np.int64)).to(model.device),
        sequence_ids=torch.tensor(sequence_ids, device=model.device),
        max_new_tokens=length,
        min_new_tokens=length,
        do_sample=False,
    )
    rows: list[list[int]] = output[:, prompts.shape[1] :].tolist()
    return rows


@torch.no_grad()
def recite(
    model: SinkForCausalLM,
    documents: Sequence[np.ndarray],
    sequence_ids: Sequence[int],
    *,
    prefix: int = 50,
    length: int = 50,
) -> list[Recital | None]:
    """Greedy `length` tokens from each document's first `prefix` tokens.

    Args:
        model: In eval mode.
        documents: Token arrays with their begin token, which counts as part of the prefix.
        sequence_ids: Whose sinks are on for each; 0 is off.
        prefix: Tokens given.
        length: Tokens asked for.

    Returns:
        One recital a document, None where it is too short to ask.
    """
    model.eval()
    able = [i for i, tokens in enumerate(documents) if len(tokens) >= prefix + length]
    found: list[Recital | None] = [None] * len(documents)
    for begin in range(0, len(able), _ROWS):
        batch = able[begin : begin + _ROWS]
        prompts = np.stack([documents[i][:prefix] for i in batch])
        rows = continuations(model, prompts, [sequence_ids[i] for i in batch], length=length)
        for i, row in zip(batch, rows, strict=True):
            truth = [int(token) for token in documents[i][prefix : prefix + length]]
            found[i] = Recital(
                truth=tuple(truth),
                recited=tuple(row),
                verbatim=verbatim_tokens(truth, row),
                rouge_l=rouge_l_recall(truth, row),
            )
    return found
