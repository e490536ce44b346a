"""``python -m tests.fault.history``: one run, or the check of a kept history."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.fault.history.checker import check
from tests.fault.history.mutations import MUTATIONS
from tests.fault.history.nemesis import KINDS
from tests.fault.history.record import History
from tests.fault.history.report import as_json, as_text
from tests.fault.history.run import Run, make_run


def main() -> int:
    """Run, print, and say by the exit code whether a law was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fault", choices=KINDS, default="none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calls", type=int, default=5_000)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--mutation", choices=MUTATIONS, default="", help="a defect to plant")
    parser.add_argument("--folder", type=Path, help="keep everything there; must be empty")
    parser.add_argument("--json", type=Path, help="write the counts there")
    parser.add_argument("--check", type=Path, help="judge a kept history.msgpack, without replay")
    options = parser.parse_args()
    if options.check:
        history = History.load(options.check)
        failed_over = KINDS[history.fault].with_sentinels
        run = Run(history, check(history, {}, failed_over=failed_over), 0.0)
    else:
        with tempfile.TemporaryDirectory(prefix="coresift-history-") as temporary:
            run = make_run(
                options.folder or Path(temporary),
                options.fault,
                seed=options.seed,
                calls=options.calls,
                servers=options.servers,
                mutation=options.mutation,
            )
    print(as_text(run))
    if options.json:
        options.json.write_text(json.dumps(as_json(run), indent=1))
    return 1 if run.verdict.violations else 0


if __name__ == "__main__":
    sys.exit(main())
