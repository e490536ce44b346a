"""The parts of the benchmarks by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.benchmarks.annotators import measure_annotators
from tests.benchmarks.ceilings import measure_ceilings
from tests.benchmarks.coresets.speed import measure_speed
from tests.benchmarks.labeling import Scenario, measure_labeling, stages_grid, without_stages
from tests.benchmarks.large import measure_large
from tests.benchmarks.metrics import measure_metrics
from tests.benchmarks.neighbour_table import measure_neighbour_table
from tests.benchmarks.numpy_step import step_seconds
from tests.benchmarks.peers import SIZES, measure_peers
from tests.benchmarks.pools import BenchPool, make_pool
from tests.benchmarks.process import Server
from tests.benchmarks.report import figures_grid
from tests.benchmarks.scans import measure_scans
from tests.benchmarks.sessions import measure_sessions
from tests.benchmarks.start import measure_start
from tests.benchmarks.state import measure_state
from tests.benchmarks.strategies import ROUNDS, measure_strategies
from tests.benchmarks.streams import measure_session_streams
from tests.benchmarks.tables import Page
from tests.benchmarks.targets import TARGETS

from coresift.client import All

SMALL = 100_000
NEIGHBOURS = 100
RECALL = 0.95
PEER = "times faster than scikit-learn and NumPy"


@dataclass(frozen=True)
class Run:
    """What is measured, how long, and where the pools lie.

    Attributes:
        results: of the parts so far.
    """

    out: Path
    items: int
    dimension: int
    rounds: int
    sessions: int
    load_s: float
    peers_python: str
    page: Page
    results: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def pool(self) -> BenchPool:
        """The pool of most parts."""
        return make_pool(self.out, self.items, self.dimension)

    @cached_property
    def tabled(self) -> BenchPool:
        """The same with a neighbour table."""
        return make_pool(self.out, self.items, self.dimension, NEIGHBOURS, recall=RECALL)

    def show(self, title: str, part: str, found: Any) -> None:
        """Show the figures of a part."""
        results = {**self.results, part: found}
        self.page.add(figures_grid(title, part, results, TARGETS))


Part = Callable[[Run, str], Any]
"""Measures, shows, and gives what is kept; knows its name."""


def labeling(run: Run, part: str) -> Any:
    """The loop of one annotator, with and without what it hopes for."""
    found: dict[str, dict[str, Any]] = {}
    for scenario, pool, thinks in (
        (Scenario("seals(100)"), run.pool, True),
        (Scenario("seals(100), 10 classes", classes=10), run.pool, True),
        (Scenario("all", All()), run.pool, True),
        (Scenario("seals(100), no think time"), run.pool, False),
        (Scenario("seals(100), no think time, neighbour table"), run.tabled, False),
    ):
        with Server(pool.directory) as server:  # a fresh one: memory is of one scenario
            figures = measure_labeling(server, pool, scenario, run.rounds, thinks=thinks)
        if thinks:
            figures["scikit-learn and NumPy ms"] = 1e3 * step_seconds(pool, scenario, run.rounds)
            figures[PEER] = figures["scikit-learn and NumPy ms"] / figures["pair p50 ms"]
        found[scenario.name] = figures
    loops = {name: without_stages(figures) for name, figures in found.items()}
    run.show("Labeling loop, 1,000 labels", part, loops)
    run.page.add(stages_grid(found))
    return found


def large(run: Run, part: str) -> Any:
    """The loop at ten times the items."""
    loops, others = measure_large(run.out, run.items, run.dimension, run.rounds)
    shown = {name: without_stages(figures) for name, figures in loops.items()}
    run.show("Ten times the items, float16", part, shown | others)
    run.page.add(stages_grid(loops))
    return loops | others


def strategies(run: Run, _: str) -> Any:
    """Every strategy: of the whole pool where that is possible, else of 100k items."""
    items = min(SMALL, run.items)
    small = make_pool(run.out, items, run.dimension, NEIGHBOURS, recall=RECALL)
    return measure_strategies(run.pool, small, ROUNDS, run.page)


def coresets(run: Run, part: str) -> Any:
    """Every core-set method."""
    found = measure_speed(run.out, run.items, run.dimension, run.page, run.peers_python)
    run.show("Core-sets", part, found)
    return found


def peers(run: Run, _: str) -> Any:
    """Other libraries."""
    sizes = [size for size in SIZES if size <= run.items]
    return measure_peers(run.out, run.dimension, run.page, run.peers_python, sizes)


def shown(title: str, measure: Callable[[Run], Any]) -> Part:
    """A part whose figures are one table."""

    def measured(run: Run, part: str) -> Any:
        found = measure(run)
        run.show(title, part, found)
        return found

    return measured


MACHINE = "machine"
"""Always measured, first: the floors come from it."""
QUICK: Mapping[str, Part] = {
    MACHINE: shown("This machine", lambda _: measure_ceilings()),
    "labeling": labeling,
    "annotators, neighbour table": shown(
        "64 annotators on one session, pool with a neighbour table",
        lambda run: measure_annotators(run.tabled, run.load_s),
    ),
    "sessions": shown("Many sessions", lambda run: measure_sessions(run.pool, run.sessions)),
    "scans": shown("All candidates", lambda run: measure_scans(run.pool, run.rounds)),
    "start": shown("Start, and a cold replica", lambda run: measure_start(run.pool)),
}
PARTS: Mapping[str, Part] = {
    **QUICK,
    "annotators": shown(
        "64 annotators on one session", lambda run: measure_annotators(run.pool, run.load_s)
    ),
    "large": large,
    "streams": shown("Streams of a session", lambda run: measure_session_streams(run.pool)),
    "neighbour table": shown(
        "Neighbour table of the whole pool",
        lambda run: measure_neighbour_table(run.pool, run.tabled),
    ),
    "state": shown("Memory of the state store", lambda _: measure_state()),
    "metrics": shown(
        "Cost of metrics: times with them / without",
        lambda run: measure_metrics(run.pool, run.rounds),
    ),
    "strategies": strategies,
    "coresets": coresets,
    "peers": peers,
}
