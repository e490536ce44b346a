"""How soon a core-set job ends that nobody wants any more."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from tests.fixtures.coreset_cases import CASES, METRICS, Case
from tests.fixtures.pools import make_pool
from tests.fixtures.threads import on_one_thread

from coresift.server.pool.pool import Pool

ITEMS, D = 100_000, 64
GAP_S = 0.15
BUDGET, FEW = 500, 20
"""Items to select; few of them where each takes a pass over the vectors."""
DEFAULTS = {
    f"{case.name} {case.sampler}" if case.name == "max_entropy" else case.name: case
    for case in reversed(CASES)
    if not case.start and {key for key, _ in case.params} <= {"signal"}
}
"""Every method with its first sampler, and one with each."""


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pool]:
    X = np.random.default_rng(1).standard_normal((ITEMS, D)).astype(np.float32)
    folder = tmp_path_factory.mktemp("pools")
    return {metric: make_pool(folder / metric, X, metric=metric) for metric in METRICS}


def longest_gap(run: Callable[[Callable[[], bool]], object]) -> float:
    """The most seconds of CPU time between two questions whether to stop, all on one thread:
    other threads and other processes play no part."""
    asked: list[float] = []

    def stop() -> bool:
        asked.append(time.thread_time())
        return False

    def alone() -> None:
        stop()
        run(stop)
        stop()

    on_one_thread(alone)
    return float(np.diff(asked).max())


@pytest.mark.long
@pytest.mark.parametrize("case", DEFAULTS.values(), ids=DEFAULTS)
def test_a_job_asks_all_the_time_whether_to_stop(pools: dict[str, Pool], case: Case) -> None:
    budget = FEW if case.name == "herding" else BUDGET

    def run(stop: Callable[[], bool]) -> None:
        case.recipe().select(case.problem(pools[case.metric], budget, stop=stop))

    # A busy machine may slow down a step, but not the same one again and again.
    assert min(longest_gap(run) for _ in range(3)) < GAP_S
