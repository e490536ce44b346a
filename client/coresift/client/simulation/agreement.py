"""Do two sets of learning curves agree? Means against a reference's, within its spread."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCES = {"ap": 0.005, "recall": 0.02, "considered": 0.02}
"""Least tolerated difference of means; three standard deviations where that is more."""

Runs = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Difference:
    """The point of a method's curve that comes closest to its tolerance, or passes it."""

    method: str
    measure: str
    n: int
    ours: float
    reference: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance."""
        return abs(self.ours - self.reference) <= self.tolerance

    def as_json(self) -> dict[str, Any]:
        """The difference as it stands in curves.json."""
        return {
            "method": self.method,
            "measure": self.measure,
            "n": self.n,
            "ours": round(self.ours, 5),
            "reference": round(self.reference, 5),
            "tolerance": round(self.tolerance, 5),
            "agrees": self.agrees,
        }


def mean_curve(runs: Runs, length: int | None = None) -> dict[str, list[float]]:
    """Means over all runs of one method, and ``*_sd``: the spread of the mean over concepts
    between seeds (and draws), 0 for a single one. ``length`` cuts the curves."""
    shortest = min(len(run["n"]) for run in runs)
    length = min(length or shortest, shortest)
    out: dict[str, list[float]] = {"n": list(runs[0]["n"][:length])}
    for measure in TOLERANCES:
        groups: dict[tuple[int, int], list[list[float]]] = {}
        for run in runs:
            groups.setdefault((run["seed"], run["draw"]), []).append(run[measure][:length])
        means = np.array([np.mean(group, axis=0) for group in groups.values()])
        spread = means.std(axis=0, ddof=1) if len(means) > 1 else np.zeros(length)
        values = np.mean([run[measure][:length] for run in runs], axis=0)
        out[measure] = values.round(5).tolist()
        out[f"{measure}_sd"] = spread.round(5).tolist()
    return out


def differences(ours: Runs, reference: dict[str, Any]) -> list[Difference]:
    """The worst difference of each method and measure, over the runs and points in both.

    The reference's mean is taken over the concepts and seeds that were run here, so that a
    shorter simulation can be compared too.
    """
    out = []
    for name in dict.fromkeys(run["method"] for run in ours):
        mine = [run for run in ours if run["method"] == name]
        theirs = [run for run in reference["runs"] if run["method"] == name]
        shared = _keys(mine) & _keys(theirs)
        mine, theirs = _only(mine, shared), _only(theirs, shared)
        if not shared:
            continue
        a, b = mean_curve(mine), mean_curve(theirs)
        points = [(i, b["n"].index(n)) for i, n in enumerate(a["n"]) if n in b["n"]]
        many_seeds = len({(run["seed"], run["draw"]) for run in theirs}) > 1
        spread = b if many_seeds else reference["mean"][name]
        for measure, least in TOLERANCES.items():
            found = [
                Difference(
                    name,
                    measure,
                    int(a["n"][i]),
                    a[measure][i],
                    b[measure][j],
                    max(least, 3 * spread[f"{measure}_sd"][j]),
                )
                for i, j in points
            ]
            if found:
                out.append(max(found, key=lambda d: abs(d.ours - d.reference) / d.tolerance))
    return out


def reference_for(folder: Path, use: str | None) -> tuple[Path, dict[str, Any]] | None:
    """The reference curves in a data set's folder that were measured on the same rows."""
    for path in sorted(folder.glob("reference_curves*.json")):
        curves = json.loads(path.read_text())
        if curves["protocol"].get("use") == use:
            return path, curves
    return None


def _keys(runs: Runs) -> set[tuple[str, int]]:
    return {(run["concept"], run["seed"]) for run in runs}


def _only(runs: Iterable[dict[str, Any]], keys: set[tuple[str, int]]) -> list[dict[str, Any]]:
    return [run for run in runs if (run["concept"], run["seed"]) in keys]
