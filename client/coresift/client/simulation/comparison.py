"""A comparison's campaigns as tables: what its page, its pictures and its sentences are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from coresift.client.simulation.campaign import Run
from coresift.client.simulation.dataset import Dataset
from coresift.client.simulation.paired import Difference, difference, spread
from coresift.client.simulation.protocol import Concept
from coresift.client.simulation.studies import BASELINE, MARKS, SEEDED, Study

MEASURES = {"ap": "mAP", "recall": "recall"}
LEAST_TOLERANCE = 0.01
"""Of SEALS against all candidates in mAP; three standard deviations where that is more."""


@dataclass(frozen=True)
class Narrowing:
    """A strategy on neighbours against itself over all candidates."""

    strategy: str
    policy: str
    over_all: float
    narrowed: float
    tolerance: float
    considered: float
    """Share of the pool that was labelled or a candidate in the end."""

    @property
    def within(self) -> bool:
        """Whether the mAP is lower by no more than the tolerance."""
        return self.narrowed >= self.over_all - self.tolerance


@dataclass(frozen=True)
class Comparison:
    """What was run: a group of runs a method, for each question."""

    data: Dataset
    concepts: Sequence[Concept]
    study: Study
    main: dict[str, list[Run]]
    search: dict[tuple[str, int], list[Run]]
    """By method and labels after the seed set."""
    cold: dict[str, list[Run]]
    full: dict[str, float]

    @cached_property
    def marks(self) -> list[int]:
        """Labels at which all methods were measured."""
        measured = [set(run.n) for runs in self.main.values() for run in runs]
        return [n for n in MARKS if all(n in points for points in measured)]

    @property
    def last(self) -> int:
        """The last mark."""
        return self.marks[-1]

    def spread(self, method: str, measure: str, n: int) -> tuple[float, float]:
        """Mean and its standard deviation between seeds."""
        return spread(self.main[method], measure, n)

    def against(self, method: str, other: str, measure: str, n: int) -> Difference:
        """Paired difference of a method to another."""
        return difference(self.main[method], self.main[other], measure, n)

    def not_better(self, method: str) -> list[tuple[str, int, Difference]]:
        """Where the interval of a method's difference to random does not lie above 0."""
        found = [
            (measure, n, self.against(method, BASELINE, measure, n))
            for measure in MEASURES
            for n in self.marks
        ]
        return [entry for entry in found if entry[2].verdict != "better"]

    def narrowings(self) -> list[Narrowing]:
        """Every strategy that was run on neighbours and over all candidates, at the last mark."""
        out = []
        for name in self.main:
            strategy, _, policy = name.rpartition("@")
            whole = f"{strategy}@all"
            if not policy.startswith("seals:") or whole not in self.main:
                continue
            mean, sd = self.spread(whole, "ap", self.last)
            narrowed, _ = self.spread(name, "ap", self.last)
            considered, _ = self.spread(name, "considered", self.last)
            tolerance = max(LEAST_TOLERANCE, 3 * sd)
            out.append(Narrowing(strategy, policy, mean, narrowed, tolerance, considered))
        return out


def compared(
    data: Dataset,
    concepts: Sequence[Concept],
    study: Study,
    runs: Sequence[Run],
    full: dict[str, float],
) -> Comparison:
    """Sort the runs of a study's plans, in their order, by question and method."""
    first = len(study.main)
    second = first + len(study.search)
    main: dict[str, list[Run]] = {}
    search: dict[tuple[str, int], list[Run]] = {}
    cold: dict[str, list[Run]] = {}
    for run in runs[:first]:
        main.setdefault(run.plan.method.name, []).append(run)
    for run in runs[first:second]:
        search.setdefault((run.plan.method.name, run.plan.budget - SEEDED), []).append(run)
    for run in runs[second:]:
        cold.setdefault(run.plan.method.name, []).append(run)
    return Comparison(data, concepts, study, main, search, cold, full)
