"""BLAS kernels: FAISS has NumPy's, and what is promised holds whichever they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.pool import test_pool_canonical

NUMPYS_AND_FAISS = """
import os
from coresift.server.pool.kernels import import_faiss
import_faiss()
from threadpoolctl import threadpool_info
for library in threadpool_info():
    is_looked_at = any(name in library["filepath"] for name in ("numpy", "faiss"))
    if library["internal_api"] == "openblas" and is_looked_at:
        print(library["architecture"])
print(os.environ.get("OPENBLAS_CORETYPE"))
"""
HAVE_AVX512 = " avx512bw " in Path("/proc/cpuinfo").read_text()


def on_kernels(name: str | None, *words: str) -> str:
    """What a Python of its own prints, whose OpenBLAS has been told this name of kernels."""
    environment = {key: word for key, word in os.environ.items() if key != "OPENBLAS_CORETYPE"}
    if name is not None:
        environment["OPENBLAS_CORETYPE"] = name
    command = [sys.executable, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_faiss_takes_the_kernels_that_numpy_has() -> None:
    *kernels, left = on_kernels(None, "-c", NUMPYS_AND_FAISS).split()
    assert len(set(kernels)) <= 1, kernels
    assert left == "None"


def test_a_name_from_outside_stands() -> None:
    assert on_kernels("Haswell", "-c", NUMPYS_AND_FAISS).split()[-1] == "Haswell"


@pytest.mark.parametrize("name", ["Haswell", "SkylakeX"])
def test_canonical_numbers_stand_alone_on_all_kernels(name: str) -> None:
    if name == "SkylakeX" and not HAVE_AVX512:
        pytest.skip("the processor has no AVX-512")
    on_kernels(name, "-m", "pytest", "-q", test_pool_canonical.__file__)
