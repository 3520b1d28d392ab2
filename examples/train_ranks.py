"""Train on as many ranks as a launcher starts: the Python API, without the command line.

    torchrun --nproc-per-node 2 examples/train_ranks.py manifest run
    accelerate launch --num-processes 2 examples/train_ranks.py manifest run
    python examples/train_ranks.py manifest run                         # one process

Every rank runs this file with the same arguments. `train` joins the group that the launcher
describes (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), or takes the default process
group of torch.distributed where there is one already. `run` has to lie on a file system that all
ranks see.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from govern.ids.texts import read_texts
from manifests import open_manifest
from sinkmodel import train
from sinkmodel.recipes import configure
from sinkmodel.saves import saves_in


def train_here(manifest: Path, out: Path, recipe: str, overrides: list[str]) -> Path:
    """What each rank does; goes on with an interrupted run by itself."""
    opened = open_manifest(manifest)
    config = configure(recipe, overrides=overrides)
    begun = bool(saves_in(out.parent / f".{out.name}.training"))
    return train(opened, read_texts(opened), out, config, recipe=recipe, resume=begun)


def main() -> None:
    """Parse the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    arguments = parser.parse_args()
    train_here(arguments.manifest, arguments.out, arguments.recipe, arguments.overrides)


if __name__ == "__main__":
    main()
