"""``make bench``: every target at 1M x 256, and ten times that, beside the machine's floors.
``make bench-quick``: the parts about labeling at 100k, in under three minutes."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from pathlib import Path

from rich.console import Console
from tests.benchmarks.parts import MACHINE, PARTS, QUICK, SMALL, Run
from tests.benchmarks.report import NotMeasuredError, targets_grid
from tests.benchmarks.tables import Grid, Page
from tests.benchmarks.targets import TARGETS

from coresift.server.pool.kernels import numpys_kernels

WIDTH = 180


def main() -> int:
    """Measure, print tables, write ``results.json`` and ``RESULTS.md``; 1 if a part failed."""
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
        load_s=3.0 if options.quick else 10.0,
        peers_python=options.peers_python,
        page=Page(console),
    )
    run.results.update(
        system=f"{platform.platform()}, {os.cpu_count()} cores, {numpys_kernels()} kernels",
        commit=_commit(),
        time=time.strftime("%Y-%m-%d %H:%M"),
        items=run.items,
        dimension=run.dimension,
    )
    chosen = dict.fromkeys([MACHINE, *(options.only or (QUICK if options.quick else PARTS))])
    failed = []
    for name in chosen:
        if not _measure(run, name):
            failed.append(name)
        wanted = targets_grid(run.results, [own for own in TARGETS if own.part in chosen])
        _write(run, wanted)
    run.page.show(wanted)
    run.page.say(f"results: {options.out / 'results.json'}, {options.out / 'RESULTS.md'}")
    for name in failed:
        run.page.say(f"failed: {name}")
    return 1 if failed else 0


def _measure(run: Run, name: str) -> bool:
    """Measure a part; False: it failed, and is left out."""
    began = time.perf_counter()
    try:
        run.results[name] = PARTS[name](run, name)
    except NotMeasuredError as reason:
        run.page.say(f"{name} is left out: {reason}")
    except Exception:
        run.page.say(traceback.format_exc())
        return False
    run.page.say(f"{name}: {time.perf_counter() - began:.0f} s")
    return True


def _write(run: Run, wanted: Grid) -> None:
    """Write what there is so far: parts take long, and a later one may be stopped."""
    (run.out / "results.json").write_text(json.dumps(run.results, indent=1))
    facts = [run.results[fact] for fact in ("time", "system", "commit")]
    heading = f"## {', '.join(facts)}; {run.items:,} x {run.dimension}"
    run.page.write(run.out / "RESULTS.md", heading, wanted)


def _commit() -> str:
    """What is measured; empty outside of a clone."""
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
