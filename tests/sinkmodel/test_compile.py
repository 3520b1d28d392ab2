"""`torch.compile`: one graph over all layers, and the numbers of the model that is not compiled."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tiny_models import packed_rows, tiny_model

from sinkmodel.modeling_sink import SinkForCausalLM
from sinkmodel.sink_mlp import route

ROWS = [[(1, 9), (2, 11)], [(3, 7), (5, 6), (7, 5)]]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_layers_with_sinks_are_one_graph() -> None:
    """`fullgraph` makes any break an error."""
    model = tiny_model().train()
    input_ids, sequence_ids, position_ids = packed_rows(ROWS, length=24)
    routing = route(sequence_ids, model.sink_map, blocks_per_bank=model.sinks.blocks_per_bank)
    assert routing is not None
    compiled = torch.compile(model.model, fullgraph=True, backend="eager")
    states = [
        decoder(
            input_ids=input_ids,
            position_ids=position_ids,
            sinks=model.sinks.gather(routing),
            routing=routing,
        ).last_hidden_state
        for decoder in (model.model, compiled)
    ]
    assert torch.equal(*states)


def gradients(model: SinkForCausalLM, forward: object) -> tuple[torch.Tensor, ...]:
    """Loss and gradients of one packed batch."""
    input_ids, sequence_ids, position_ids = packed_rows(ROWS, length=24)
    model.zero_grad(set_to_none=True)
    output = forward(  # type: ignore[operator]
        input_ids, sequence_ids=sequence_ids, position_ids=position_ids, labels=input_ids
    )
    output.loss.backward()
    bank = model.sinks.banks[0].grad
    assert bank is not None
    assert bank.is_sparse
    return output.loss, bank.coalesce().values(), model.model.embed_tokens.weight.grad.clone()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_model_learns_the_same() -> None:
    """The whole model by the default compiler, which makes machine code: loss and gradients."""
    model = tiny_model().train()
    plain = gradients(model, model)
    fast = gradients(model, torch.compile(model))
    for first, second in zip(plain, fast, strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4)
