"""Selection via proxy on real images: ``python -m tests.benchmarks.svp run --data DIR --out DIR``.

A small network is trained on everything while `coresift.client.TrainingDynamics` records; a server
selects half of the items by what was recorded; a network of 12 times the size is trained on
everything and on the halves.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def main(words: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.svp")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train, select, train again; then write the page")
    run.add_argument("--data", type=Path, required=True, help="folder of the images")
    run.add_argument("--out", type=Path, default=Path("out/svp"))
    run.add_argument("--epochs", type=_count, default=16, help="of the target (16)")
    run.add_argument("--proxy-epochs", type=_count, default=6, help="of the proxy (6)")
    run.add_argument("--batch", type=_count, default=256, help="images a step (256)")
    run.add_argument("--seeds", type=_count, default=3, help="how many (3)")
    run.add_argument("--threads", type=_count, default=2, help="of the processor (2)")
    run.add_argument("--resume", action="store_true", help="go on with what --out holds")
    report = commands.add_parser("report", help="write the page and the plot of results")
    report.add_argument("--out", type=Path, default=Path("out/svp"), help="where the results are")
    report.add_argument("--to", type=Path, help="another folder for page, plot and results")
    options = parser.parse_args(words)

    # Threads that spin while they wait count as processor time, and where another process takes a
    # core they slow each other down many times over. To be set before torch comes in.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from tests.benchmarks.svp.images import DataError, load
    from tests.benchmarks.svp.report import write_report
    from tests.benchmarks.svp.study import Settings, Study, StudyError

    try:
        if options.command == "run":
            settings = Settings(
                epochs=options.epochs,
                proxy_epochs=options.proxy_epochs,
                batch=options.batch,
                seeds=options.seeds,
                threads=options.threads,
            )
            Study(load(options.data), settings, options.out, resume=options.resume).run()
            print(f"page: {write_report(options.out, options.out)}")
        else:
            print(f"page: {write_report(options.out, options.to or options.out)}")
    except (DataError, StudyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
