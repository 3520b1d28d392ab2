"""Tables, verdicts and plots of the TOFU study, from its rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import plots
from tables import spread
from tofu_data import FORGOTTEN, QUESTIONS

from govern.evaluate.charts import HEIGHT, WIDTH, across, up
from sinkmodel.evaluate.baselines import METHODS
from sinkmodel.evaluate.unlearning_scores import forget_quality

Row = Mapping[str, Any]
SAME = 0.05  # a forget quality from which on two models are not told apart (TOFU, section 2.2.3)
COLUMNS = (
    *("arm", "seeds", "forget quality", "utility", "kept utility", "recall of kept"),
    *("membership AUC", "in the oracle's interval", "relearned, last step", "above the band from"),
    "cost, CPU s",
)


def oracle_of(arm: str, name: str) -> str:
    """The arm that never saw what `arm` forgets."""
    if arm.startswith("strict") or arm == "never":
        return "never"
    return {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}[name]


def select(rows: Iterable[Row], **wanted: object) -> list[Row]:
    return [r for r in rows if all(r.get(key) == value for key, value in wanted.items())]


def oracles_of(rows: Iterable[Row], arm: str, name: str) -> list[Row]:
    """The rows of `oracle_of`: a run that never had the sinks is of one set."""
    found = select(rows, arm=oracle_of(arm, name))
    return select(found, set=name) if oracle_of(arm, name) == "never" else found


def truth_of(row: Row, name: str) -> list[float]:
    """The truth ratios of a set: the last ones of forget10."""
    return list(row["truth"][-FORGOTTEN[name] * QUESTIONS :])


def quality(row: Row, oracle: Row, name: str) -> float:
    """Forget quality on one set, against the oracle of the same seed."""
    return forget_quality(truth_of(row, name), truth_of(oracle, name))


def inside_interval(row: Row, oracle: Row, name: str, score: str = "loss") -> bool:
    """Whether the membership AUC lies in the 95 % interval of the oracle's."""
    _, low, high = oracle["membership"][name][score]
    return bool(low <= row["membership"][name][score][0] <= high)


Band = Mapping[int, tuple[float, float]]


def band_of(oracles: Sequence[Row], name: str) -> dict[int, tuple[float, float]]:
    """Step -> least and greatest recall over the oracles."""
    steps: dict[int, list[float]] = {}
    for row in oracles:
        for point in row["relearning"][name]:
            steps.setdefault(point["step"], []).append(point["recall"])
    return {step: (min(values), max(values)) for step, values in steps.items()}


def above_from(row: Row, band: Band, name: str) -> int | None:
    """The first step at which more comes back than from any oracle; None if that never happens."""
    points = sorted(row["relearning"][name], key=lambda point: point["step"])
    over = (p["step"] for p in points if p["recall"] > band[p["step"]][1])
    return next(over, None)


def best_rates(rows: Sequence[Row], name: str) -> dict[str, float]:
    """Method -> the learning rate with the best (forget quality, utility) at its first seed."""
    found = {}
    for method in METHODS:
        some = select(rows, arm=method, set=name)
        if some:
            first = min(row["seed"] for row in some)
            tried = [row for row in some if row["seed"] == first]
            found[method] = max(tried, key=_by_stop)["rate"]
    return found


def _by_stop(row: Row) -> tuple[float, float]:
    stop = next(stop for stop in row["stops"] if stop["step"] == row["step"])
    return stop["quality"], stop["kept"]


