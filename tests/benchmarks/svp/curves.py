"""The figures of the page, from the results as they were written."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from tests.benchmarks.svp.study import EVERYTHING, trainings_of
from tests.benchmarks.svp.training import Point, Spent

BELOW = 0.005
"""The named accuracy lies so far below the final one of training on everything."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One training of the target.

    Attributes:
        before: what was spent before its first step: proxy, upload, selection.
    """

    seed: int
    subset: str
    same: str
    items: int
    before: Spent
    points: tuple[Point, ...]

    @property
    def group(self) -> tuple[str, str]:
        """What the seeds of one row of the tables share."""
        return self.subset, self.same

    @property
    def accuracy(self) -> float:
        """At the end."""
        return self.points[-1].accuracy

    def reaching(self, accuracy: float) -> Point | None:
        """The first point of such an accuracy, with all that was spent until then."""
        for point in self.points:
            if point.accuracy >= accuracy:
                return Point(point.step, self.before + point.spent, point.accuracy)
        return None


@dataclass(frozen=True, slots=True)
class Row:
    """Means over the seeds of one kind of training.

    Attributes:
        less_all, less_random: mean and deviation of the paired differences in accuracy.
        total: of the whole training, with what came before.
        reached: where its runs reach the named accuracy; fewer than ``runs`` where some do not.
    """

    title: str
    runs: int
    items: int
    steps: int
    accuracy: float
    accuracy_sd: float
    less_all: tuple[float, float] | None
    less_random: tuple[float, float] | None
    total: Spent
    reached: tuple[Point, ...]

    def step_of_reached(self) -> float:
        """Mean step at which the named accuracy is reached."""
        return fmean(point.step for point in self.reached)

    def spent_to_reach(self) -> Spent:
        """Mean time until then."""
        return _mean_spent([point.spent for point in self.reached])


@dataclass(frozen=True, slots=True)
class Figures:
    """The rows, everything first, and the named accuracy."""

    named: float
    rows: list[Row]


def curves_of(results: dict[str, Any]) -> list[Curve]:
    """The trainings of every seed that has all of its own, in order."""
    curves = []
    for seed in range(results["settings"]["seeds"]):
        planned = trainings_of(seed)
        found = [results["trainings"].get(training.key) for training in planned]
        if all(found):
            curves += [_curve(results, own) for own in found]
    return curves


def _curve(results: dict[str, Any], training: dict[str, Any]) -> Curve:
    before = Spent()
    if training["subset"] != EVERYTHING:
        proxy = results["proxies"][str(training["seed"])]
        before += Spent(**proxy["selection"][training["subset"]])
        if training["subset"] != "random":
            before += Spent(**proxy["training"]) + Spent(**proxy["upload"])
    points = (Point(step, Spent(wall, cpu), a) for step, wall, cpu, a in training["points"])
    return Curve(
        training["seed"],
        training["subset"],
        training["same"],
        training["items"],
        before,
        tuple(points),
    )


def figures_of(curves: list[Curve]) -> Figures:
    """What the tables say."""
    groups: dict[tuple[str, str], list[Curve]] = {}
    for curve in curves:
        groups.setdefault(curve.group, []).append(curve)
    everything = groups[EVERYTHING, "both"]
    named = fmean(curve.accuracy for curve in everything) - BELOW
    rows = []
    for (subset, same), runs in groups.items():
        accuracies = [run.accuracy for run in runs]
        rows.append(
            Row(
                title="everything" if subset == EVERYTHING else f"{subset}, same {same}",
                runs=len(runs),
                items=runs[0].items,
                steps=runs[0].points[-1].step,
                accuracy=fmean(accuracies),
                accuracy_sd=_deviation(accuracies),
                less_all=None if subset == EVERYTHING else _paired(runs, everything),
                less_random=None
                if subset in (EVERYTHING, "random")
                else _paired(runs, groups["random", same]),
                total=_mean_spent([run.before + run.points[-1].spent for run in runs]),
                reached=tuple(p for run in runs if (p := run.reaching(named)) is not None),
            )
        )
    return Figures(named, rows)


def _paired(runs: list[Curve], others: list[Curve]) -> tuple[float, float]:
    """Mean and deviation over the seeds of the difference in final accuracy."""
    differences = [a.accuracy - b.accuracy for a, b in zip(runs, others, strict=True)]
    return fmean(differences), _deviation(differences)


def _deviation(values: list[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def _mean_spent(spent: list[Spent]) -> Spent:
    return Spent(fmean(s.wall_s for s in spent), fmean(s.cpu_s for s in spent))
