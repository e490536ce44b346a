"""BLAS kernels: FAISS has NumPy's, and what is promised holds whichever they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.unit.pool import test_pool_canonical

from coresift.server.pool import compute
from coresift.server.pool.kernels import has_wide_kernels

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


@pytest.mark.parametrize("is_wide", [False, True])
@pytest.mark.parametrize("columns", [1, 2, 4, 5, 16, 17, 33])
def test_products_of_any_width(
    columns: int, is_wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, has_wide_kernels.__name__, lambda: is_wide)
    chance = np.random.default_rng(columns)
    X = chance.standard_normal((37, 24), np.float32)
    W = chance.standard_normal((24, columns), np.float32)
    products = compute._products(X, W)
    assert products.shape == (37, columns)
    assert products.dtype == np.float32
    exact = X.astype(np.float64) @ W.astype(np.float64)
    bound = 24 * 2.0**-23 * (np.abs(X) @ np.abs(W))
    assert (np.abs(products - exact) <= bound).all()
