"""The best of a pool on a device, where only rows within the bounds of the best leave it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.fixtures.pools import make_pool
from tests.laws.test_strategy_laws import a_head, scorer_of

from coresift.server.head import Head, Task
from coresift.server.pool import between, device_compute
from coresift.server.pool.pool import Pool
from coresift.server.selection.circular_scan import show_pool
from coresift.server.selection.leaders import Leaders
from coresift.server.selection.registry import Choice
from coresift.server.selection.scoring import Scored
from coresift.server.selection.strategy import Part

N, D, DEPTH = 20_000, 12, 30
Pair = tuple[Pool, Pool]
LINEAR = [Choice("max_entropy"), Choice("most_likely_positive")]


@pytest.fixture(scope="module", params=["float32", "float16"])
def pair(
    request: pytest.FixtureRequest, device: str, tmp_path_factory: pytest.TempPathFactory
) -> Pair:
    """In small blocks; of every tenth row there are a hundred copies."""
    folder = tmp_path_factory.mktemp("pair")
    chance = np.random.default_rng(8)
    X = chance.standard_normal((N, D))
    X[: N // 2] = X[chance.integers(0, N // 200, N // 2)]
    host = make_pool(folder, X.astype(request.param), metric="ip", device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_compute, "_CPU_BLOCK", 2**14)
        patch.setattr(device_compute, "GPU_BLOCK", 2**14)
        return host, Pool.open(folder / "pool", device=device)


def leaders_of(pool: Pool, choice: Choice, head: Head) -> Leaders:
    """Every third row may not be chosen."""
    blocked = np.arange(N) % 3 == 1
    return Leaders(scorer_of(pool, choice, head), head, blocked, DEPTH, pool.max_norm)


def same(one: Scored, other: Scored) -> None:
    """To the last bit."""
    assert one.rows.tolist() == other.rows.tolist()
    assert one.scores.tobytes() == other.scores.tobytes()
    assert one.predicted.tolist() == other.predicted.tolist()
    assert one.complete == other.complete


@pytest.mark.parametrize("scale", [0.1, 3.0, 300.0])
def test_the_best_are_those_of_a_cpu(
    pair: Pair, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside each other, and beside one whose score is no function of one product."""
    monkeypatch.setattr(between, "FIRST", 1_000)
    heads = [a_head(Task.BINARY, 2, scale), a_head(Task.BINARY, 5, scale)]
    cases = [(choice, head) for choice in LINEAR for head in heads]
    cases.append((Choice("max_entropy"), a_head(Task.MULTICLASS, 3, scale)))
    found = []
    for pool in pair:
        several = [leaders_of(pool, *case) for case in cases]
        show_pool(pool, several)
        found.append([leaders.best(pool.fetch) for leaders in several])
    for mine, theirs in zip(*found, strict=True):
        same(mine, theirs)


@pytest.mark.parametrize("choice", LINEAR, ids=lambda choice: choice.name)
def test_what_is_far_from_the_best_stays_there(
    pair: Pair, choice: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(between, "FIRST", 5_000)
    seen = []
    leaders = leaders_of(pair[1], choice, a_head(Task.BINARY, 4))
    look = leaders.look

    def noted(part: Part) -> Any:
        seen.append(len(part.rows))
        return look(part)

    monkeypatch.setattr(leaders, "look", noted)
    show_pool(pair[1], [leaders])
    assert seen[0] == 5_000
    assert sum(seen[1:]) < (N - 5_000) / 5


class Failing:
    """A scorer of one logit that fails in its second block."""

    needs_head, needs_rows, projection = True, False, None

    def __init__(self) -> None:
        self.calls = 0

    def score(self, part: Part) -> Any:
        self.calls += 1
        if self.calls == 2:
            raise ValueError("the second block")
        return part.logits[:, 0]

    def error(self, errors: Any) -> float:
        return 0.0

    def interval(self, least: float) -> tuple[float, float]:
        return least, np.inf


def test_one_that_fails_is_shown_no_more(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(between, "FIRST", 1_000)
    head = a_head(Task.BINARY, 4)
    scorer: Any = Failing()
    blocked = np.zeros(N, np.bool_)
    failing = Leaders(scorer, head, blocked, DEPTH, pair[1].max_norm)
    other = leaders_of(pair[1], LINEAR[0], head)
    show_pool(pair[1], [failing, other])
    assert scorer.calls == 2
    with pytest.raises(ValueError, match="the second block"):
        failing.best(pair[1].fetch)
    alone = leaders_of(pair[1], LINEAR[0], head)
    show_pool(pair[1], [alone])
    same(other.best(pair[1].fetch), alone.best(pair[1].fetch))
