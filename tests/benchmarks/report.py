"""Figures beside their floors and targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.tables import Grid, number

Figures = Mapping[str, float]

HEADINGS = ("figure", "measured", "floor", "target", "verdict")
MILLION = 1_000_000


class NotMeasuredError(Exception):
    """A part lacks what it needs; says what."""


@dataclass(frozen=True, slots=True)
class Floor:
    """What no program on this machine can beat: its name and its value by all figures."""

    name: str
    of: Callable[[Figures], float]


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure has to reach.

    Attributes:
        figure: as `flat` names it, the part first.
        most, least: the bound, at most one of them.
        floor: what bounds the figure itself, None where there is nothing such.
        items: size of the run that it speaks of, 0 for any.
    """

    figure: str
    most: float | None = None
    least: float | None = None
    floor: Floor | None = None
    items: int = MILLION

    @property
    def part(self) -> str:
        """What measures it."""
        return self.figure.partition(" / ")[0]

    @property
    def bound(self) -> str:
        """For a table; empty: none."""
        if self.most is not None:
            return f"≤ {number(self.most)}"
        return "" if self.least is None else f"≥ {number(self.least)}"

    def verdict(self, value: float | None, items: int) -> str:
        """Of what was measured in a run of so many items; empty: there is no bound."""
        if value is None:
            return "not measured"
        if not self.bound:
            return ""
        if self.items not in (0, items):
            return f"of {self.items:,} items"
        is_met = value >= self.least if self.least is not None else value <= (self.most or 0.0)
        return "met" if is_met else "missed"


def flat(results: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of nested mappings, names joined by " / "."""
    found: dict[str, float] = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            found |= {f"{name} / {inner}": number for inner, number in flat(value).items()}
        elif isinstance(value, float | int):
            found[name] = float(value)
    return found


def figures_grid(
    title: str, part: str, results: Mapping[str, Any], targets: Iterable[Target]
) -> Grid:
    """The figures of a part, each with its floor and target."""
    figures, judged = flat(results), {target.figure: target for target in targets}
    rows = []
    for name, value in figures.items():
        if name.startswith(f"{part} / "):
            row = _row(judged.get(name, Target(name)), value, figures, results["items"])
            rows.append((name.removeprefix(f"{part} / "), *row))
    return Grid(title, HEADINGS, rows)


def targets_grid(results: Mapping[str, Any], targets: Iterable[Target]) -> Grid:
    """Every target with what was measured."""
    figures = flat(results)
    rows = [
        (target.figure, *_row(target, figures.get(target.figure), figures, results["items"]))
        for target in targets
    ]
    return Grid("Targets", HEADINGS, rows)


def _row(target: Target, value: float | None, figures: Figures, items: int) -> tuple[str, ...]:
    measured = "" if value is None else number(value)
    return measured, _floor(target, figures), target.bound, target.verdict(value, items)


def _floor(target: Target, figures: Figures) -> str:
    if target.floor is None:
        return ""
    try:
        return f"{number(target.floor.of(figures))} ({target.floor.name})"
    except KeyError:  # a part that was left out measures it
        return target.floor.name