def baselines(rows: Sequence[Row], name: str) -> list[tuple[Row, float]]:
    """Every post-hoc unlearning of a set, of all rates and seeds, with its forget quality."""
    of_seed = {row["seed"]: row for row in oracles_of(rows, "", name)}
    return [
        (row, quality(row, of_seed[row["seed"]], name))
        for row in select(rows, set=name)
        if row["arm"] in METHODS and row["seed"] in of_seed
    ]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a baseline has to reach to be compared with by cost; forget quality `SAME` always.

    Args:
        words: The rest of it, after "a forget quality of 0.05".
        keeping: Least share of the standard model's kept utility.
        everywhere: Membership AUC in the oracle's interval too, and relearning never above the
            oracles' band.
    """

    words: str = ""
    keeping: float = 0.0
    everywhere: bool = False

    def reached(self, rows: Sequence[Row], row: Row, value: float, name: str) -> bool:
        """Whether a baseline of forget quality `value` reaches it."""
        before = select(rows, arm="standard", seed=row["standard"])[0]["kept_utility"]
        found = value >= SAME and row["kept_utility"] >= self.keeping * before
        if found and self.everywhere:
            oracles = oracles_of(rows, row["arm"], name)
            (own,) = select(oracles, seed=row["seed"])
            found = inside_interval(row, own, name) and (
                above_from(row, band_of(oracles, name), name) is None
            )
        return found


WANTED = (
    Wanted(),
    Wanted(words=", keeping half of the kept utility or more", keeping=0.5),
    Wanted(
        words=", the oracle's membership interval and its relearning band, keeping half",
        keeping=0.5,
        everywhere=True,
    ),
)


def cheapest_alike(
    rows: Sequence[Row], name: str, wanted: Wanted = WANTED[0]
) -> tuple[Row, float] | None:
    """The cheapest baseline that reaches what is wanted, and its forget quality."""
    found = [
        (row, value)
        for row, value in baselines(rows, name)
        if wanted.reached(rows, row, value, name)
    ]
    return min(found, key=lambda pair: pair[0]["seconds"], default=None)


def untouched(rows: Sequence[Row], name: str) -> list[float]:
    """Forget quality of the standard model of each seed, from which nothing was forgotten."""
    of_seed = {row["seed"]: row for row in oracles_of(rows, "", name)}
    return [
        quality(row, of_seed[row["seed"]], name)
        for row in select(rows, arm="standard")
        if row["seed"] in of_seed
    ]


def arms_of(rows: Sequence[Row], name: str) -> dict[str, list[Row]]:
    """The arms of a set, each with its seeds; of each method the rate that `best_rates` gives."""
    methods = {
        method: select(rows, arm=method, set=name, rate=rate)
        for method, rate in best_rates(rows, name).items()
    }
    return _in_order(rows, name, methods)


def arms_of_every_rate(rows: Sequence[Row], name: str) -> dict[str, list[Row]]:
    """The arms of a set's table: each method at each rate that was tried."""
    some = select(rows, set=name)
    methods = {
        f"{method}, {rate:g}": select(some, arm=method, rate=rate)
        for method in METHODS
        for rate in sorted({row["rate"] for row in select(some, arm=method)})
    }
    return _in_order(rows, name, methods)


def _in_order(
    rows: Sequence[Row], name: str, methods: Mapping[str, list[Row]]
) -> dict[str, list[Row]]:
    found = {
        "standard, before": select(rows, arm="standard"),
        f"oracle ({oracle_of('', name)})": oracles_of(rows, "", name),
        **methods,
        "strict, before": select(rows, arm="strict before", set=name),
        "oracle of strict (never trained)": select(rows, arm="never", set=name),
        "strict, forgotten": select(rows, arm="strict", set=name),
    }
    return {arm: some for arm, some in found.items() if some}


def line(rows: Sequence[Row], some: Sequence[Row], name: str) -> list[str]:
    """One arm's cells of a set's table, after its name."""
    oracles = oracles_of(rows, some[0]["arm"], name)
    of_seed = {row["seed"]: row for row in oracles}
    pairs = [(row, of_seed[row["seed"]]) for row in some if row["seed"] in of_seed]
    cells = [
        str(len(some)),
        spread([quality(row, other, name) for row, other in pairs], "{:.2g}"),
        *(spread([row[key] for row in some]) for key in ("utility", "kept_utility", "kept_recall")),
        spread([row["membership"][name]["loss"][0] for row in some]),
        f"{sum(inside_interval(row, other, name) for row, other in pairs)} of {len(pairs)}",
    ]
    learned = [row for row in some if name in row.get("relearning", {})]
    band = band_of([row for row in oracles if name in row.get("relearning", {})], name)
    cells.append(spread([max(row["relearning"][name], key=_step)["recall"] for row in learned]))
    firsts = [above_from(row, band, name) for row in learned] if band else []
    cells.append(", ".join("never" if step is None else str(step) for step in firsts) or "–")
    return [*cells, spread([row["seconds"] for row in some if "seconds" in row], "{:.1f}")]


