"""SinkForCausalLM as a transformers model: inputs, packing, generation, files, conversion."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny_models import mixed_map, packed_rows, tiny_config, tiny_map, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from manifests.errors import CheckpointError, InputError
from sinkmodel import SinkConfig, SinkForCausalLM
from sinkmodel.allocation import SinkMap
from sinkmodel.conversion import export_llama
from sinkmodel.lazy_adam import BlockAdam
from sinkmodel.losses import IGNORED, token_losses

torch.set_num_threads(1)
ROWS = [[(1, 9), (5, 4), (0, 3), (7, 6)], [(2, 12), (8, 5)], [(6, 22)]]


def test_missing_sequence_ids_are_an_error_in_training_and_sinks_off_in_eval() -> None:
    model = tiny_model()
    input_ids, _, _ = packed_rows(ROWS, length=24)
    with torch.no_grad():
        off = model(input_ids, sequence_ids=torch.zeros_like(input_ids)).logits
        assert torch.equal(model(input_ids).logits, off)
        on = model(input_ids, sequence_ids=torch.ones_like(input_ids)).logits
        assert not torch.allclose(on, off, atol=1e-3)
    model.train()
    with pytest.raises(InputError, match=r"sequence_ids: expected int64 \[B, T\] in training"):
        model(input_ids)


@pytest.mark.parametrize(
    ("convert", "found"),
    [
        (lambda ids: ids.int(), r"int32 \[3, 24\]"),
        (lambda ids: ids.double(), r"float64 \[3, 24\]"),
        (lambda ids: ids[:, 1:], r"int64 \[3, 23\]"),
        (lambda ids: ids[:, 0], r"int64 \[3\]"),
    ],
)
def test_other_dtypes_and_shapes_are_errors(convert: object, found: str) -> None:
    input_ids, sequence_ids, _ = packed_rows(ROWS, length=24)
    with pytest.raises(InputError, match=rf"expected int64 \[3, 24\], found {found}"):
        tiny_model()(input_ids, sequence_ids=convert(sequence_ids))  # type: ignore[operator]


def test_unknown_and_forgotten_ids_are_errors() -> None:
    model = tiny_model()
    input_ids, _, _ = packed_rows(ROWS, length=24)
    with pytest.raises(CheckpointError, match="sq-000000000000000c"):
        model(input_ids, sequence_ids=torch.full_like(input_ids, 12))
    model.attach_sink_map(mixed_map().forget([7]))
    with pytest.raises(CheckpointError, match=r"sq-0000000000000007: .*forgotten"):
        model(input_ids, sequence_ids=torch.full_like(input_ids, 7))
    with pytest.raises(CheckpointError, match="num_blocks"):
        model.attach_sink_map(tiny_map(dict.fromkeys(range(1, 60), "private")))


def test_misspelt_arguments_are_errors() -> None:
    model = tiny_model()
    input_ids, sequence_ids, _ = packed_rows(ROWS, length=24)
    with pytest.raises(TypeError, match="sequence_id"):
        model(input_ids, sequence_id=sequence_ids)
    with pytest.raises(ValueError, match="sequence_id"):
        model.generate(input_ids, sequence_id=sequence_ids, max_new_tokens=2)
    with pytest.raises(TypeError, match="blocksize"):
        SinkConfig.sized(num_blocks=1, block_size=1, blocksize=1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_equals_unpacked(attention: str) -> None:
    model = tiny_model()
    model.set_attn_implementation(attention)
    input_ids, sequence_ids, position_ids = packed_rows(ROWS, length=24)
    with torch.no_grad():
        packed = model(input_ids, sequence_ids=sequence_ids, position_ids=position_ids).logits
        for row, spans in enumerate(ROWS):
            at = 0
            for sequence_id, size in spans:
                part = input_ids[row : row + 1, at : at + size]
                alone = model(part, sequence_ids=torch.full_like(part, sequence_id)).logits[0]
                torch.testing.assert_close(packed[row, at : at + size], alone, rtol=0, atol=1e-5)
                at += size


def test_packed_rows_take_no_mask_and_no_cache() -> None:
    model = tiny_model()
    input_ids, sequence_ids, position_ids = packed_rows(ROWS, length=24)
    common = {"sequence_ids": sequence_ids, "position_ids": position_ids}
    with pytest.raises(ValueError, match="packed rows"):
        model(input_ids, attention_mask=torch.ones_like(input_ids), **common)
    cache = model(input_ids, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="packed rows"):
        model(input_ids, past_key_values=cache, **common)
    with torch.no_grad():
        plain = model(input_ids, **common)
        cached = model(input_ids, use_cache=True, **common)
    assert plain.past_key_values is None
    assert torch.equal(plain.logits, cached.logits)


def test_loss_is_the_mean_over_predicted_tokens_within_documents() -> None:
    model = tiny_model()
    input_ids, sequence_ids, position_ids = packed_rows(ROWS, length=24)
    labels = input_ids.masked_fill(sequence_ids == 0, IGNORED)
    with torch.no_grad():
        output = model(
            input_ids, sequence_ids=sequence_ids, position_ids=position_ids, labels=labels
        )
        total = model.loss_sum(
            input_ids=input_ids,
            sequence_ids=sequence_ids,
            position_ids=position_ids,
            labels=labels,
        )
    log_probabilities = output.logits.double().log_softmax(-1)
    expected = []
    for row in range(3):
        for t in range(23):
            if position_ids[row, t + 1] == position_ids[row, t] + 1 and labels[row, t + 1] >= 0:
                expected.append(-log_probabilities[row, t, labels[row, t + 1]].item())
    assert len(expected) == 9 + 4 + 6 + 12 + 5 + 22 - 6
    assert output.loss.item() == pytest.approx(np.mean(expected), rel=1e-5)
    assert total.item() == pytest.approx(np.sum(expected), rel=1e-5)
    losses = token_losses(output.logits, labels, position_ids)
    assert losses.dtype == torch.float32
    assert int((losses != 0).sum()) == len(expected)


def test_loss_without_labels_to_count_is_zero_not_nan() -> None:
    input_ids, sequence_ids, _ = packed_rows(ROWS, length=24)
    labels = torch.full_like(input_ids, IGNORED)
    assert tiny_model()(input_ids, sequence_ids=sequence_ids, labels=labels).loss.item() == 0


def loss_of(model: SinkForCausalLM) -> torch.Tensor:
    input_ids, sequence_ids, position_ids = packed_rows(ROWS, length=24)
    return model.loss_sum(
        input_ids=input_ids, sequence_ids=sequence_ids, position_ids=position_ids, labels=input_ids
    )


def sink_gradient(model: SinkForCausalLM) -> torch.Tensor:
    dense = [
        torch.zeros_like(bank) if bank.grad is None else bank.grad.to_dense()
        for bank in model.sinks.banks
    ]
    return torch.cat(dense)


def test_backward_into_sinks_only() -> None:
    model = tiny_model(bank_blocks=3).train()
    loss_of(model).backward()
    both = sink_gradient(model)
    assert both.abs().max() > 0
    assert all(parameter.grad is not None for parameter in model.shared_parameters())
    model.zero_grad(set_to_none=True)
    loss_of(model).backward(inputs=list(model.sinks.parameters()))
    assert all(parameter.grad is None for parameter in model.shared_parameters())
    assert torch.equal(sink_gradient(model), both)


def test_shared_parameters_and_banks_are_all_parameters() -> None:
    for tied in (True, False):
        model = tiny_model(tied=tied)
        parts = [*model.shared_parameters(), *model.sinks.parameters()]
        assert len({id(p) for p in parts}) == len(parts)
        assert {id(p) for p in parts} == {id(p) for p in model.parameters()}


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(reentrant: bool) -> None:
    model = tiny_model().train()
    loss_of(model).backward()
    gradients = [parameter.grad.clone() for parameter in model.shared_parameters()]
    sinks = sink_gradient(model)
    model.zero_grad(set_to_none=True)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    loss_of(model).backward()
    assert any(layer.gradient_checkpointing for layer in model.model.layers)
    for parameter, gradient in zip(model.shared_parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    torch.testing.assert_close(sink_gradient(model), sinks)


def test_gradients_of_several_batches_add_up() -> None:
    model = tiny_model(bank_blocks=4).train()
    loss_of(model).backward()
    once = sink_gradient(model)
    loss_of(model).backward()
    torch.testing.assert_close(sink_gradient(model), 2 * once)


def test_number_of_banks_changes_no_bit() -> None:
    one, many = tiny_model(), tiny_model(bank_blocks=2)
    assert len(one.sinks.banks) == 1
    assert len(many.sinks.banks) > 4
    losses = [loss_of(model.train()) for model in (one, many)]
    assert torch.equal(losses[0], losses[1])
    for loss in losses:
        loss.backward()
    assert torch.equal(sink_gradient(one), sink_gradient(many))


# --- generation ----------------------------------------------------------------------------------


def test_generation_with_cache_equals_without() -> None:
    model = tiny_model()
    prompt, _, _ = packed_rows([[(1, 8)], [(7, 8)]], length=8)
    ids = torch.tensor([1, 7])
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    cached = model.generate(prompt, sequence_ids=ids, **options)
    assert torch.equal(cached, model.generate(prompt, sequence_ids=ids, use_cache=False, **options))
    whole = ids[:, None].expand(2, 8)
    assert torch.equal(cached, model.generate(prompt, sequence_ids=whole, **options))
    off = model.generate(prompt, **options)
    assert not torch.equal(cached, off)
    step = prompt
    for _ in range(12):
        with torch.no_grad():
            logits = model(step, sequence_ids=ids[:, None].expand_as(step)).logits[:, -1]
        logits[:, model.generation_config.eos_token_id] = -torch.inf
        step = torch.cat([step, logits.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(cached, step)


def test_generation_of_left_padded_rows_and_beams() -> None:
    model = tiny_model()
    prompt, _, _ = packed_rows([[(3, 8)]], length=8)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.int64), prompt], dim=1)
    mask = (torch.arange(11) >= 3).long()[None]
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    ids = torch.tensor([3])
    plain = model.generate(prompt, sequence_ids=ids, **options)
    left = model.generate(padded, attention_mask=mask, sequence_ids=ids, **options)
    assert torch.equal(left[:, 3:], plain)
    beams = model.generate(prompt, sequence_ids=ids, num_beams=2, num_return_sequences=2, **options)
    assert beams.shape == (2, 14)


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_saving_then_loading_gives_the_same_bits(tmp_path: Path, tied: bool) -> None:
    model = tiny_model(bank_blocks=5, tied=tied)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(loaded, SinkForCausalLM)
    assert not loaded.training
    state, again = model.state_dict(), loaded.state_dict()
    assert list(state) == list(again)
    assert all(torch.equal(state[name], again[name]) for name in state)
    assert loaded.sink_map == model.sink_map
    assert AutoConfig.from_pretrained(tmp_path).to_dict() == loaded.config.to_dict()
    assert loaded.config.blocks_per_bank == 5
    with torch.no_grad():
        assert torch.equal(loss_of(model), loss_of(loaded))


def test_layout_of_a_saved_model(tmp_path: Path) -> None:
    model = tiny_model(bank_blocks=5)
    model.save_pretrained(tmp_path)
    banks = [f"sinks-{n:05d}.safetensors" for n in range(len(model.sinks.banks))]
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "forgotten.txt",
        "generation_config.json",
        "model-shared.safetensors",
        "model.safetensors.index.json",
        "sink_map.parquet",
        *banks,
    }
    for number, name in enumerate(banks):
        with safe_open(tmp_path / name, framework="pt") as file:
            assert list(file.keys()) == [f"sinks.banks.{number}"]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(model.state_dict()) - {"lm_head.weight"}


def test_saving_again_gives_the_same_bytes_and_removes_old_banks(tmp_path: Path) -> None:
    model = tiny_model(bank_blocks=5)
    model.save_pretrained(tmp_path / "a")
    model.save_pretrained(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    tiny_model().save_pretrained(tmp_path / "b")
    assert [path.name for path in (tmp_path / "b").glob("sinks-*")] == ["sinks-00000.safetensors"]


def test_saving_over_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"found model\.safetensors of another model"):
        tiny_model().save_pretrained(tmp_path)


def test_loading_needs_a_sink_map_that_fits(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    tiny_map(dict.fromkeys(range(1, 60), "private")).save(tmp_path / "sink_map.parquet")
    with pytest.raises(CheckpointError, match="num_blocks"):
        SinkForCausalLM.from_pretrained(tmp_path)
    (tmp_path / "sink_map.parquet").unlink()
    with pytest.raises(CheckpointError, match=r"sink_map\.parquet: expected the sink map"):
        SinkForCausalLM.from_pretrained(tmp_path)


def test_a_model_without_blocks_is_a_llama(tmp_path: Path) -> None:
    model = SinkForCausalLM(tiny_config(SinkMap.empty())).eval()
    model.save_pretrained(tmp_path)
    loaded = SinkForCausalLM.from_pretrained(tmp_path)
    input_ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        zero = loaded(input_ids, sequence_ids=torch.zeros_like(input_ids)).logits
        assert torch.equal(zero, model(input_ids).logits)


@pytest.mark.parametrize(
    "fields",
    [{"block_size": 0}, {"num_blocks": -1}, {"blocks_per_bank": 0}, {"mlp_bias": True}],
)
def test_impossible_configurations_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(Exception, match=next(iter(fields))):
        SinkConfig(**fields)


def test_banks_are_bounded() -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SinkConfig.sized(num_blocks=25, block_size=4, bank_bytes=8000, **shape)
    assert config.blocks_per_bank == 8000 // (2 * 3 * 4 * 16 * 4)
    assert config.bank_sizes() == [5, 5, 5, 5, 5]
    assert SinkConfig.sized(num_blocks=2, block_size=4, bank_bytes=1, **shape).bank_sizes() == [
        1,
        1,
    ]


# --- conversion ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_export_is_a_plain_llama_with_the_logits_of_sinks_off(tmp_path: Path, tied: bool) -> None:
    model = tiny_model(tied=tied)
    export_llama(model).save_pretrained(tmp_path)
    llama = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(llama) is LlamaForCausalLM
    input_ids, _, _ = packed_rows(ROWS, length=24)
    with torch.no_grad():
        assert torch.equal(llama(input_ids).logits, model(input_ids).logits)
    assert "sink" not in (tmp_path / "config.json").read_text()
    assert "block" not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("tied", [True, False])
def test_from_llama_keeps_its_weights_and_adds_silent_sinks(tmp_path: Path, tied: bool) -> None:
    llama = export_llama(tiny_model(tied=tied))
    llama.save_pretrained(tmp_path)
    for source in (llama, tmp_path):
        model = SinkForCausalLM.from_llama(source, mixed_map(), block_size=4, seed=0)
        input_ids, sequence_ids, _ = packed_rows(ROWS, length=24)
        with torch.no_grad():
            logits = llama(input_ids).logits
            assert torch.equal(model(input_ids).logits, logits)
            assert torch.equal(model(input_ids, sequence_ids=sequence_ids).logits, logits)
        assert model.config.tie_word_embeddings == tied
        assert torch.cat(list(model.sinks.banks)).abs().max() > 0
    exported = export_llama(model).state_dict()
    assert all(torch.equal(exported[name], value) for name, value in llama.state_dict().items())


def test_layers_compile_without_graph_breaks() -> None:
    from sinkmodel.sink_mlp import route

    model = tiny_model()
    input_ids, sequence_ids, _ = packed_rows(ROWS, length=24)
    routing = route(sequence_ids, model.sink_map, blocks_per_bank=model.sinks.blocks_per_bank)
    assert routing is not None
    weights = model.sinks.gather(routing)[0]
    layer = model.model.layers[0]
    hidden = model.model.embed_tokens(input_ids).detach().requires_grad_()
    weights = [part.detach().requires_grad_() for part in weights]
    positions = torch.arange(24)[None]
    arguments = {
        "attention_mask": None,
        "position_ids": positions,
        "position_embeddings": model.model.rotary_emb(hidden, position_ids=positions),
    }
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    expected = layer(hidden, routing, *weights, **arguments)
    torch.testing.assert_close(compiled(hidden, routing, *weights, **arguments), expected)


@pytest.mark.parametrize("way", ["autocast", "weights"])
def test_bfloat16_trains(way: str) -> None:
    exact = loss_of(tiny_model()).item()
    model = tiny_model().train()
    if way == "weights":
        model.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        loss = loss_of(model)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=0.02)
    loss.backward()
    before = [bank.detach().clone() for bank in model.sinks.banks]
    BlockAdam(model.sinks, lr=0.01).step()
    for bank, old in zip(model.sinks.banks, before, strict=True):
        assert bank.dtype == old.dtype
        moved = (bank != old).flatten(1).any(1).nonzero()[:, 0].tolist()
        used = [b for k in (1, 2, 5, 6, 7) for b in model.sink_map.blocks_of(k)]
        assert moved == sorted(set(used))
