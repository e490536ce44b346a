"""The evaluation protocol in NumPy and scikit-learn: the yardstick of `coresift simulate`.

Nothing here knows Coresift, so that the two can disagree. It runs active learning on rare
concepts over a folder with embeddings.npy, labels.npy, label_names.json and test_index.npy,
and writes learning curves (`curves`) and teacher-forced picks (`picks`), or checks its own
picks against a file of them (`check`).

    python tests/reference/protocol.py curves DATASET OUT.json --concepts 3 --seeds 2
    python tests/reference/protocol.py picks DATASET OUT.json --at 100,500
    python tests/reference/protocol.py check DATASET PICKS.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

METHODS = [
    "Random-All",
    "MaxEnt-All",
    "MLP-All",
    "MaxEnt-SEALS",
    "MLP-SEALS",
    "MaxEnt-SEALS@10",
    "MLP-SEALS@10",
]
NO_CONCEPTS = {"other", "oos", "neutral", "none"}
C = 100.0
SEED_POSITIVES, SEED_NEGATIVES = 5, 95
BATCH = 100
DRAWS = 5


@dataclass(frozen=True)
class Data:
    """A data set cut into pool and test split; positions are 0-based places in the pool."""

    name: str
    rows: np.ndarray  # dataset row of each pool position
    pool: np.ndarray  # float32 [positions, d], unit rows
    pool_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    names: list[str]
    size: int  # rows used, pool and test

    def concepts(self, rarest: int = 10) -> list[int]:
        """Class numbers of the protocol's concepts, in alphabetical order of their names."""
        total = np.bincount(self.pool_labels, minlength=len(self.names)) + np.bincount(
            self.test_labels, minlength=len(self.names)
        )
        members = np.bincount(self.pool_labels, minlength=len(self.names))
        allowed = [
            label
            for label, name in enumerate(self.names)
            if members[label] >= 25 and not name.startswith("_") and name.lower() not in NO_CONCEPTS
        ]
        rare = [label for label in allowed if total[label] <= 0.01 * self.size]
        if len(rare) > 10:
            names = sorted(self.names[label] for label in rare)
            chosen = np.random.default_rng(0).choice(names, 10, replace=False)
            rare = [self.names.index(str(name)) for name in chosen]
        elif len(rare) < 10:
            rare = sorted(allowed, key=lambda label: (total[label], self.names[label]))[:rarest]
        return sorted(rare, key=lambda label: self.names[label])


def load(folder: Path, use: str | None) -> Data:
    """Read a data set folder; ``use`` names a file of the row numbers to keep."""
    X = np.load(folder / "embeddings.npy").astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    labels = np.load(folder / "labels.npy")
    used = np.ones(len(X), bool) if use is None else np.zeros(len(X), bool)
    if use is not None:
        used[np.load(folder / use)] = True
    held = np.zeros(len(X), bool)
    held[np.load(folder / "test_index.npy")] = True
    rows, test = np.flatnonzero(used & ~held), np.flatnonzero(used & held)
    return Data(
        name=folder.resolve().name,
        rows=rows,
        pool=X[rows],
        pool_labels=labels[rows],
        test=X[test],
        test_labels=labels[test],
        names=json.loads((folder / "label_names.json").read_text()),
        size=int(used.sum()),
    )


def neighbours(pool: np.ndarray, k: int) -> np.ndarray:
    """The k nearest positions of every position by inner product, itself excluded."""
    table = np.empty((len(pool), k), np.int32)
    for start in range(0, len(pool), 2000):
        similarity = pool[start : start + 2000] @ pool.T
        own = np.arange(len(similarity))
        similarity[own, start + own] = -np.inf
        nearest = np.argpartition(-similarity, k + 16, axis=1)[:, : k + 16]
        nearest.sort(axis=1)  # ties by position
        order = np.argsort(-np.take_along_axis(similarity, nearest, 1), axis=1, kind="stable")
        table[start : start + 2000] = np.take_along_axis(nearest, order[:, :k], 1)
    return table


def fit(X: np.ndarray, y: np.ndarray) -> LogisticRegression:
    """The optimum of 0.5 |w|^2 + C * sum of log-losses, to 1e-9."""
    model = LogisticRegression(C=C, solver="lbfgs", tol=1e-9, max_iter=20_000)
    return model.fit(X.astype(np.float64), y)


