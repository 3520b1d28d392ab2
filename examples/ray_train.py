"""Train on two workers of a Ray cluster. Not run by this project's tests.

    pip install 'ray[train]'
    python examples/ray_train.py manifest run

Ray Train makes the default process group in every worker, and `sinkmodel.train` takes it. Both
paths have to lie on a file system that all workers see.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer


def work(paths: dict[str, str]) -> None:
    """What each worker does."""
    from train_ranks import train_here

    train_here(Path(paths["manifest"]), Path(paths["out"]), "demo", ["save_every=200"])


if __name__ == "__main__":
    manifest, out = (str(Path(argument).resolve()) for argument in sys.argv[1:])
    TorchTrainer(
        work,
        train_loop_config={"manifest": manifest, "out": out},
        scaling_config=ScalingConfig(num_workers=2, use_gpu=False),
    ).fit()
