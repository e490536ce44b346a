"""``make bench``: the labeling loop over gRPC at 1M x 256, beside the machine's ceilings."""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tests.benchmarks.ceilings import measure_ceilings
from tests.benchmarks.labeling import Scenario, measure_labeling
from tests.benchmarks.pools import make_pool
from tests.benchmarks.process import Server


def main() -> None:
    """Measure, print tables, and write ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console()

    pool = make_pool(options.out, options.items, options.dimension)
    results: dict[str, Any] = {"machine": platform.platform(), "ceilings": measure_ceilings()}
    _print(console, "This machine", results["ceilings"])

    results["labeling"] = {}
    for scenario in (Scenario("seals(100)", 100), Scenario("all", None)):
        with Server(pool.directory) as server:  # a fresh one: memory is of one scenario
            measured = measure_labeling(server, pool, scenario, options.rounds)
        results["labeling"][scenario.name] = measured
        title = f"{options.items:,} x {options.dimension}, 1,000 labels, {scenario.name}"
        _print(console, title, measured)
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