def seed_set(y: np.ndarray, seed: int, concept_number: int) -> np.ndarray:
    """Positions of the 5 positives and 95 negatives that every method starts with."""
    r = np.random.default_rng([seed, concept_number])
    positives, negatives = np.flatnonzero(y), np.flatnonzero(~y)
    return np.concatenate(
        [
            r.choice(positives, SEED_POSITIVES, replace=False),
            r.choice(negatives, SEED_NEGATIVES, replace=False),
        ]
    )


class Campaign:
    """One run: which positions are labelled and which are candidates."""

    def __init__(self, data: Data, y: np.ndarray, method: str, tables: dict[int, np.ndarray]):
        self.strategy, _, candidates = method.partition("-")
        self.data, self.y = data, y
        self.labelled = np.zeros(len(y), bool)
        self.reached = np.ones(len(y), bool)
        self.table = None
        if candidates != "All":
            self.table = tables[10 if candidates.endswith("@10") else 100]
            self.reached = np.zeros(len(y), bool)

    def label(self, positions: np.ndarray) -> None:
        self.labelled[positions] = True
        if self.table is not None:
            self.reached[self.table[positions].ravel()] = True
        at = np.flatnonzero(self.labelled)
        self.model = fit(self.data.pool[at], self.y[at])

    def scores(self, X: np.ndarray) -> np.ndarray:
        return X.astype(np.float64) @ self.model.coef_[0] + self.model.intercept_[0]

    def best(self, size: int, r: np.random.Generator) -> tuple[np.ndarray, float]:
        """The next positions, best first, and the gap in score between the last and the next."""
        free = np.flatnonzero(~self.labelled)
        if self.strategy == "Random":
            return r.choice(free, size, replace=False), float("inf")
        candidates = np.flatnonzero(self.reached & ~self.labelled)
        score = self.scores(self.data.pool[candidates])
        if self.strategy == "MaxEnt":
            score = -np.abs(score)
        order = np.argsort(-score, kind="stable")
        picks, gap = candidates[order[:size]], float("inf")
        if len(order) > size:
            gap = float(score[order[size - 1]] - score[order[size]])
        if len(picks) < size:
            rest = np.setdiff1d(free, picks)
            picks = np.concatenate([picks, r.choice(rest, size - len(picks), replace=False)])
        return picks, gap

    def measure(self) -> dict[str, float]:
        return {
            "n": int(self.labelled.sum()),
            "ap": float(average_precision_score(self.y_test, self.scores(self.data.test))),
            "recall": float((self.labelled & self.y).sum() / self.y.sum()),
            "considered": float((self.labelled | self.reached).mean()),
        }

    y_test: np.ndarray


def run(
    data: Data,
    label: int,
    tables: dict[int, np.ndarray],
    *,
    number: int,
    seed: int,
    method: str,
    draw: int = 0,
) -> Iterator[Campaign]:
    """The campaign after each refit."""
    y = data.pool_labels == label
    campaign = Campaign(data, y, method, tables)
    campaign.y_test = data.test_labels == label
    r = np.random.default_rng([seed, number, draw, 1])
    batch = seed_set(y, seed, number)
    while True:
        campaign.label(batch)
        yield campaign
        batch, _ = campaign.best(BATCH, r)


def tables_for(data: Data, methods: list[str]) -> dict[int, np.ndarray]:
    if not any("SEALS" in method for method in methods):
        return {}
    table = neighbours(data.pool, 100)
    return {100: table, 10: table[:, :10]}


