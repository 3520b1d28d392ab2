"""Gathered sinks equal the masked definition, and know nothing of banks and neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import BLOCK_SIZE, mixed_map, tiny_map
from torch.nn.functional import silu

from manifests.errors import CheckpointError
from sinkmodel.allocation import SinkMap
from sinkmodel.initial import initial_blocks
from sinkmodel.sink_mlp import (
    SinkBanks,
    gathered_sinks,
    reference_sink_mlp,
    route,
)

LAYERS, HIDDEN = 2, 12
torch.set_num_threads(1)


def make_banks(
    sink_map: SinkMap, bank_blocks: int, dtype: torch.dtype, *, spare: int = 0
) -> SinkBanks:
    total = sink_map.num_blocks + spare
    sizes = [min(bank_blocks, total - at) for at in range(0, total, bank_blocks)]
    banks = SinkBanks(sizes, layers=LAYERS, block_size=BLOCK_SIZE, hidden=HIDDEN)
    banks.initialise(sink_map, seed=5)
    with torch.no_grad():
        for bank in banks.banks:
            bank[:, :, 2] = bank[:, :, 1].flip(-1)
    return banks.to(dtype)


def forward(
    banks: SinkBanks, sink_map: SinkMap, ids_BT: torch.Tensor, x: torch.Tensor, shared: torch.Tensor
) -> torch.Tensor:
    """All layers, one on top of the other."""
    routing = route(ids_BT, sink_map, blocks_per_bank=banks.blocks_per_bank)
    if routing is None:
        return shared
    for weights in banks.gather(routing):
        shared = gathered_sinks(x, shared, weights, routing, silu)
        x = shared.tanh()
    return shared


def reference(
    banks: SinkBanks, sink_map: SinkMap, ids_BT: torch.Tensor, x: torch.Tensor, shared: torch.Tensor
) -> torch.Tensor:
    for layer in range(LAYERS):
        shared = reference_sink_mlp(
            x, shared, ids_BT, list(banks.banks), sink_map, layer=layer, activation=silu
        )
        x = shared.tanh()
    return shared


@st.composite
def segments(draw: st.DrawFn) -> torch.Tensor:
    """Rows of segments of any sequences, any lengths, 0 among them."""
    rows, length = draw(st.integers(1, 3)), draw(st.integers(1, 24))
    ids = np.zeros((rows, length), dtype=np.int64)
    for row in range(rows):
        at = 0
        while at < length:
            size = draw(st.integers(1, length - at))
            ids[row, at : at + size] = draw(st.integers(0, 8))
            at += size
    return torch.from_numpy(ids)


@given(
    segments(),
    st.integers(1, 30),
    st.sampled_from([(torch.float32, 1e-6, 1e-5), (torch.float64, 1e-13, 1e-12)]),
    st.integers(0, 2**31),
)
@settings(max_examples=80, deadline=None)
def test_gathered_equals_masked(
    ids_BT: torch.Tensor,
    bank_blocks: int,
    precision: tuple[torch.dtype, float, float],
    seed: int,
) -> None:
    dtype, forward_bound, gradient_bound = precision
    sink_map = mixed_map()
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*ids_BT.shape, HIDDEN, generator=generator, dtype=dtype)
    shared = torch.randn(*ids_BT.shape, HIDDEN, generator=generator, dtype=dtype)
    weight = torch.randn(*ids_BT.shape, HIDDEN, generator=generator, dtype=dtype)
    results = []
    for function in (forward, reference):
        banks = make_banks(sink_map, bank_blocks, dtype)
        inputs = x.clone().requires_grad_(), shared.clone().requires_grad_()
        y = function(banks, sink_map, ids_BT, *inputs)
        (y * weight).mean().backward()
        gradients = [
            torch.zeros_like(bank) if bank.grad is None else bank.grad.to_dense()
            for bank in banks.banks
        ]
        results.append(
            (y, [torch.zeros_like(x) if i.grad is None else i.grad for i in inputs], gradients)
        )
    (fast, fast_inputs, fast_banks), (slow, slow_inputs, slow_banks) = results
    torch.testing.assert_close(fast, slow, rtol=forward_bound, atol=forward_bound)
    for a, b in zip(fast_inputs + fast_banks, slow_inputs + slow_banks, strict=True):
        torch.testing.assert_close(a, b, rtol=gradient_bound, atol=gradient_bound)


def test_bfloat16_agrees_to_its_precision() -> None:
    sink_map = mixed_map()
    ids_BT = torch.tensor([[1, 1, 5, 5, 0, 7, 7, 2]])
    x, shared = torch.randn(2, 1, 8, HIDDEN, generator=torch.Generator().manual_seed(1))
    exact = reference(make_banks(sink_map, 4, torch.float32), sink_map, ids_BT, x, shared)
    banks = make_banks(sink_map, 4, torch.bfloat16)
    half = forward(banks, sink_map, ids_BT, x.bfloat16(), shared.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, rtol=0.05, atol=0.05)
    half.float().sum().backward()
    assert all(bank.grad.dtype == torch.bfloat16 for bank in banks.banks if bank.grad is not None)


@given(segments())
@settings(max_examples=40, deadline=None)
def test_tokens_without_sequence_have_exactly_the_shared_output(ids_BT: torch.Tensor) -> None:
    sink_map = mixed_map()
    x = torch.randn(*ids_BT.shape, HIDDEN)
    shared = torch.randn(*ids_BT.shape, HIDDEN)
    shared[..., 0] = -0.0
    x[ids_BT == 1] = float("nan")  # and another sequence's fault stays with it
    y = forward(make_banks(sink_map, 5, torch.float32), sink_map, ids_BT, x, shared)
    off = (ids_BT == 0) | (ids_BT == 8)
    assert torch.equal(y[off].view(torch.int32), shared[off].view(torch.int32))
    assert not y[ids_BT > 1].isnan().any()


def test_only_active_rows_have_gradients() -> None:
    sink_map = mixed_map()
    banks = make_banks(sink_map, 3, torch.float32)
    ids_BT = torch.tensor([[3, 3, 5, 0]])
    x = torch.randn(1, 4, HIDDEN)
    forward(banks, sink_map, ids_BT, x, torch.zeros_like(x)).sum().backward()
    touched = {
        3 * index + row
        for index, bank in enumerate(banks.banks)
        if bank.grad is not None
        for row in bank.grad.coalesce().indices()[0].tolist()
    }
    assert all(bank.grad is None or bank.grad.is_sparse for bank in banks.banks)
    assert touched == {*sink_map.blocks_of(3), *sink_map.blocks_of(5)}


@pytest.mark.parametrize("sequence_id", [3, 5, 7])
def test_a_sequence_alone_has_the_same_bits_wherever_its_blocks_lie(sequence_id: int) -> None:
    """The law that `strict` rests on: position and size of the banks change no bit."""
    ids_BT = torch.full((2, 19), sequence_id)
    ids_BT[1, 11:] = 0
    torch.manual_seed(0)
    x, shared = torch.randn(2, 2, 19, HIDDEN)
    policy = dict(zip(mixed_map().sequence_ids.tolist(), mixed_map().policies, strict=True))
    alone = tiny_map({sequence_id: policy[sequence_id]})
    crowded = tiny_map(policy | dict.fromkeys(range(20, 60), "private"))
    before = tiny_map({1: "private", sequence_id: policy[sequence_id]})
    results = []
    for sink_map, bank_blocks, spare in [
        (alone, 100, 0), (crowded, 1000, 0), (crowded, 1, 0), (before, 2, 0), (before, 500, 5000),
    ]:  # fmt: skip
        banks = make_banks(sink_map, bank_blocks, torch.float32, spare=spare)
        y = forward(banks, sink_map, ids_BT, x, shared)
        y.square().mean().backward()
        gradients = torch.stack(
            [
                banks.banks[block // banks.blocks_per_bank].grad.to_dense()[
                    block % banks.blocks_per_bank
                ]
                for block in sink_map.blocks_of(sequence_id)
            ]
        )
        results.append((y, gradients))
    for y, gradients in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(gradients, results[0][1])


def test_no_routing_without_sinks() -> None:
    ids_BT = torch.tensor([[0, 8, 8]])
    assert route(ids_BT, mixed_map(), blocks_per_bank=4) is None


def test_unknown_ids_are_refused() -> None:
    with pytest.raises(CheckpointError, match="sq-0000000000000063"):
        route(torch.tensor([[1, 99]]), mixed_map(), blocks_per_bank=4)
    with pytest.raises(CheckpointError, match="forgotten"):
        route(torch.tensor([[1, 2]]), mixed_map().forget([2]), blocks_per_bank=4)


def values(owners: list[int], numbers: list[int], seed: int = 1) -> torch.Tensor:
    return initial_blocks(
        np.array(owners), np.array(numbers), seed=seed, layers=2, block_size=3, hidden=5
    )


def test_initial_values_depend_on_seed_owner_and_number_alone() -> None:
    together = values([4, 9, 4, 2**62], [0, 0, 1, 7])
    for k, (owner, number) in enumerate([(4, 0), (9, 0), (4, 1), (2**62, 7)]):
        assert torch.equal(values([owner], [number])[0], together[k])
    assert len({tuple(block.flatten().tolist()) for block in together}) == 4
    assert not torch.equal(values([4], [0], seed=2)[0], together[0])


def test_initial_values_are_pinned_and_scaled() -> None:
    block = values([4], [0])
    # Computed with Python's own integers from the formula in `initial_blocks`.
    assert block[0, 0, 0, 0].tolist() == [
        -0.1690622717142105,
        -0.625360906124115,
        -0.4731892943382263,
        -0.4886995851993561,
        -0.5360022187232971,
    ]
    assert block[:, :, 2].abs().max() == 0
    many = initial_blocks(
        np.arange(1, 300), np.zeros(299, dtype=np.int64), seed=0, layers=1, block_size=4, hidden=48
    )[:, :, :2]
    assert many.abs().max() <= np.sqrt(3 / 48)
    assert abs(many.mean()) < 1e-3
    assert many.std() == pytest.approx(np.sqrt(1 / 48), rel=0.01)


def test_initialise_gives_each_owner_its_values() -> None:
    sink_map = mixed_map().forget([2])
    banks = SinkBanks([3, 3, 3, 3, 3, 3, 3, 3], layers=1, block_size=BLOCK_SIZE, hidden=8)
    banks.initialise(sink_map, seed=9)
    blocks = torch.cat(list(banks.banks))
    shape = {"layers": 1, "block_size": BLOCK_SIZE, "hidden": 8}
    for number, block in enumerate(sink_map.blocks_of(3)):
        expected = initial_blocks(np.array([3]), np.array([number]), seed=9, **shape)
        assert torch.equal(blocks[block], expected[0])
    for block in sink_map.blocks_of(5):
        expected = initial_blocks(np.array([0]), np.array([block]), seed=9, **shape)
        assert torch.equal(blocks[block], expected[0])
    assert blocks[mixed_map().blocks_of(2)].abs().max() == 0
    assert blocks[sink_map.num_blocks :].abs().max() == 0
