"""Cores: what the process may run on, within its container's quota."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coresift.server.cores import usable_cores

ALL = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, ALL),
        ({"cpu.max": f"{ALL + 3}00000 100000"}, ALL),
        ({"cpu.max": "broken"}, ALL),
        ({"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}, ALL),
        ({"cpu.cfs_quota_us": "25000", "cpu.cfs_period_us": "100000"}, 1),
        ({}, ALL),
    ],
)
def test_the_quota_of_a_container(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    assert usable_cores([tmp_path]) == cores


def test_the_tightest_of_the_groups_counts(tmp_path: Path) -> None:
    for name, text in (("wide", "max 100000"), ("tight", "100000 100000")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cpu.max").write_text(text)
    assert usable_cores([tmp_path / "wide", tmp_path / "tight"]) == 1


def test_this_process_has_at_least_one_and_no_more_than_it_may_run_on() -> None:
    assert 1 <= usable_cores() <= ALL
