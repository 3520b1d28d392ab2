"""Tables and the plot of the isolation study, from its rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import plots
from tables import spread

Row = dict[str, Any]
COLUMNS = (
    *("arm", "seeds", "validation", "beside standard's", "own sinks on: loss", "memorized"),
    *("after: loss", "memorized", "gap closed, oracle", "gap closed, validation"),
    *("kept IDs: loss before", "change"),
)


def results(work: Path) -> list[Row]:
    """The rows of every arm that was measured; measuring again replaces."""
    text = (work / "results.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return list({(study(row), row["seed"], label(row)): row for row in rows}.values())


def study(row: Row) -> str:
    """What arms must share to be compared: their size, and the rows of a step where changed."""
    rows = changes(row).get("batch_rows")
    return row["size"] + (f", {rows} rows a step" if rows else "")


def changes(row: Row) -> dict[str, str]:
    """Setting -> its value; of one that was given twice the last."""
    return dict(change.split("=", 1) for change in row["set"])


def label(row: Row) -> str:
    """The arm, with what was changed in it that the arms of its study do not share."""
    shared = {"vocab_size", "precision", "batch_rows"}
    if row["arm"] in ("standard", "deduplicated"):
        shared.add("neurons_per_kilotoken")  # of no sinks
    own = {name: value for name, value in changes(row).items() if name not in shared}
    if own.get("neurons_per_kilotoken") == "256":
        del own["neurons_per_kilotoken"]
    opened = [f"{row['open']} open"] if row["arm"].startswith("strict-open") else []
    return ", ".join([row["arm"], *opened, *(f"{name}={own[name]}" for name in sorted(own))])


@dataclass(frozen=True)
class Baseline:
    """What a seed's other arms are compared with.

    Attributes:
        memorized: Standard training's loss on the stories that will be forgotten.
        validation: Its loss on unseen stories.
        oracle: The oracle's loss on the stories that will be forgotten; None where not measured.
    """

    memorized: float
    validation: float
    oracle: float | None

    def gaps(self, row: Row) -> tuple[float | None, float]:
        """The gap closed: towards the oracle on the same stories, and towards unseen stories."""
        left = (row["validation"] - row["after"]) / (self.validation - self.memorized)
        if self.oracle is None:
            return None, 1 - left
        return (row["after"] - self.memorized) / (self.oracle - self.memorized), 1 - left


Baselines = Mapping[tuple[str, int], Baseline]


def baselines(rows: Sequence[Row]) -> dict[tuple[str, int], Baseline]:
    """Of each study and seed that has `standard`."""
    found = {(row["arm"], study(row), row["seed"]): row for row in rows}
    return {
        (name, seed): Baseline(
            memorized=row["own_loss"],
            validation=row["validation"],
            oracle=oracle["after"] if (oracle := found.get(("oracle", name, seed))) else None,
        )
        for (arm, name, seed), row in found.items()
        if arm == "standard"
    }


def by_label(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Label -> the rows of its seeds."""
    arms: dict[str, list[Row]] = {}
    for row in rows:
        arms.setdefault(label(row), []).append(row)
    return arms


def print_tables(rows: Sequence[Row]) -> None:
    """For each study, every arm with its mean over seeds, and its spread where it has several."""
    base = baselines(rows)
    for name in sorted({study(row) for row in rows}):
        some = [row for row in rows if study(row) == name]
        print(f"\n{name}: {some[0]['shared_parameters']:,} shared parameters\n")
        print(f"| {' | '.join(COLUMNS)} |\n{'| --- ' * len(COLUMNS)}|")
        for arm, of_seeds in by_label(some).items():
            print(f"| {' | '.join([arm, *cells(of_seeds, base)])} |")


def cells(rows: Sequence[Row], base: Baselines) -> list[str]:
    """One arm's line of the table, after its name."""
    pairs = [(row, base[key]) for row in rows if (key := (study(row), row["seed"])) in base]
    gaps = [baseline.gaps(row) for row, baseline in pairs]
    change = max(abs(row["kept_after"] - row["kept_before"]) for row in rows)
    return [
        str(len(rows)),
        spread([row["validation"] for row in rows]),
        spread([row["validation"] - baseline.validation for row, baseline in pairs], "{:+.3f}"),
        *(spread([row[name] for row in rows]) for name in ("own_loss", "own_memorization")),
        *(spread([row[name] for row in rows]) for name in ("after", "after_memorization")),
        spread([to_oracle for to_oracle, _ in gaps if to_oracle is not None]),
        spread([to_unseen for _, to_unseen in gaps]),
        spread([row["kept_before"] for row in rows]),
        f"{change:.3f}" if change else "none",
    ]


