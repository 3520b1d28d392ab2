"""How long a build takes on a cluster: a simulation of its stages from measured rates.

    python benchmarks/cluster_simulation.py --documents 1e9 --workers 256

Rates are processor seconds a document that one worker needs, measured on this code (docs/scale.md
says how). A stage is a list of tasks; each free worker takes the next one; the next stage begins
when the last task has ended. Added to the measured time of a task are

    noise       a factor with a log-normal law, sigma 0.2
    stragglers  one task in 50 takes 3 times as long: a neighbour, a slow disk
    skew        buckets with a share of all keys, as a family or a template makes them
    deaths      a worker dies once in `--mean-life` hours; its task begins again elsewhere

What the driver does alone is not divided by anything.
"""

from __future__ import annotations

import argparse
import heapq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[np.float64]
BANDS = 32


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Microseconds of one core for each document of 1.6 KB; see docs/scale.md."""

    reading: float = 28.0
    keys: float = 2.5
    pairs: float = 8.5
    links: float = 22.0
    settle: float = 1.0
    cluster: float = 4.0
    write: float = 14.0


def durations(total: float, tasks: int, random: np.random.Generator, skew: float = 0.0) -> Seconds:
    """Seconds of each task of a stage with so many core seconds in all."""
    shares = np.full(tasks, (1 - skew) / tasks)
    shares[0] += skew
    slow = np.where(random.random(tasks) < 1 / 50, 3.0, 1.0)
    return np.asarray(total * shares * slow * random.lognormal(-0.02, 0.2, tasks))


def makespan(tasks: Seconds, workers: int, mean_life: float, random: np.random.Generator) -> float:
    """Seconds until the last task has ended, when each free worker takes the next one."""
    free = [0.0] * min(workers, len(tasks))
    waiting = list(tasks[::-1])
    while waiting:
        task = waiting.pop()
        begin = heapq.heappop(free)
        dies = random.exponential(mean_life) if mean_life else np.inf
        if dies < task:
            # The worker is replaced, and the task is the next one to be taken.
            waiting.append(task)
            heapq.heappush(free, begin + dies)
        else:
            heapq.heappush(free, begin + task)
    return max(free)


def simulate(documents: float, workers: int, mean_life: float, seed: int) -> dict[str, float]:
    """Seconds of each stage."""
    random = np.random.default_rng(seed)
    rates = Rates()
    second = documents / 1e6
    reading = int(min(4096, max(1, documents * 1640 // (256 << 20))))
    # Buckets of up to 2^24 texts of a band, as the build cuts them.
    buckets = BANDS << max(0, int((documents - 1) // (1 << 24)).bit_length())
    pairs = documents * 64.0
    ranges = int(-(-pairs // max(1 << 17, min(1 << 24, pairs // 64))))

    def stage(rate: float, tasks: int, skew: float = 0.0) -> float:
        return makespan(
            durations(rate * second, tasks, random, skew), workers, 3600 * mean_life, random
        )

    return {
        "reading": stage(rates.reading, reading),
        "settling (driver)": rates.settle * second,
        "keys": stage(rates.keys, reading),
        "pairs": stage(rates.pairs, buckets, skew=0.1 / BANDS),
        "links": stage(rates.links, ranges),
        "clusters (driver)": rates.cluster * second,
        "writing (driver)": rates.write * second,
    }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=float, nargs="+", default=[1e8, 1e9, 1e10])
    parser.add_argument("--workers", type=int, nargs="+", default=[16, 256, 2048])
    parser.add_argument("--mean-life", type=float, default=1000, help="hours; 0 for no deaths")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    for documents in options.documents:
        for workers in options.workers:
            runs = [
                simulate(documents, workers, options.mean_life, seed)
                for seed in range(options.repeats)
            ]
            hours = {name: float(np.median([run[name] for run in runs])) / 3600 for name in runs[0]}
            spread = [sum(run.values()) / 3600 for run in runs]
            alone = sum(value for name, value in hours.items() if "driver" in name)
            print(
                f"{documents:.0e} documents, {workers} workers: {np.median(spread):.2f} h "
                f"({min(spread):.2f} to {max(spread):.2f}), of these the driver alone {alone:.2f} h"
            )
            print("   ", ", ".join(f"{name} {value:.2f}" for name, value in hours.items()))


if __name__ == "__main__":
    main()
