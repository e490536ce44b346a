"""Coverage-guided fuzzing of one target with Atheris: ``python -m tests.fault.fuzz TARGET ...``.

Further arguments are libFuzzer's: ``-runs=N``, ``-seed=N``, a folder of inputs, or one file to
repeat a finding.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["coresift.server.pool"]):
    from tests.fault.fuzz.targets import TARGETS, seeds


def main() -> None:
    """Fuzz until ``-runs`` are done or something is found."""
    name, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds(name)):
            (Path(corpus) / str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], corpus, *options], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
