"""What one micro-batch does on one rank: the model, its two optimizers, three streams.

After an open micro-batch the shared parameters and the sinks step; after a sealed or strict one
only sinks do, because the backward pass never enters the shared parameters (see `sinkmodel.data`).

With several ranks each computes the chunks that it owns (see `sinkmodel.ownership`). The gradient
of the shared parameters is summed over the ranks, after which all of them step alike; sinks step
where they are owned, and ranks do not wait for each other between two open micro-batches.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from manifests.errors import InputError, TrainingError
from sinkmodel.data import MicroBatch, collate, predicted_tokens
from sinkmodel.lazy_adam import BlockAdam
from sinkmodel.ownership import deal, owners, shard_of
from sinkmodel.prepare import Prepared, build_model
from sinkmodel.ranks import Ranks, shared_digest
from sinkmodel.recipes import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What is kept of a micro-batch, or of one rank's part of it; `total` is a sum in nats."""

    micro_batch: int
    stream: str
    time: float
    tokens: int
    total: float


class Trainer:
    """The model with its two optimizers; `step` is what one micro-batch does.

    Args:
        prepared, config: What is trained, and how.
        ranks: This rank among the others.
        scratch: Directory for banks that are kept on disk.

    Attributes:
        failure: Why this rank cannot go on, found where the others could not be told.
    """

    def __init__(
        self, prepared: Prepared, config: TrainConfig, ranks: Ranks, scratch: Path
    ) -> None:
        self.prepared = prepared
        self.config = config
        self.ranks = ranks
        self.accelerator = Accelerator(mixed_precision=config.precision)
        self.shard = shard_of(
            prepared.sink_map, rank=ranks.rank, world=ranks.world, pool_parts=config.pool_parts
        )
        self._owner_of = owners(
            prepared.store.sequence_ids,
            prepared.policies,
            world=ranks.world,
            pool_parts=config.pool_parts,
        )
        disk = self._disk(scratch) if config.banks == "disk" else None
        self.model = build_model(prepared, config, self.shard, disk).to(self.accelerator.device)
        self.model.train()
        shared = self.model.shared_parameters()
        decayed = [p for p in shared if p.ndim > 1]
        plain = [p for p in shared if p.ndim <= 1]
        self.adamw = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=(0.9, 0.95),
        )
        self.block_adam = BlockAdam(
            self.model.sinks, lr=config.learning_rate * config.sink_rate, directory=disk
        )
        self.losses: list[Loss] = []
        self.done = 0
        self.tokens = 0
        self.open_loss = self.sink_loss = math.nan
        self.failure: TrainingError | None = None
        # Constant, so that a sequence's gradient does not depend on how full its batch is.
        self.normaliser = float(config.batch_rows * config.context_length)

    def _disk(self, scratch: Path) -> Path:
        """Where the banks of this rank lie; what an earlier run left there is removed."""
        if self.accelerator.device.type != "cpu":
            raise InputError(
                "training option banks",
                expected="memory, on a GPU",
                found="disk",
                remedy="set banks=memory and take more ranks, or train on the CPU",
            )
        directory = scratch / f"banks-{self.ranks.rank:05d}"
        shutil.rmtree(directory, ignore_errors=True)
        return directory

    def rate(self, time: float) -> float:
        """Share of the peak learning rate at `time`: linear warm-up, cosine down to a tenth."""
        warmup = self.config.warmup
        if time < warmup:
            return max(time / warmup, 1e-3)
        return 0.1 + 0.45 * (1 + math.cos(math.pi * (time - warmup) / (1 - warmup)))

    def step(self, micro: MicroBatch) -> None:
        """Forward, backward and the optimizers' step for one micro-batch.

        Raises:
            TrainingError: The loss of an open micro-batch is not a number. That of another one is
                kept in `failure`, and nothing is stepped from then on.
        """
        if self.failure is None:
            if micro.stream == "open":
                self._open_step(micro)
            else:
                self._sinks_step(micro)
        self.tokens += predicted_tokens(micro)
        self.done += 1

    def _open_step(self, micro: MicroBatch) -> None:
        total, tokens = self.ranks.sums(self._backward(micro) or (0.0, 0))
        self.open_loss = total / max(tokens, 1)
        if not math.isfinite(total):
            raise self._not_finite(self.open_loss)
        shared = self.model.shared_parameters()
        self.ranks.add_gradients(shared)
        torch.nn.utils.clip_grad_norm_(shared, self.config.clip_norm)
        rate = self.rate(micro.time)
        for group in self.adamw.param_groups:
            group["lr"] = self.config.learning_rate * rate
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        self.block_adam.step(rate=rate)
        if self.ranks.first:
            self._keep(micro, int(tokens), total)

    def _sinks_step(self, micro: MicroBatch) -> None:
        own = self._backward(micro)
        if own is None:
            return
        total, tokens = own
        self.sink_loss = total / max(tokens, 1)
        if math.isfinite(total):
            self.block_adam.step(rate=self.rate(micro.time))
            self._keep(micro, tokens, total)
        else:
            self.failure = self._not_finite(self.sink_loss)

    def _backward(self, micro: MicroBatch) -> tuple[float, int] | None:
        """Gradients of this rank's part: its summed loss in nats, and over how many tokens."""
        sinks = list(self.model.sinks.parameters())
        parts = self._parts(micro)
        total, tokens = 0.0, 0
        for part in parts:
            batch = collate(
                self.prepared.store,
                part,
                self.config.context_length,
                self._pad_id,
                trim=not self.ranks.alone,
            )
            batch = batch.to(self.accelerator.device)
            with self.accelerator.autocast():
                loss_sum = self.model.loss_sum(
                    input_ids=batch.input_ids,
                    sequence_ids=batch.sequence_ids,
                    position_ids=batch.position_ids,
                    labels=batch.labels,
                )
            loss = loss_sum / self.normaliser
            if micro.stream == "open":
                self.accelerator.backward(loss)
            else:
                self.accelerator.backward(loss, inputs=sinks)
            total += float(loss_sum.detach())
            tokens += predicted_tokens(part)
        return (total, tokens) if parts else None

    def _parts(self, micro: MicroBatch) -> list[MicroBatch]:
        """What this rank owns of a micro-batch, in as many passes as `accumulation` wants."""
        share = deal(
            micro,
            self._owner_of,
            rank=self.ranks.rank,
            world=self.ranks.world,
            length=self.config.context_length,
        )
        if share is None:
            return []
        rows = math.ceil(len(micro.rows) / self.config.accumulation)
        return [
            MicroBatch(share.stream, share.time, share.rows[begin : begin + rows])
            for begin in range(0, len(share.rows), rows)
        ]

    @property
    def _pad_id(self) -> int:
        pad = self.prepared.tokenizer.pad_token_id
        return int(pad if pad is not None else self.prepared.tokenizer.eos_token_id)

    def _keep(self, micro: MicroBatch, tokens: int, total: float) -> None:
        self.losses.append(
            Loss(
                micro_batch=self.done,
                stream=micro.stream,
                time=micro.time,
                tokens=tokens,
                total=total,
            )
        )

    def _not_finite(self, value: float) -> TrainingError:
        return TrainingError(
            f"loss of micro-batch {self.done}",
            expected="a finite number",
            found=str(value),
            remedy="lower learning_rate or sink_rate, or set precision=no; nothing was saved "
            "after the last good step",
        )

    # --- state, as named tensors -----------------------------------------------------------------

    def shared_weights(self) -> dict[str, torch.Tensor]:
        """Every weight that is not a sink by name, tied ones once."""
        banks = {id(bank) for bank in self.model.sinks.parameters()}
        named = self.model.named_parameters()
        return {name: value.detach() for name, value in named if id(value) not in banks}

    def shared_state(self) -> dict[str, torch.Tensor]:
        """AdamW's state of the shared parameters: `NAME.exp_avg`, `.exp_avg_sq`, `.step`."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return {
            f"{names[id(parameter)]}.{key}": value
            for parameter, state in self.adamw.state.items()
            for key, value in state.items()
        }

    def load_shared(self, weights: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> None:
        """The inverse of `shared_weights` and `shared_state`."""
        for name, parameter in self.model.named_parameters():
            if name not in weights:
                continue
            with torch.no_grad():
                parameter.copy_(weights[name])
            if f"{name}.step" in state:
                keys = ("step", "exp_avg", "exp_avg_sq")
                # Copies: what is read from a file is mapped from it.
                self.adamw.state[parameter] = {
                    key: state[f"{name}.{key}"]
                    .to(parameter.device if key != "step" else "cpu")
                    .clone()
                    for key in keys
                }

    def require_equal_replicas(self) -> None:
        """Refuse to save where the ranks' shared weights have come apart.

        Raises:
            TrainingError: They differ: other hardware or libraries on some rank.
        """
        if not self.ranks.alone:
            self.ranks.require_same("shared weights", shared_digest(self.shared_weights()))