def _step(point: Mapping[str, float]) -> float:
    return point["step"]


def cost_lines(rows: Sequence[Row], name: str) -> list[str]:
    """How many times cheaper sinks are than the cheapest baselines of the same forget quality."""
    costs = select(rows, arm="cost", set=name)
    oracles = [row["seconds"] for row in oracles_of(rows, "", name)]
    found = []
    if costs:
        spent, zeroing = ([row[key] for row in costs] for key in ("seconds", "zeroing"))
        found.append(f"- a signed forget in place: {spread(spent, '{:.2f}')} CPU s")
        found.append(f"- zeroing in a loaded model: {spread(zeroing, '{:.3f}')} CPU s")
    if oracles:
        found.append(
            f"- retraining: {spread(oracles, '{:.0f}')} CPU s{_times(fmean(oracles), costs)}"
        )
    passing = [value for value in untouched(rows, name) if value >= SAME]
    if passing:
        found.append(
            f"- the standard model, with nothing forgotten, has a forget quality of {SAME} or more "
            f"in {len(passing)} of {len(untouched(rows, name))} seeds: there it tells nothing apart"
        )
    for wanted in WANTED:
        best = cheapest_alike(rows, name, wanted)
        what = f"a forget quality of {SAME}{wanted.words}"
        if best is None:
            found.append(f"- no baseline reaches {what}")
            continue
        row, value = best
        alike = [
            wanted.reached(rows, other, v, name)
            for other, v in baselines(rows, name)
            if _same_way(other, row)
        ]
        found.append(
            f"- the cheapest baseline that reaches {what}: {row['arm']} "
            f"at {row['rate']:g}, seed {row['seed']}, {row['step']} steps, {row['seconds']:.1f} "
            f"CPU s ({value:.2g}; in {sum(alike)} of {len(alike)} seeds; kept utility "
            f"{row['kept_utility']:.3f}){_times(row['seconds'], costs)}"
        )
    return found


def _same_way(a: Row, b: Row) -> bool:
    return (a["arm"], a["rate"]) == (b["arm"], b["rate"])


def _times(seconds: float, costs: Sequence[Row]) -> str:
    """A cost as multiples of that of sinks, where that was measured."""
    if not costs:
        return ""
    spent, zeroing = (fmean(row[key] for row in costs) for key in ("seconds", "zeroing"))
    return f": {seconds / spent:.0f} times the signed forget, {seconds / zeroing:.0f} the zeroing"


def to_the_bit(rows: Sequence[Row], name: str) -> list[str]:
    """For each seed whether kept answers and forgotten ones are as they have to be."""
    found = []
    for row in select(rows, arm="strict", set=name):
        before, never = (
            select(rows, arm=arm, set=name, seed=row["seed"])[0]
            for arm in ("strict before", "never")
        )
        kept = row["kept_sha256"] == before["kept_sha256"] == never["kept_sha256"]
        # Of the set alone: other answers share batches with what has sinks in one run only, which
        # rounds them differently.
        same = truth_of(row, name) == truth_of(never, name)
        relearned = row["relearning"] == never["relearning"]
        found.append(
            f"- seed {row['seed']}: losses of kept answers, real authors and world facts "
            f"{'unchanged' if kept else 'CHANGED'} to the bit; forgotten answers "
            f"{'equal' if same else 'NOT equal'} to never trained, relearning curves "
            f"{'equal' if relearned else 'NOT equal'}"
        )
    return found


def print_study(rows: Sequence[Row], folder: Path | None) -> None:
    """Markdown tables of every set that has rows; plots beside them."""
    for name in reversed(FORGOTTEN):
        if not oracles_of(rows, "", name):
            continue
        print(f"\n### {name}\n\n| {' | '.join(COLUMNS)} |\n{'| --- ' * len(COLUMNS)}|")
        for arm, some in arms_of_every_rate(rows, name).items():
            print(f"| {' | '.join([arm, *line(rows, some, name)])} |")
        print("\n".join(["", *cost_lines(rows, name), "", *to_the_bit(rows, name)]))
    if folder is not None:
        for name in FORGOTTEN:
            if oracles_of(rows, "", name):
                path = folder / f"tofu-relearning-{name}.svg"
                path.write_text(relearning_plot(rows, name), encoding="utf-8")
        (folder / "tofu-trade-off.svg").write_text(trade_off_plot(rows), encoding="utf-8")


