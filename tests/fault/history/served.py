"""``python -m tests.fault.history.served``: a server with a planted defect or a wrong clock.

The product has no hooks for this: its modules are changed in this process before it serves.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.fault.history.mutations import MUTATIONS

from coresift.client.cli import main


def set_clock(ahead_s: float) -> None:
    """Make this process's wall clock wrong; the monotonic clock stays as it is."""
    right, right_ns = time.time, time.time_ns
    time.time = lambda: right() + ahead_s
    time.time_ns = lambda: right_ns() + int(ahead_s * 1e9)


def serve() -> None:
    """Plant, then run the command that the remaining arguments are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutation", choices=MUTATIONS)
    parser.add_argument("--clock-ahead-s", type=float, default=0.0)
    options, command = parser.parse_known_args()
    if options.mutation:
        MUTATIONS[options.mutation]()
    if options.clock_ahead_s:
        set_clock(options.clock_ahead_s)
    sys.argv[1:] = command
    main()


if __name__ == "__main__":
    serve()