# --- plot ----------------------------------------------------------------------------------------

_WIDTH, _HEIGHT, _LEFT, _RIGHT = 760.0, 640.0, 64.0, 736.0
_GAP = (0.75, 1.0)
_SIZES = {"0.5m": 3.5, "2m": 6.0, "8m": 9.0}
_KINDS = ("strict", "private", "published", "oracle")


@dataclass(frozen=True)
class Panel:
    """One diagram over the gap closed: what is drawn upwards, from where to where."""

    title: str
    low: float
    high: float
    ticks: tuple[float, ...]
    top: float
    base: float

    def up(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        share = (inside - self.low) / (self.high - self.low)
        return round(self.base - share * (self.base - self.top), 1)


RECALL = Panel("Exact memorization, own sinks on", 0.94, 1.0, (0.94, 0.96, 0.98, 1.0), 60, 290)
VALIDATION = Panel(
    "Validation loss beside standard training's", -0.2, 0.1, (-0.2, -0.1, 0.0, 0.1), 340, 570
)


def across(gap: float) -> float:
    low, high = _GAP
    return round(_LEFT + (max(gap, low) - low) / (high - low) * (_RIGHT - _LEFT), 1)


def frontier(rows: Sequence[Row]) -> str:
    """Recall and validation by gap closed (towards unseen stories): means of the seeds.

    Of arms that can forget, and of the oracle, which says how much can be closed; of each size the
    study with the most runs. What lies outside is drawn at the edge.
    """
    base = baselines(rows)
    runs = Counter(study(row) for row in rows)
    parts = [part for panel in (RECALL, VALIDATION) for part in _grid(panel)]
    for size in _SIZES:
        of_size = [name for name in runs if name.split(",")[0] == size]
        main = max(of_size, key=runs.__getitem__, default=size)
        for arm, of_seeds in by_label([row for row in rows if study(row) == main]).items():
            parts += _dots(arm, size, of_seeds, base)
    for place, kind in enumerate(_KINDS):
        x = _LEFT + 95 * place
        parts += [plots.dot(x, 604, plots.COLOURS[place]), plots.text(x + 9, 608, kind)]
    for place, (size, radius) in enumerate(_SIZES.items()):
        x = _LEFT + 400 + 90 * place
        parts += [plots.dot(x, 604, plots.COLOURS[-1], radius), plots.text(x + 14, 608, size)]
    title = "Gap closed by forgetting (right), recall and validation (up)"
    return plots.document(title, _WIDTH, _HEIGHT, parts)


def _grid(panel: Panel) -> list[str]:
    parts = [plots.text(_LEFT, panel.top - 12, panel.title)]
    for tick in panel.ticks:
        y = panel.up(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(plots.text(_LEFT - 8, y + 4, f"{tick:.2f}", "end"))
    ticks = [0.75, 0.8, 0.85, 0.9, 0.95, 1.0]
    return parts + [plots.text(across(t), panel.base + 16, f"{t:.2f}", "middle") for t in ticks]


def _dots(arm: str, size: str, rows: Sequence[Row], base: Baselines) -> list[str]:
    """An arm's mean in both panels; nothing for arms that forget nothing or lack `standard`."""
    kind = next((place for place, kind in enumerate(_KINDS) if arm.startswith(kind)), None)
    pairs = [(row, base[key]) for row in rows if (key := (study(row), row["seed"])) in base]
    if kind is None or not pairs or arm.startswith("strict-open-oracle") or "id_noise" in arm:
        return []
    x = across(fmean([baseline.gaps(row)[1] for row, baseline in pairs]))
    beside = fmean([row["validation"] - baseline.validation for row, baseline in pairs])
    own, *changed = arm.split(", ")
    fewer = [change for change in changed if change.endswith(" open") and change != "50 open"]
    name = ", ".join([own.replace("private-", "E = ").removesuffix("-open"), *fewer])
    oracle = kind == _KINDS.index("oracle")
    # The largest size has its words on the left, so that those of two sizes do not meet.
    away = _SIZES[size] + 4
    at, anchor = (x - away, "end") if size == "8m" and not oracle else (x + away, "start")
    heights = [VALIDATION.up(beside)]
    if not oracle:  # it was never to remember
        heights.append(RECALL.up(fmean([row["own_memorization"] for row in rows])))
    return [
        part
        for y in heights
        for part in (
            plots.dot(x, y, plots.COLOURS[kind], _SIZES[size]),
            plots.text(at, y + 4, name, anchor),
        )
    ]
