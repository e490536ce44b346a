"""The memory that is left: the machine's, within the container's limit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from platform import libc_ver

import psutil
import pytest

from coresift.server.memory import available_bytes

MIB = 1 << 20


def group(folder: Path, **files: object) -> Path:
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")
    return folder


def test_version_2(tmp_path: Path) -> None:
    stat = f"anon 1\ninactive_file {3 * MIB}\nactive_file 5"
    group(tmp_path, memory__max=100 * MIB, memory__current=40 * MIB, memory__stat=stat)
    assert available_bytes(tmp_path) == 63 * MIB


def test_version_1(tmp_path: Path) -> None:
    files = {"memory__limit_in_bytes": 100 * MIB, "memory__usage_in_bytes": 90 * MIB}
    group(tmp_path, **files, memory__stat=f"total_inactive_file {MIB}")
    assert available_bytes(tmp_path) == 11 * MIB


def test_over_the_limit(tmp_path: Path) -> None:
    group(tmp_path, memory__max=MIB, memory__current=2 * MIB, memory__stat="anon 1")
    assert available_bytes(tmp_path) == 0


@pytest.mark.parametrize("limit", ["max", str((1 << 63) - 4096)])
def test_without_a_limit_the_machine_decides(tmp_path: Path, limit: str) -> None:
    name = "memory__max" if limit == "max" else "memory__limit_in_bytes"
    used = "memory__current" if limit == "max" else "memory__usage_in_bytes"
    group(tmp_path, **{name: limit, used: MIB}, memory__stat="anon 1")
    assert available_bytes(tmp_path) > 64 * MIB
    assert available_bytes(tmp_path) <= psutil.virtual_memory().total


def test_no_group_at_all(tmp_path: Path) -> None:
    assert 0 < available_bytes(tmp_path) <= psutil.virtual_memory().total


PAGES = """
import resource
import numpy as np
from coresift.server.memory import LARGE_BYTES, return_large_blocks

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

return_large_blocks()
size = LARGE_BYTES - 4096
np.ones(size, np.uint8)
before = faults()
for _ in range(20):
    np.ones(size, np.uint8)
print((faults() - before) * resource.getpagesize() / 20 / size)
"""


@pytest.mark.skipif(libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_blocks_that_are_not_large_need_no_new_pages_each_time() -> None:
    ran = subprocess.run([sys.executable, "-c", PAGES], check=True, capture_output=True, text=True)
    assert float(ran.stdout) < 0.1
