"""``make coresets``: every core-set method on real data; tables, pictures, what was measured."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from tests.benchmarks.coresets.page import write_page
from tests.benchmarks.coresets.quality import drawn, measure_quality

from coresift.client.simulation.dataset import DatasetError, load


def main() -> None:
    """Measure, and write ``outcomes.jsonl``, ``RESULTS.md`` and pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder laid out as tests/data/clinc150")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--items", type=int, default=20_000, help="of a draw, at most")
    parser.add_argument("--draws", type=int, default=3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console()
    try:
        data = load(options.data)
    except DatasetError as error:
        parser.error(str(error))
    outcomes = measure_quality(
        data, options.items, options.draws, options.out / "outcomes.jsonl", console
    )
    items = len(drawn(data, options.items, 0).labels)
    write_page(data, items, outcomes, options.out, "make coresets DATA=DIR")
    console.print(f"{options.out / 'RESULTS.md'}")


if __name__ == "__main__":
    main()
