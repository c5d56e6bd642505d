"""What the GPU benchmark is held to, and whether a run met it. Pure: the run's document in, one line a goal out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["NOMINAL_FLOP_S", "Goal", "goals_of", "nominal_goal", "print_goals"]

NOMINAL_FLOP_S = 990e12
"""Dense bfloat16 products of an H200 by its data sheet; what the card at hand sustains is measured in the run."""

NOMINAL_GOALS = {
    ("text 500", "2b"): 0.45,
    ("text 500", "8b"): 0.55,
    ("image 1024", "2b"): 0.40,
    ("image 1024", "8b"): 0.50,
}
"""Shares of the nominal rate by cell and model."""


@dataclass(frozen=True, slots=True)
class Goal:
    """`figure` is to be `bound` at least; None where nothing was measured. A share of 1, or a ratio (`is_share`)."""

    text: str
    figure: float | None
    bound: float
    is_share: bool = False

    @property
    def verdict(self) -> str:
        """In a word or two."""
        return "not measured" if self.figure is None else "met" if self.figure >= self.bound else "missed"

    def __str__(self) -> str:
        shown = (lambda value: f"{value:.1%}") if self.is_share else (lambda value: f"{value:.2f}×")
        figure = "" if self.figure is None else f"{shown(self.figure)}: "
        return f"{self.text}, at least {shown(self.bound)}: {figure}{self.verdict}"


def nominal_goal(cell: str, model: str, row: dict[str, Any] | None) -> Goal | None:
    """The goal of `cell` for `model` as a share of the nominal rate, by our `row`; None if it has none."""
    bound = NOMINAL_GOALS.get((cell, model))
    if bound is None:
        return None
    return Goal(f"share of {NOMINAL_FLOP_S / 1e12:.0f} TFLOP/s, {cell}", row and row["of_nominal_rate"], bound, True)


def goals_of(cells: dict[str, Any], model: str) -> list[Goal]:
    """Every goal for `model`, by the cells that were run. Our arm is `ours`; a ratio is another's seconds over ours."""
    mix = {"mix": cells["mix"]} if "mix" in cells else {}
    busy = [cell["busy"]["busy_share"] for cell in cells.values() if cell["busy"]]
    nominal = [nominal_goal(cell, named, _ours(cells.get(cell))) for cell, named in NOMINAL_GOALS if named == model]
    return [
        Goal(
            "share of the measured product rate, mix", (_ours(mix.get("mix")) or {}).get("of_measured_rate"), 0.6, True
        ),
        *(goal for goal in nominal if goal is not None),
        Goal("against the stock loop in padded batches of 16, mix", _least(mix, "stock padded 16".__eq__), 5.0),
        Goal("against the stock loop as tuned, mix", _least(mix, _is_tuned), 2.0),
        Goal("against the stock loop in any form, the least of all cells", _least(cells, _is_stock), 1.0),
        Goal("against vLLM's offline pooling, the least of all text cells", _least(cells, "vllm".__eq__), 1.0),
        Goal(
            "share of the wall time in which a kernel ran, the least of all cells", min(busy, default=None), 0.95, True
        ),
    ]


def print_goals(goals: list[Goal], gpu: str | None) -> list[dict[str, Any]]:
    """One line a goal; and the same for a JSON document."""
    print(f"goals for one H200 in bfloat16; this is {gpu or 'a CPU, where they mean nothing'}")
    for goal in goals:
        print(f"goal: {goal}", flush=True)
    return [asdict(goal) | {"verdict": goal.verdict} for goal in goals]


def _ours(cell: dict[str, Any] | None) -> dict[str, Any] | None:
    return cell["arms"]["ours"] if cell else None


def _is_stock(arm: str) -> bool:
    return arm.startswith("stock ")


def _is_tuned(arm: str) -> bool:
    return arm.startswith("stock tuned ")


def _least(cells: dict[str, Any], chosen: Callable[[str], bool]) -> float | None:
    ratios = [row["speedup"] for cell in cells.values() for arm, row in cell["arms"].items() if chosen(arm)]
    return min(ratios, default=None)
