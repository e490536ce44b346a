"""``make bench``: the labeling loop over gRPC at 1M x 256, the cost of metrics, every strategy,
core-sets, the state store, and other libraries, beside the machine's ceilings."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tests.benchmarks.ceilings import measure_ceilings
from tests.benchmarks.coresets.speed import measure_speed
from tests.benchmarks.labeling import Scenario, measure_labeling
from tests.benchmarks.metrics import measure_metrics
from tests.benchmarks.peers import SIZES, measure_peers
from tests.benchmarks.pools import make_pool
from tests.benchmarks.process import Server
from tests.benchmarks.state import measure_state
from tests.benchmarks.strategies import ROUNDS, measure_strategies

from coresift.client import All

PARTS = ("state", "labeling", "metrics", "strategies", "coresets", "peers")
SMALL = 100_000
NEIGHBOURS = 100
WIDTH = 140


def main() -> None:
    """Measure, print tables, and write ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", choices=PARTS, action="append", help="default: all parts")
    parser.add_argument("--peers-python", default=sys.executable, help="has the other libraries")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH

    results: dict[str, Any] = {"machine": platform.platform(), "ceilings": measure_ceilings()}
    _print(console, "This machine", results["ceilings"])

    parts = options.only or PARTS
    if "state" in parts:
        results["state"] = measure_state()
        _print(console, "Memory of the state store", results["state"])
    pool = make_pool(options.out, options.items, options.dimension)
    if "labeling" in parts:
        results["labeling"] = {}
        for scenario in (Scenario("seals(100)"), Scenario("all", All())):
            with Server(pool.directory) as server:  # a fresh one: memory is of one scenario
                measured = measure_labeling(server, pool, scenario, options.rounds)
            results["labeling"][scenario.name] = measured
            title = f"{options.items:,} x {options.dimension}, 1,000 labels, {scenario.name}"
            _print(console, title, measured)
    if "metrics" in parts:
        results["metrics"] = measure_metrics(pool, options.rounds)
        _print(console, "Cost of metrics: times with them / without", results["metrics"])
    if "strategies" in parts:
        small = make_pool(options.out, min(SMALL, options.items), options.dimension, NEIGHBOURS)
        results["strategies"] = measure_strategies(pool, small, ROUNDS, console)
    if "coresets" in parts:
        results["coresets"] = measure_speed(
            options.out, options.items, options.dimension, console, options.peers_python
        )
    if "peers" in parts:
        sizes = [size for size in SIZES if size <= options.items]
        results["peers"] = measure_peers(
            options.out, options.dimension, console, options.peers_python, sizes
        )
    path = options.out / "results.json"
    path.write_text(json.dumps(results, indent=1))
    console.print(f"results: {path}")


def _print(console: Console, title: str, figures: dict[str, float]) -> None:
    table = Table("figure", "value", title=title)
    for name, value in figures.items():
        table.add_row(name, f"{value:,.4g}")
    console.print(table)


if __name__ == "__main__":
    main()