def curves(data: Data, args: argparse.Namespace) -> dict[str, Any]:
    """Learning curves of every method, concept and seed, and their means."""
    tables = tables_for(data, args.methods)
    labels = data.concepts(args.rarest)[: args.concepts]
    runs, full = [], []
    for number, label in enumerate(labels):
        y, y_test = data.pool_labels == label, data.test_labels == label
        model = fit(data.pool, y)
        scores = data.test.astype(np.float64) @ model.coef_[0]
        full.append(float(average_precision_score(y_test, scores)))
        for seed in range(args.seeds):
            for method in args.methods:
                for draw in range(DRAWS if method.startswith("Random") else 1):
                    states = run(
                        data, label, tables, number=number, seed=seed, method=method, draw=draw
                    )
                    points = []
                    for campaign in states:
                        points.append(campaign.measure())
                        if points[-1]["n"] >= args.budget:
                            break
                    columns = {
                        key: [round(point[key], 5) for point in points]
                        for key in ("n", "ap", "recall", "considered")
                    }
                    about = {"concept": data.names[label], "seed": seed, "method": method}
                    runs.append({**columns, **about, "draw": draw})
    return {
        "dataset": data.name,
        "n": data.size,
        "d": data.pool.shape[1],
        "pool": len(data.rows),
        "test": len(data.test),
        "protocol": {
            "use": args.use,
            "budget": args.budget,
            "batch": BATCH,
            "seeds": list(range(args.seeds)),
            "C": C,
        },
        "concepts": [
            {
                "name": data.names[label],
                "label": label,
                "pool_positives": int((data.pool_labels == label).sum()),
                "test_positives": int((data.test_labels == label).sum()),
                "full_ap": full_ap,
            }
            for label, full_ap in zip(labels, full, strict=True)
        ],
        "mean": {method: mean(runs, method) for method in args.methods},
        "runs": runs,
        "full_supervision": {"map_concepts": float(np.mean(full))},
    }


def mean(runs: list[dict[str, Any]], method: str) -> dict[str, list[float]]:
    """Means over all runs of a method, and the spread of that mean between seeds and draws."""
    mine = [run for run in runs if run["method"] == method]
    groups = sorted({(run["seed"], run["draw"]) for run in mine})
    out = {"n": mine[0]["n"]}
    for key in ("ap", "recall", "considered"):
        means = np.array(
            [
                np.mean([run[key] for run in mine if (run["seed"], run["draw"]) == group], axis=0)
                for group in groups
            ]
        )
        out[key] = means.mean(axis=0).round(5).tolist()
        spread = means.std(axis=0, ddof=1) if len(groups) > 1 else np.zeros(means.shape[1])
        out[f"{key}_sd"] = spread.round(5).tolist()
    return out


def picks(data: Data, args: argparse.Namespace) -> list[dict[str, Any]]:
    """What each method would label next at fixed numbers of labels (seed 0)."""
    tables, entries = tables_for(data, args.methods), []
    for number, label in enumerate(data.concepts(args.rarest)[: args.concepts]):
        for method in args.methods:
            if method.startswith("Random"):
                continue
            for campaign in run(data, label, tables, number=number, seed=0, method=method):
                n = int(campaign.labelled.sum())
                if n in args.at:
                    following, gap = campaign.best(BATCH, np.random.default_rng(0))
                    entries.append(
                        {
                            "concept": data.names[label],
                            "method": method,
                            "n": n,
                            "labelled": data.rows[campaign.labelled].tolist(),
                            "next": data.rows[following].tolist(),
                            "gap": gap,
                        }
                    )
                if n >= max(args.at):
                    break
    return entries


def check(data: Data, args: argparse.Namespace) -> list[dict[str, Any]]:
    """How many of the listed picks this implementation makes from the listed labels."""
    position = {int(row): place for place, row in enumerate(data.rows)}
    entries = json.loads(args.file.read_text())
    tables, out = tables_for(data, [entry["method"] for entry in entries]), []
    for entry in entries:
        y = data.pool_labels == data.names.index(entry["concept"])
        campaign = Campaign(data, y, entry["method"], tables)
        campaign.label(np.array([position[row] for row in entry["labelled"]]))
        chosen, _ = campaign.best(len(entry["next"]), np.random.default_rng(0))
        agree = len(set(data.rows[chosen].tolist()) & set(entry["next"]))
        out.append({key: entry[key] for key in ("concept", "method", "n")} | {"agree": agree})
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["curves", "picks", "check"])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--use", help="file of row numbers inside the folder")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=METHODS)
    parser.add_argument("--concepts", type=int, default=10, help="how many, in their order")
    parser.add_argument("--rarest", type=int, default=10, help="where fewer than 10 are rare")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=2000)
    parser.add_argument("--at", type=lambda text: [int(n) for n in text.split(",")])
    args = parser.parse_args()
    data = load(args.dataset, args.use)
    if args.action == "check":
        for entry in check(data, args):
            print(entry["agree"], entry["concept"], entry["method"], entry["n"])
        return
    result = curves(data, args) if args.action == "curves" else picks(data, args)
    args.file.write_text(json.dumps(result, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
