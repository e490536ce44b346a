"""Products with rows, and their widening: by NumPy or compiled, the same promises."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coresift.server.pool import compiled, row_kernels
from coresift.server.pool.kernels import has_wide_kernels
from coresift.server.pool.row_kernels import MANY, MOST_COLUMNS, RowKernels, compiling

FINITE = np.arange(2**16, dtype=np.uint16)
FINITE = FINITE[np.isfinite(FINITE.view(np.float16))].view(np.float16)
NO_NUMBA = """
import sys
import numpy as np
from coresift.server.pool.row_kernels import RowKernels
for dtype in (np.float16, np.float32):
    RowKernels(1000).product(np.ones((10, 100), dtype), np.ones((100, 2), np.float32))
print("numba" in sys.modules)
"""


@pytest.fixture(params=["numpy, AVX-512", "numpy", "compiled"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RowKernels:
    if request.param == "compiled":
        assert compiling().result()
        return RowKernels(MANY)
    wide = request.param == "numpy, AVX-512"
    monkeypatch.setattr(row_kernels, has_wide_kernels.__name__, lambda: wide)
    return RowKernels(MANY - 1)


def assert_bounded(products: np.ndarray, X: np.ndarray, W: np.ndarray) -> None:
    assert products.shape == (len(X), W.shape[1])
    assert products.dtype == np.float32
    X, W = X.astype(np.float64), W.astype(np.float64)
    bound = X.shape[1] * 2.0**-23 * (np.abs(X) @ np.abs(W)) + X.shape[1] * 2.0**-126
    assert (np.abs(products - X @ W) <= bound).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5, 8, 10, 16, 17, 33, MOST_COLUMNS + 1])
@pytest.mark.parametrize("shape", [(0, 8), (1, 1), (37, 24), (613, 130), (3, 70_000)])
def test_products_of_any_shape(
    kernels: RowKernels, shape: tuple[int, int], columns: int, dtype: type
) -> None:
    chance = np.random.default_rng(columns)
    X = chance.standard_normal(shape, np.float32).astype(dtype)
    W = chance.standard_normal((shape[1], columns), np.float32)
    assert_bounded(kernels.product(X, W), X, W)


@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-40, 15), columns=st.integers(1, 9))
def test_compiled_products_of_numbers_of_any_size(seed: int, exponent: int, columns: int) -> None:
    assert compiling().result()
    chance = np.random.default_rng(seed)
    W = np.ldexp(chance.standard_normal((19, columns)), -exponent).astype(np.float32)
    X = np.ldexp(chance.standard_normal((9, 19)), exponent).astype(np.float32)
    assert_bounded(RowKernels(MANY).product(X, W), X, W)
    half = chance.choice(FINITE, (9, 19))
    assert_bounded(RowKernels(MANY).product(half, W), half, W)


def test_rows_in_pieces(kernels: RowKernels) -> None:
    X = np.random.default_rng(0).standard_normal((90, 40), np.float32)
    W = np.asfortranarray(X[:40, :6])
    for rows in (X[::3], X[:, ::2], np.asfortranarray(X)):
        assert_bounded(kernels.product(rows, W[: rows.shape[1]]), rows, W[: rows.shape[1]])


def test_every_float16_is_widened_exactly(kernels: RowKernels) -> None:
    X = FINITE[: 1984 * 32].reshape(1984, 32)
    exact = X.astype(np.float32).tobytes()
    assert kernels.widen(X).tobytes() == exact
    assert kernels.in_scratch(X).tobytes() == exact
    out = np.empty(X.shape, np.float32)
    assert kernels.widen(X, out) is out
    assert out.tobytes() == exact


def test_float32_is_not_copied(kernels: RowKernels) -> None:
    X = np.ones((4, 4), np.float32)
    assert kernels.widen(X) is X
    assert kernels.in_scratch(X) is X


@pytest.mark.parametrize("answer", ["pending", "failed"])
def test_numpy_does_it_until_they_are_there(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    future: Future[None] = Future()
    if answer == "failed":
        future.set_result(None)
    monkeypatch.setattr(row_kernels, "compiling", lambda: future)
    X = np.random.default_rng(0).standard_normal((50, 20), np.float32)
    for rows in (X, X.astype(np.float16)):
        assert_bounded(RowKernels(MANY).product(rows, X[:20, :3]), rows, X[:20, :3])


def test_what_cannot_be_compiled_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(row_kernels, "COMPILED", "coresift.server.pool.no_such_kernels")
    assert compiling.__wrapped__().result() is None
    assert "no_such_kernels" in capsys.readouterr().out


def test_what_cannot_be_kept_is_compiled(tmp_path: Path) -> None:
    """As in a container without a place to write."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    (folder / "compiled.py").write_bytes(Path(compiled.__file__).read_bytes())
    (folder / "__pycache__").write_text("in the way")
    home = tmp_path / "home"
    home.write_text("no directory")
    subprocess.run(
        [sys.executable, "-c", "import compiled"],
        cwd=folder,
        env={**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home)},
        check=True,
    )
    assert [path.name for path in folder.rglob("*.nbc")] == []


def test_small_pools_do_without_a_compiler() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_NUMBA], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
