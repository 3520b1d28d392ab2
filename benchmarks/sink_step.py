"""What a training step of the sink model costs, as ratios within one run.

    python benchmarks/sink_step.py [--device cuda] [--threads 1] [--repeats 5] [--pools-only]

Three questions, each measured in alternation. On the CPU the seconds are processor time of this
process, which a busy machine disturbs less than the clock on the wall:

1. One MLP, forward and backward, at the shape of NULLs (arXiv 2606.13873): hidden 960, 500 shared
   neurons, a pool of 7,692 of which each source has 100, eight segments of 512 tokens.
   Masked dense (the definition) : gathered : a plain Llama MLP of the same active width.
2. The whole model's step, same shape, two layers.
3. A step with its optimizer for pools of 1,000, 100,000 and 1,000,000 blocks, in memory and in
   files mapped into memory: time, and bytes of optimizer state.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

from sinkmodel import SinkConfig, SinkForCausalLM, decoder
from sinkmodel.allocation import SinkMap, allocate
from sinkmodel.lazy_adam import BlockAdam
from sinkmodel.sink_mlp import SinkBanks, gathered_sinks, reference_sink_mlp, route

HIDDEN, SHARED, POOL, ACTIVE, SEGMENTS, LENGTH = 960, 500, 7692, 100, 8, 512
BLOCK = 4
SILU = torch.nn.functional.silu


def pooled_map(ids: int, pool_blocks: int, draws: int) -> SinkMap:
    table = pa.table(
        {"sequence_id": range(1, ids + 1), "policy": ["pooled"] * ids, "n_tokens": [512] * ids}
    )
    return allocate(
        table,
        block_size=BLOCK,
        neurons_per_kilotoken=0,
        pool_blocks=pool_blocks,
        pool_draws=draws,
        seed=0,
    )


def measure(sides: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each side, in alternation after one warm-up."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time

    def seconds(side: Callable[[], None]) -> float:
        synchronize()
        begin = clock()
        side()
        synchronize()
        return clock() - begin

    for side in sides.values():
        side()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            times[name].append(seconds(side))
    return times


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def report(title: str, times: dict[str, list[float]], base: str) -> None:
    print(f"\n{title}\n")
    print(f"| formulation | best, s | median, s | median / {base} |\n| --- | ---: | ---: | ---: |")
    median = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        ratio = median[name] / median[base]
        print(f"| {name} | {min(values):.4f} | {median[name]:.4f} | {ratio:.2f} |")


def segment_ids(device: torch.device) -> torch.Tensor:
    return torch.arange(1, SEGMENTS + 1, device=device)[:, None].expand(-1, LENGTH).contiguous()


def one_mlp(device: torch.device, repeats: int) -> None:
    sink_map = pooled_map(SEGMENTS, POOL // BLOCK, ACTIVE // BLOCK)
    banks = SinkBanks([POOL // BLOCK], layers=1, block_size=BLOCK, hidden=HIDDEN).to(device)
    with torch.no_grad():
        banks.banks[0].normal_(std=0.02)
    fields = {"hidden_size": HIDDEN, "num_attention_heads": 15}
    mlp = LlamaMLP(LlamaConfig(intermediate_size=SHARED, **fields)).to(device)
    plain = LlamaMLP(LlamaConfig(intermediate_size=SHARED + ACTIVE, **fields)).to(device)
    ids = segment_ids(device)
    x = torch.randn(SEGMENTS, LENGTH, HIDDEN, device=device, requires_grad=True)
    losses: dict[str, float] = {}

    def finish(name: str, y: torch.Tensor) -> None:
        loss = y.square().mean()
        loss.backward()
        losses[name] = loss.item()
        for parameter in (x, *banks.parameters(), *mlp.parameters(), *plain.parameters()):
            parameter.grad = None

    def dense() -> None:
        y = reference_sink_mlp(
            x, mlp(x), ids, list(banks.banks), sink_map, layer=0, activation=SILU
        )
        finish("masked dense", y)

    def gathered() -> None:
        routing = route(ids, sink_map, blocks_per_bank=banks.blocks_per_bank)
        assert routing is not None
        (weights,) = banks.gather(routing)
        finish("gathered", gathered_sinks(x, mlp(x), weights, routing, SILU))

    sides = {
        "masked dense": dense,
        "gathered": gathered,
        "plain Llama": lambda: finish("plain Llama", plain(x)),
    }
    times = measure(sides, repeats)
    report("### One MLP, forward and backward", times, "plain Llama")
    dense_time, fast_time = (statistics.median(times[n]) for n in ("masked dense", "gathered"))
    difference = abs(losses["masked dense"] - losses["gathered"])
    print(f"\nmasked dense / gathered: {dense_time / fast_time:.1f}")
    print(f"difference of the two losses: {difference:.1e}")


def whole_model(device: torch.device, repeats: int) -> None:
    sink_map = pooled_map(SEGMENTS, POOL // BLOCK, ACTIVE // BLOCK)
    fields = {
        "vocab_size": 4096,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 15,
        "num_key_value_heads": 5,
    }
    config = SinkConfig.sized(
        num_blocks=sink_map.num_blocks, block_size=BLOCK, intermediate_size=SHARED, **fields
    )
    model = SinkForCausalLM(config).to(device).train()
    model.attach_sink_map(sink_map)
    model.sinks.initialise(sink_map, seed=0)
    plain = LlamaForCausalLM(LlamaConfig(intermediate_size=SHARED + ACTIVE, **fields)).to(device)
    plain.train()
    ids = segment_ids(device)
    tokens = torch.randint(0, 4096, ids.shape, device=device)
    model_optimizer = torch.optim.AdamW(model.shared_parameters())
    block_adam = BlockAdam(model.sinks, lr=1e-3)
    dense_adam = torch.optim.AdamW(model.parameters())
    plain_optimizer = torch.optim.AdamW(plain.parameters())

    def gathered() -> None:
        model(tokens, sequence_ids=ids, labels=tokens).loss.backward()
        model_optimizer.step()
        block_adam.step()
        model.zero_grad(set_to_none=True)

    def dense_layer(x: torch.Tensor, shared: torch.Tensor, *_: object) -> torch.Tensor:
        layer = next(layers)
        return reference_sink_mlp(
            x, shared, ids, list(model.sinks.banks), sink_map, layer=layer, activation=SILU
        )

    def dense() -> None:
        nonlocal layers
        layers = iter(range(2))
        with patch.object(decoder, "gathered_sinks", dense_layer):
            model(tokens, sequence_ids=ids, labels=tokens).loss.backward()
        dense_adam.step()
        model.zero_grad(set_to_none=True)

    def llama() -> None:
        plain(tokens, labels=tokens).loss.backward()
        plain_optimizer.step()
        plain.zero_grad(set_to_none=True)

    layers = iter(())
    sides = {"masked dense": dense, "gathered": gathered, "plain Llama": llama}
    times = measure(sides, repeats)
    report("### Whole model (two layers), one step with its optimizers", times, "plain Llama")
    dense_time, fast_time = (statistics.median(times[n]) for n in ("masked dense", "gathered"))
    print(f"\nmasked dense / gathered: {dense_time / fast_time:.1f}")


def pool_sizes(device: torch.device, repeats: int, disk: Path | None) -> None:
    sides: dict[str, Callable[[], None]] = {}
    optimizers: dict[str, BlockAdam] = {}
    for blocks in (1_000, 100_000, 1_000_000):
        place = None if disk is None else disk / str(blocks)
        model, optimizer, step = pool_step(blocks, device, place)
        name = f"{blocks:,} blocks"
        sides[name], optimizers[name] = step, optimizer
        shape = list(model.sinks.banks[0].shape[1:])
    times = measure(sides, 8 * repeats)
    kept = "memory" if disk is None else "mapped files"
    report(f"### Steps with banks of blocks {shape} float32 in {kept}", times, "1,000 blocks")
    print("\n| pool | touched blocks | optimizer state, MB | banks, MB | files on disk, MB |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, optimizer in optimizers.items():
        states = optimizer.bank_states()
        touched = sum(len(state["blocks"]) for state in states)
        state_bytes = sum(t.nbytes for state in states for t in state.values())
        bank_bytes = sum(bank.nbytes for bank in optimizer.sinks.banks)
        place = None if disk is None else disk / name.split()[0].replace(",", "")
        files = () if place is None else place.iterdir()
        used = sum(512 * path.stat().st_blocks for path in files)
        print(
            f"| {name} | {touched} | {state_bytes / 1e6:.2f} | {bank_bytes / 1e6:.0f} | "
            f"{used / 1e6:.0f} |"
        )


def pool_step(
    blocks: int, device: torch.device, disk: Path | None
) -> tuple[SinkForCausalLM, BlockAdam, Callable[[], None]]:
    """A model with so many blocks, and one training step over eight of its sequences."""
    ids = blocks // 4
    table = pa.table(
        {
            "sequence_id": np.arange(1, ids + 1),
            "policy": pa.array(["private"] * ids),
            "n_tokens": np.full(ids, 128),
        }
    )
    sink_map = allocate(
        table,
        block_size=1,
        neurons_per_kilotoken=4 / 0.128,
        pool_blocks=0,
        pool_draws=0,
        seed=0,
    )
    assert sink_map.num_blocks == blocks
    config = SinkConfig.sized(
        num_blocks=blocks,
        block_size=1,
        vocab_size=512,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    torch.manual_seed(0)
    model = SinkForCausalLM(config).train()
    if disk is not None:
        model.sinks.keep_on_disk(disk)
    model = model.to(device)
    model.attach_sink_map(sink_map)
    model.sinks.initialise(sink_map, seed=0)
    shared = torch.optim.AdamW(model.shared_parameters())
    optimizer = BlockAdam(model.sinks, lr=1e-3, directory=disk)
    chosen = torch.linspace(1, ids, 8).long()
    sequence_ids = chosen[:, None].expand(-1, 128).contiguous().to(device)
    tokens = torch.randint(0, 512, sequence_ids.shape, device=device)

    def step() -> None:
        model(tokens, sequence_ids=sequence_ids, labels=tokens).loss.backward()
        shared.step()
        optimizer.step()
        shared.zero_grad(set_to_none=True)

    return model, optimizer, step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pools-only", action="store_true", help="the third question alone")
    parser.add_argument("--work", type=Path, help="where mapped files lie; default: the system's")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor()
    print(
        f"{name or platform.machine()}, {arguments.threads} CPU threads, Python "
        f"{platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, float32"
    )
    if not arguments.pools_only:
        one_mlp(device, arguments.repeats)
        whole_model(device, arguments.repeats)
    pool_sizes(device, arguments.repeats, None)
    if device.type == "cpu":
        with tempfile.TemporaryDirectory(dir=arguments.work) as work:
            pool_sizes(device, arguments.repeats, Path(work))


if __name__ == "__main__":
    main()
