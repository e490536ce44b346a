"""The benchmark of GPUs, small, on torch's CPU device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.benchmarks import gpu


def test_every_figure_has_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "figures.json"
    sizes = ["--items", "2500", "--smaller", "600"]
    monkeypatch.setattr(gpu, "milliseconds", lambda work: 0.0 if work() is None else 1.0)
    monkeypatch.setattr("sys.argv", ["gpu", "--device", "torch:cpu", *sizes, "--out", str(out)])
    gpu.main()
    found = json.loads(out.read_text())
    for part in ("scans", "table", "core-sets"):
        named = {f"{part} / {name}" for name in found[part]}
        wanted = {target.figure for target in gpu.targets(part, 6) if target.items}
        assert wanted <= named
