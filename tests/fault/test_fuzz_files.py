"""Files and expressions that others wrote: refused or read, never a crash.

Replay of a finding: ``python -m tests.fault.fuzz TARGET FILE``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fault.fuzz.targets import TARGETS, seeds

RUNS = 20_000


@pytest.mark.parametrize("target", TARGETS)
@settings(deadline=None)  # files are written and read
@given(data=st.data())
def test_any_bytes(target: str, data: st.DataObject) -> None:
    """Right inputs with a piece replaced."""
    base = data.draw(st.sampled_from(seeds(target)))
    start = data.draw(st.integers(0, len(base)))
    end = data.draw(st.integers(start, min(len(base), start + 20)))
    TARGETS[target](base[:start] + data.draw(st.binary(max_size=40)) + base[end:])


@pytest.mark.fault
@pytest.mark.timeout(600)
@pytest.mark.parametrize("target", TARGETS)
def test_guided_by_coverage(target: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="pip install --group fuzz")
    command = [sys.executable, "-m", "tests.fault.fuzz", target]
    options = [f"-runs={RUNS}", "-seed=1", "-max_len=4096", f"-artifact_prefix={tmp_path}/"]
    run = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    assert f"Done {RUNS} runs" in run.stderr, run.stderr[-1000:]
