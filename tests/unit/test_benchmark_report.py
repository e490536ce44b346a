"""Figures beside their targets: nothing that is wanted may vanish from the table."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from tests.benchmarks import __main__ as benchmarks
from tests.benchmarks.parts import PARTS
from tests.benchmarks.pools import make_pool
from tests.benchmarks.report import Floor, Target, figures_grid, flat, targets_grid
from tests.benchmarks.tables import Grid, Page, number
from tests.benchmarks.targets import TARGETS

FLOOR = Floor("a call", lambda figures: figures["machine / call ms"])
FEWER = Target("loop / ms", most=25, floor=FLOOR)
MORE = Target("loop / times faster", least=4, items=0)
RESULTS = {
    "items": 1_000_000,
    "commit": "abc",
    "machine": {"call ms": 0.5},
    "loop": {"ms": 25.0, "times faster": 3.9, "rows": [1, 2]},
}


def test_numbers_of_nested_results_are_found_by_their_names() -> None:
    assert flat(RESULTS) == {
        "items": 1_000_000,
        "machine / call ms": 0.5,
        "loop / ms": 25.0,
        "loop / times faster": 3.9,
    }


def test_a_figure_stands_beside_its_floor_target_and_verdict() -> None:
    assert figures_grid("Loop", "loop", RESULTS, [FEWER, MORE]).rows == [
        ("ms", "25", "0.5 (a call)", "≤ 25", "met"),
        ("times faster", "3.9", "", "≥ 4", "missed"),
    ]


def test_a_target_without_its_figure_is_shown_and_not_judged() -> None:
    [row] = targets_grid({"items": 1_000_000}, [FEWER]).rows
    assert row == ("loop / ms", "", "a call", "≤ 25", "not measured")


@pytest.mark.parametrize(
    ("target", "verdict"), [(FEWER, "of 1,000,000 items"), (MORE, "met"), (Target("loop / s"), "")]
)
def test_a_target_speaks_of_a_size(target: Target, verdict: str) -> None:
    assert target.verdict(20.0, 100_000) == verdict


def test_targets_are_of_parts_that_are_measured() -> None:
    assert {target.part for target in TARGETS} <= set(PARTS)
    assert max(Counter(target.figure for target in TARGETS).values()) == 1


def test_what_cannot_be_measured_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_room(*_: object) -> dict[str, float]:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000))
        make_pool(tmp_path, 1_000, 8)
        return {}

    def broken(*_: object) -> dict[str, float]:
        raise ValueError("broken")

    parts = {"machine": lambda *_: {"call ms": 1.0}, "large": without_room}
    monkeypatch.setattr(benchmarks, "PARTS", {**parts, "bad": broken, "last": lambda *_: {"s": 2}})
    monkeypatch.setattr(sys, "argv", ["bench", "--out", str(tmp_path), "--items", "1000"])
    assert benchmarks.main() == 1
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["machine"] == {"call ms": 1.0}
    assert found["last"] == {"s": 2}
    assert not {"large", "bad"} & found.keys()
    assert "large / pair p50" in (tmp_path / "RESULTS.md").read_text()


def test_a_page_has_what_was_shown(tmp_path: Path) -> None:
    page = Page(Console(file=io.StringIO()))
    page.add(Grid("Second", ("figure", "value"), [("a", "1")], "A note."))
    page.write(tmp_path / "page.md", "## Now", Grid("First", ("figure", "value"), [("b", "")]))
    assert (tmp_path / "page.md").read_text() == (
        "## Now\n\n"
        "### First\n\n| figure | value |\n| --- | --- |\n| b |   |\n\n"
        "### Second\n\n| figure | value |\n| --- | --- |\n| a | 1 |\n\nA note.\n"
    )


@pytest.mark.parametrize(
    ("value", "text"), [(1234567.0, "1,234,567"), (0.02345, "0.0234"), (25.0, "25"), (999.4, "999")]
)
def test_numbers_have_three_digits_or_all_before_the_point(value: float, text: str) -> None:
    assert number(value) == text