# --- plots ---------------------------------------------------------------------------------------

_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
_LEAST = -8  # the exponent where the axis of p-values begins


def relearning_plot(rows: Sequence[Row], name: str) -> str:
    """Mean recall of the untaught half after some steps; the oracles' band behind."""
    drawn = {
        arm: some
        for arm, whole in arms_of(rows, name).items()
        if not arm.startswith("oracle")
        and (some := [row for row in whole if name in row.get("relearning", {})])
    }
    oracles = [r for r in oracles_of(rows, "", name) if name in r["relearning"]]
    band = band_of(oracles, name)
    steps = sorted(band)
    place = {step: across(i / (len(steps) - 1)) for i, step in enumerate(steps)}
    there = [f"{place[s]:.1f},{up(band[s][1]):.1f}" for s in steps]
    back = [f"{place[s]:.1f},{up(band[s][0]):.1f}" for s in reversed(steps)]
    parts = [
        f'<polygon class="band" points="{" ".join([*there, *back])}"/>',
        f'<polyline stroke="#57606a" stroke-dasharray="2 4" points="{" ".join(there)}"/>',
    ]
    for number, (arm, some) in enumerate(drawn.items()):
        colour = plots.COLOURS[number % len(plots.COLOURS)]
        mean = {
            s: fmean(p["recall"] for r in some for p in r["relearning"][name] if p["step"] == s)
            for s in steps
        }
        points = " ".join(f"{place[s]:.1f},{up(mean[s]):.1f}" for s in steps)
        parts.append(f'<polyline stroke="{colour}" points="{points}"/>')
        parts.append(_label(number, arm, colour))
    ticks = [(place[step], str(step)) for step in steps]
    return _svg(
        f"Relearning {name}: recall of the untaught half after steps of training; "
        "dotted: the most of any oracle",
        parts,
        ticks,
        [f"{share:.0%}" for share in _SHARES],
    )


def trade_off_plot(rows: Sequence[Row]) -> str:
    """Forget quality (y) by utility kept (x): each dot a seed of an arm, rate and set."""
    parts = []
    arms = [*METHODS, "strict"]
    for number, arm in enumerate(arms):
        colour = plots.COLOURS[(number + 1) % len(plots.COLOURS)]
        for name in FORGOTTEN:
            for row in select(rows, arm=arm, set=name):
                oracle = select(oracles_of(rows, arm, name), seed=row["seed"])
                if oracle:
                    x = across(row["kept_utility"])
                    y = up(logarithmic(quality(row, oracle[0], name)))
                    parts.append(plots.dot(x, y, colour))
        parts.append(_label(number, arm, colour))
    ticks = [(across(t), f"{t:.2f}") for t in _SHARES]
    title = "Forget quality (KS p, up) by utility on kept authors (right)"
    return _svg(
        title, parts, ticks, [f"1e{_LEAST * (1 - s):.0f}" if s < 1 else "1" for s in _SHARES]
    )


def logarithmic(p: float) -> float:
    """Where a p-value lies between 10 ** _LEAST (0, and all below) and 1."""
    return max(0.0, 1 - math.log10(p) / _LEAST) if p > 0 else 0.0


def _label(number: int, words: str, colour: str) -> str:
    x, y = 80 + 215 * (number % 3), HEIGHT - 30 + 17 * (number // 3)
    return plots.dot(x, y - 4, colour) + plots.text(x + 9, y, words)


def _svg(
    title: str, parts: Sequence[str], ticks: Sequence[tuple[float, str]], labels: Sequence[str]
) -> str:
    grid = []
    for share, words in zip(_SHARES, labels, strict=True):
        y = up(share)
        grid.append(f'<line class="grid" x1="64" x2="{WIDTH - 24}" y1="{y}" y2="{y}"/>')
        grid.append(plots.text(56, y + 4, words, "end"))
    grid += [plots.text(x, 256, words, "middle") for x, words in ticks]
    return plots.document(title, WIDTH, HEIGHT + 20, [*grid, *parts])
