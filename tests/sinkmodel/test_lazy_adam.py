"""BlockAdam: AdamW on touched blocks, and each block for itself to the last bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import CheckpointError
from sinkmodel.lazy_adam import BlockAdam
from sinkmodel.sink_mlp import SinkBanks

torch.set_num_threads(1)
SHAPE = (2, 3, 2, 5)


def make_banks(sizes: list[int], seed: int = 0) -> SinkBanks:
    banks = SinkBanks(sizes, layers=SHAPE[0], block_size=SHAPE[2], hidden=SHAPE[3])
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for bank in banks.banks:
            bank.copy_(torch.randn(bank.shape, generator=generator))
    return banks


def give_gradient(bank: torch.nn.Parameter, gradients: dict[int, torch.Tensor]) -> None:
    rows = torch.tensor(list(gradients), dtype=torch.int64)
    values = torch.stack(list(gradients.values()))
    bank.grad = torch.sparse_coo_tensor(
        rows[None], values, bank.shape, check_invariants=True, is_coalesced=False
    )


def test_a_block_touched_every_step_is_adamw() -> None:
    banks = make_banks([4])
    bank = banks.banks[0]
    dense = torch.nn.Parameter(bank.detach()[2].clone())
    optimizer = BlockAdam(banks, lr=0.02, weight_decay=0.1, clip_norm=None)
    reference = torch.optim.AdamW([dense], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(30):
        dense.grad = torch.randn(SHAPE, generator=generator)
        give_gradient(bank, {2: dense.grad.clone()})
        optimizer.step(rate=0.5)
        reference.step()
        torch.testing.assert_close(bank[2], dense, rtol=1e-5, atol=1e-6)
    assert bank.grad is None


def test_untouched_blocks_do_not_move_and_have_no_state() -> None:
    banks = make_banks([1000, 3])
    before = [bank.detach().clone() for bank in banks.banks]
    optimizer = BlockAdam(banks, lr=0.1, weight_decay=0.5)
    give_gradient(banks.banks[0], {7: torch.ones(SHAPE), 900: torch.ones(SHAPE)})
    optimizer.step()
    moved = (banks.banks[0] != before[0]).flatten(1).any(1).nonzero()[:, 0].tolist()
    assert moved == [7, 900]
    assert torch.equal(banks.banks[1], before[1])
    states = optimizer.bank_states()
    assert states[0]["blocks"].tolist() == [7, 900]
    assert states[0]["exp_avg"].shape == (2, *SHAPE)
    assert states[1]["exp_avg"].shape == (0, *SHAPE)


@given(st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=1, max_size=8))
@settings(max_examples=25, deadline=None)
def test_other_blocks_change_no_bit(companions: list[list[bool]]) -> None:
    """Block 3 alone in a small bank, and the same amid any others in a large one."""
    alone, crowd = make_banks([4]), make_banks([4, 12], seed=2)
    with torch.no_grad():
        crowd.banks[1][9] = alone.banks[0][3]
    generator = torch.Generator().manual_seed(3)
    first, second = BlockAdam(alone, lr=0.03), BlockAdam(crowd, lr=0.03)
    for step, present in enumerate(companions):
        gradient = torch.randn(SHAPE, generator=generator) * 10 ** (step % 4 - 2)
        give_gradient(alone.banks[0], {3: gradient})
        others = {
            row: torch.randn(SHAPE, generator=generator)
            for row in range(12)
            if present[row] and row != 9
        }
        give_gradient(crowd.banks[1], {**others, 9: gradient})
        first.step(rate=0.7)
        second.step(rate=0.7)
        # A step of others only moves nothing of it.
        if others:
            give_gradient(crowd.banks[1], others)
            second.step()
    assert torch.equal(alone.banks[0][3], crowd.banks[1][9])
    a, b = first.bank_states()[0], second.bank_states()[1]
    row = b["blocks"].tolist().index(4 + 9)
    assert torch.equal(a["exp_avg"][0], b["exp_avg"][row])
    assert torch.equal(a["exp_avg_sq"][0], b["exp_avg_sq"][row])
    assert a["steps"][0] == b["steps"][row] == len(companions)


def test_large_blocks_change_no_bit_either() -> None:
    """Above the sizes where torch cuts work into chunks and vectors by position."""
    shape = (3, 3, 7, 1013)
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(5, *shape, generator=generator)
    results = []
    for rows in ([0], [0, 1, 2, 3, 4], [4, 2, 0]):
        banks = SinkBanks([5], layers=shape[0], block_size=shape[2], hidden=shape[3])
        optimizer = BlockAdam(banks, lr=0.03)
        for step in range(3):
            give_gradient(banks.banks[0], {row: gradients[row] * (step + 1) for row in rows})
            optimizer.step()
        results.append(banks.banks[0][0].detach())
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_clipping_is_by_block() -> None:
    banks, scaled = make_banks([2]), make_banks([2])
    small = torch.full(SHAPE, 0.01)
    give_gradient(banks.banks[0], {0: small, 1: torch.full(SHAPE, 1e4)})
    give_gradient(scaled.banks[0], {0: small, 1: torch.full(SHAPE, 1.0 / 60**0.5)})
    clipping, plain = BlockAdam(banks, lr=0.1), BlockAdam(scaled, lr=0.1, clip_norm=None)
    clipping.step()
    plain.step()
    for name in ("exp_avg", "exp_avg_sq"):
        a, b = clipping.bank_states()[0][name], plain.bank_states()[0][name]
        assert torch.equal(a[0], b[0])
        torch.testing.assert_close(a[1], b[1])


def test_a_zero_gradient_is_no_nan() -> None:
    banks = make_banks([2])
    before = banks.banks[0].detach().clone()
    optimizer = BlockAdam(banks, lr=0.1)
    give_gradient(banks.banks[0], {1: torch.zeros(SHAPE)})
    optimizer.step()
    assert torch.equal(banks.banks[0], before)


def test_duplicate_rows_add_up() -> None:
    twice, once = make_banks([3]), make_banks([3])
    gradient = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    twice.banks[0].grad = torch.sparse_coo_tensor(
        torch.tensor([[1, 1]]), gradient, twice.banks[0].shape, check_invariants=True
    )
    give_gradient(once.banks[0], {1: gradient[0] + gradient[1]})
    for banks in (twice, once):
        BlockAdam(banks, lr=0.1).step()
    assert torch.equal(twice.banks[0], once.banks[0])


def test_state_round_trip_continues_to_the_same_bits() -> None:
    generator = torch.Generator().manual_seed(5)
    steps = [
        {row: torch.randn(SHAPE, generator=generator) for row in rows}
        for rows in ([5, 1], [1], [0, 5], [2, 1], [5])
    ]
    whole = make_banks([2, 6])
    optimizer = BlockAdam(whole, lr=0.05)
    for number, gradients in enumerate(steps):
        if number == 3:
            saved = optimizer.bank_states()
            resumed = make_banks([2, 6])
            resumed.load_state_dict(whole.state_dict())
            second = BlockAdam(resumed, lr=0.05)
            second.load_bank_states(saved)
        give_gradient(whole.banks[1], gradients)
        optimizer.step()
        if number >= 3:
            give_gradient(resumed.banks[1], gradients)
            second.step()
    assert torch.equal(whole.banks[1], resumed.banks[1])
    for a, b in zip(optimizer.bank_states(), second.bank_states(), strict=True):
        assert list(a) == ["blocks", "steps", "exp_avg", "exp_avg_sq"]
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert optimizer.bank_states()[1]["blocks"].tolist() == [2, 3, 4, 7]


def test_foreign_state_is_refused() -> None:
    optimizer = BlockAdam(make_banks([2, 2]), lr=0.1)
    give_gradient(optimizer.sinks.banks[1], {1: torch.ones(SHAPE)})
    optimizer.step()
    states = optimizer.bank_states()
    with pytest.raises(CheckpointError, match="expected 2 banks, found 1"):
        optimizer.load_bank_states(states[:1])
    with pytest.raises(CheckpointError, match="ascending blocks of a bank of 2"):
        optimizer.load_bank_states(states[::-1])


def test_dense_gradients_are_refused() -> None:
    banks = make_banks([2])
    banks.banks[0].grad = torch.ones_like(banks.banks[0])
    with pytest.raises(TypeError, match="row-sparse"):
        BlockAdam(banks, lr=0.1).step()
