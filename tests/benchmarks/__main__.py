"""``make bench``: the labeling loop over gRPC at 1M x 256, many annotators and sessions, starts,
the cost of metrics, every strategy, core-sets, the state store, and other libraries, beside the
machine's ceilings. ``make bench-quick``: the first of these at 100k, in under three minutes."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tests.benchmarks.annotators import measure_annotators
from tests.benchmarks.ceilings import measure_ceilings
from tests.benchmarks.coresets.speed import measure_speed
from tests.benchmarks.labeling import Scenario, measure_labeling
from tests.benchmarks.metrics import measure_metrics
from tests.benchmarks.peers import SIZES, measure_peers
from tests.benchmarks.pools import BenchPool, make_pool
from tests.benchmarks.process import Server
from tests.benchmarks.scans import measure_scans
from tests.benchmarks.sessions import measure_sessions
from tests.benchmarks.start import measure_start
from tests.benchmarks.state import measure_state
from tests.benchmarks.strategies import ROUNDS, measure_strategies

from coresift.client import All

SMALL = 100_000
NEIGHBOURS = 100
WIDTH = 140


@dataclass(frozen=True)
class Run:
    """What is measured, how long, and where the pools lie."""

    out: Path
    items: int
    dimension: int
    rounds: int
    sessions: int
    load_s: float
    peers_python: str
    console: Console

    @cached_property
    def pool(self) -> BenchPool:
        """The pool of most parts."""
        return make_pool(self.out, self.items, self.dimension)

    def show(self, title: str, figures: Mapping[str, float]) -> None:
        """Print a table."""
        table = Table("figure", "value", title=title)
        for name, value in figures.items():
            table.add_row(name, f"{value:,.4g}")
        self.console.print(table)


Part = Callable[[Run], Any]


def labeling(run: Run) -> Any:
    """The loop of one annotator."""
    found = {}
    for scenario in (Scenario("seals(100)"), Scenario("all", All())):
        with Server(run.pool.directory) as server:  # a fresh one: memory is of one scenario
            found[scenario.name] = measure_labeling(server, run.pool, scenario, run.rounds)
        run.show(f"Labeling loop, 1,000 labels, {scenario.name}", found[scenario.name])
    return found


def strategies(run: Run) -> Any:
    """Every strategy: of the whole pool where that is possible, else of 100k items."""
    small = make_pool(run.out, min(SMALL, run.items), run.dimension, NEIGHBOURS)
    return measure_strategies(run.pool, small, ROUNDS, run.console)


def coresets(run: Run) -> Any:
    """Every core-set method."""
    return measure_speed(run.out, run.items, run.dimension, run.console, run.peers_python)


def peers(run: Run) -> Any:
    """Other libraries."""
    sizes = [size for size in SIZES if size <= run.items]
    return measure_peers(run.out, run.dimension, run.console, run.peers_python, sizes)


def shown(title: str, measure: Part) -> Part:
    """A part whose figures are one table."""

    def part(run: Run) -> Any:
        figures = measure(run)
        run.show(title, figures)
        return figures

    return part


QUICK: Mapping[str, Part] = {
    "labeling": labeling,
    "annotators": shown(
        "64 annotators on one session", lambda run: measure_annotators(run.pool, run.load_s)
    ),
    "sessions": shown("Many sessions", lambda run: measure_sessions(run.pool, run.sessions)),
    "scans": shown(
        "All candidates, sessions at once", lambda run: measure_scans(run.pool, run.rounds)
    ),
    "start": shown("Start, and a cold replica", lambda run: measure_start(run.pool)),
}
PARTS: Mapping[str, Part] = {
    "state": shown("Memory of the state store", lambda _: measure_state()),
    **QUICK,
    "metrics": shown(
        "Cost of metrics: times with them / without",
        lambda run: measure_metrics(run.pool, run.rounds),
    ),
    "strategies": strategies,
    "coresets": coresets,
    "peers": peers,
}


def main() -> None:
    """Measure, print tables, and write ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--quick", action="store_true", help="not all parts, and small")
    parser.add_argument("--items", type=int, help="default: 1,000,000; quick: 100,000")
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--rounds", type=int, help="default: 15; quick: 5")
    parser.add_argument("--only", choices=PARTS, action="append", help="default: all parts")
    parser.add_argument("--peers-python", default=sys.executable, help="has the other libraries")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    run = Run(
        out=options.out,
        items=options.items or (SMALL if options.quick else 1_000_000),
        dimension=options.dimension,
        rounds=options.rounds or (5 if options.quick else 15),
        sessions=20 if options.quick else 500,
        load_s=5.0 if options.quick else 20.0,
        peers_python=options.peers_python,
        console=console,
    )
    console.print(f"{run.items:,} x {run.dimension}")
    results: dict[str, Any] = {
        "machine": platform.platform(),
        "commit": _commit(),
        "time": time.strftime("%Y-%m-%d %H:%M"),
        "items": run.items,
        "dimension": run.dimension,
        "ceilings": measure_ceilings(),
    }
    run.show("This machine", results["ceilings"])
    for name in options.only or (QUICK if options.quick else PARTS):
        results[name] = PARTS[name](run)
    path = options.out / "results.json"
    path.write_text(json.dumps(results, indent=1))
    console.print(f"results: {path}")


def _commit() -> str:
    """What is measured; empty outside of a clone."""
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    main()
