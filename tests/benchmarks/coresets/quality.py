"""How good a core-set is: coverage, and the accuracy of a model trained on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from tests.benchmarks.coresets.cases import CASES, SHARES, Case

from coresift.client import Client
from coresift.client.simulation.dataset import Dataset
from coresift.client.simulation.server import own_service

POOL, CLASSES = "quality", "classes"
C = 10.0
STEPS = 100


@dataclass(frozen=True, slots=True)
class Outcome:
    """One core-set: which, and how good.

    Attributes:
        draw: number of the random draw of the pool, also the seed of the selection.
        share: budget by items.
        accuracy: on the test split, of a softmax regression trained on the core-set.
        seconds: of the whole call.
    """

    case: str
    draw: int
    share: float
    count: int
    covering_radius: float | None
    mean_max_similarity: float | None
    accuracy: float
    seconds: float


def drawn(data: Dataset, items: int, draw: int) -> Dataset:
    """A random draw of the pool without replacement: at most ``items``, and at most 90 %."""
    count = min(items, int(0.9 * len(data.labels)))
    chance = np.random.default_rng([draw, count])
    kept = np.sort(chance.choice(len(data.labels), count, replace=False))
    return replace(
        data,
        rows=data.rows[kept],
        item_ids=tuple(data.item_ids[place] for place in kept.tolist()),
        vectors=data.vectors[kept],
        labels=data.labels[kept],
    )


def measure_quality(
    data: Dataset, items: int, draws: int, out: Path, console: Console
) -> list[Outcome]:
    """Every case at every share on every draw; what stands in ``out`` already is kept."""
    done = list(_read(out))
    known = {(own.case, own.draw, own.share) for own in done}
    for draw in range(draws):
        wanted = [
            (name, share) for name in CASES for share in SHARES if (name, draw, share) not in known
        ]
        if not wanted:
            continue
        pool = drawn(data, items, draw)
        with own_service(pool, POOL) as address, Client(address, timeout_s=600) as client:
            client.put_signals(POOL, CLASSES, pool.item_ids, pool.labels, kind="class")
            for name, share in wanted:
                outcome = _measure(client, pool, name, CASES[name], draw, share)
                done.append(outcome)
                with out.open("a") as file:
                    file.write(json.dumps(asdict(outcome)) + "\n")
                console.print(
                    f"draw {draw} {share:.0%} {name}: accuracy {outcome.accuracy:.3f}, "
                    f"{outcome.seconds:.1f} s"
                )
    return done


def _read(path: Path) -> Iterator[Outcome]:
    if path.exists():
        for line in path.read_text().splitlines():
            yield Outcome(**json.loads(line))


def _measure(
    client: Client, pool: Dataset, name: str, case: Case, draw: int, share: float
) -> Outcome:
    core = client.score_coreset(
        case.method,
        max(1, round(share * len(pool.labels))),
        pool=POOL,
        seed=draw,
        sampler=case.sampler,
        class_signal=CLASSES if case.classes else None,
        class_budgets=case.class_budgets,
    )
    place = {item_id: i for i, item_id in enumerate(pool.item_ids)}
    kept = np.array([place[item_id] for item_id in core.item_ids])
    seconds = sum(spent.total_seconds() for spent in core.summary.durations.values())
    return Outcome(
        name,
        draw,
        share,
        len(kept),
        core.summary.covering_radius,
        core.summary.mean_max_similarity,
        accuracy(pool, kept),
        seconds,
    )


def accuracy(pool: Dataset, kept: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
    """Accuracy on the test split of a softmax regression (C = 10) trained on ``kept``.

    Full-batch L-BFGS, at most 100 steps: the same for every core-set.
    """
    torch.manual_seed(0)
    X, y = torch.from_numpy(pool.vectors[kept]), torch.from_numpy(pool.labels[kept])
    classes = int(max(pool.labels.max(), pool.test_labels.max())) + 1
    layer = torch.nn.Linear(X.shape[1], classes)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(
        layer.parameters(), max_iter=STEPS, history_size=10, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = C * torch.nn.functional.cross_entropy(layer(X), y, reduction="sum")
        value = value + 0.5 * layer.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        found = layer(torch.from_numpy(pool.test_vectors)).argmax(dim=1).numpy()
    return float((found == pool.test_labels).mean())
