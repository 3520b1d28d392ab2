"""Which learning rate brings most back of texts that were only hidden?

    python benchmarks/relearning_rates.py RUN MANIFEST --where SQL

Gradient ascent on a copy of the run hides the chosen texts, sinks and all: it no longer predicts
them, but most of it is still there. Then the attacks of `govern evaluate --full` try to bring them
back at several learning rates. A rate is good if much comes back and is not overwritten again.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch

from govern.evaluate.evaluating import choose
from govern.evaluate.probing import make_probes
from manifests import open_manifest
from sinkmodel.checkpoint import load_run
from sinkmodel.evaluate.attacks import relearn
from sinkmodel.evaluate.probes import Probe
from sinkmodel.evaluate.scores import chunks, score
from sinkmodel.modeling_sink import SinkForCausalLM

RATES = (1e-3, 3e-4, 1e-4, 3e-5)
STEPS = (0, 10, 50, 100, 250)
HIDDEN, ASCENT_RATE, ROWS = 0.3, 3e-4, 4


def recall(model: SinkForCausalLM, probes: list[Probe], length: int, since: float = 0.0) -> float:
    """Tokens predicted right in what lies behind the share `since` of each document."""
    scored = score(model, probes, context_length=length)
    return fmean(float(s.hits[int(len(s.hits) * since) :].mean()) for s in scored)


def hidden(model: SinkForCausalLM, probes: list[Probe], length: int) -> SinkForCausalLM:
    """A copy after gradient ascent on the shared weights, stopped below `HIDDEN` of the tokens."""
    found = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(found.shared_parameters(), lr=ASCENT_RATE, weight_decay=0.0)
    rows = [(p.sequence_id, chunk) for p in probes for chunk in chunks(p.tokens, length)]
    generator = np.random.default_rng(0)
    while recall(found, probes, length) >= HIDDEN:
        found.train()
        found.zero_grad(set_to_none=True)
        for place in generator.choice(len(rows), min(ROWS, len(rows)), replace=False):
            sequence_id, tokens = rows[int(place)]
            input_ids = torch.from_numpy(tokens.astype(np.int64))[None]
            ids = torch.full_like(input_ids, sequence_id)
            loss = found(input_ids=input_ids, sequence_ids=ids, labels=input_ids).loss
            (-loss / ROWS).backward()
        optimizer.step()
    found.zero_grad(set_to_none=True)
    return found.eval()


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--where", required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run, manifest = load_run(arguments.run), open_manifest(arguments.manifest)
    probes = make_probes(run, manifest, choose(manifest, run, arguments.where)[0])
    length, asked = run.context_length, list(probes.forgotten)
    beginnings = [replace(p, tokens=p.tokens[: len(p.tokens) // 2]) for p in asked]
    others = [*probes.kept, *probes.held_out]
    print(f"before: {recall(run.model, asked, length):.3f} of the tokens right\n")
    model = hidden(run.model, asked, length)
    print(f"| taught | rate | {' | '.join(map(str, STEPS))} |")
    print("| --- " * (2 + len(STEPS)) + "|")
    for name, taught, since in (("beginnings", beginnings, 0.5), ("others", others, 0.0)):
        for rate in RATES:
            learning = relearn(model, taught, context_length=length, seed=0, steps=STEPS, rate=rate)
            found = [f"{recall(learner, asked, length, since):.3f}" for _, learner in learning]
            print(f"| {name} | {rate:g} | {' | '.join(found)} |", flush=True)


if __name__ == "__main__":
    main()
