"""Pools on torch devices: what tensor cores leave out, and what is refused."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.pools import brute_force, make_pool

from coresift.server.config import resolve_device
from coresift.server.errors import CoresiftError, Reason, StartError
from coresift.server.pool import between, device_compute, tensor_cores
from coresift.server.pool import device as device_module
from coresift.server.pool.device import compute_for, require_room, torch_device
from coresift.server.pool.device_compute import DeviceCompute
from coresift.server.pool.failures import Cancelled
from coresift.server.pool.pool import Pool
from coresift.server.pool.segment import Segment
from coresift.server.pool.tensor_cores import Split, TensorCoreCompute

CPU = torch.device("cpu")
SCALES = st.sampled_from([2.0**-120, 1e-6, 1.0, 300.0, 1e17])


def some_numbers(n: int, d: int, seed: int, *, spread: bool) -> Any:
    """Float32 [n, d]; with ``spread`` over many magnitudes."""
    chance = np.random.default_rng(seed)
    X = chance.standard_normal((n, d))
    return (X * 10 ** chance.uniform(-5, 0, (n, d)) if spread else X).astype(np.float32)


@settings(max_examples=100, deadline=None)
@given(
    c=st.integers(1, 20),
    d=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    spread=st.booleans(),
    scale=SCALES,
    parts=st.sampled_from([1, 2]),
)
def test_split_products_keep_their_bound(
    c: int, d: int, seed: int, spread: bool, scale: float, parts: int
) -> None:
    vectors = some_numbers(c, d, seed, spread=spread) * np.float32(scale)
    vectors[0] = 0
    rows = some_numbers(30, d, seed + 1, spread=spread).astype(np.float16)
    exact = rows.astype(np.float64) @ vectors.astype(np.float64).T
    split = Split.of(vectors, parts, CPU)
    longest = float(np.linalg.norm(rows.astype(np.float64), axis=1).max())
    columns = split.columns(torch.from_numpy(rows)).numpy()
    assert columns.shape == (30, c)
    error = split.error(longest).numpy()
    assert (np.abs(columns - exact) <= error).all()
    assert (np.abs(split.lines(torch.from_numpy(rows)).numpy().T - exact) <= error).all()
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if parts == 2 and not spread and scale > 2.0**-100:  # as good as float32, nearly
        assert (error <= longest * lengths * (d + 40) * 2.0**-22 + d * 2.0**-126).all()


def cut_sum(products: list[float], together: int) -> float:
    """Summed as the coarsest tensor cores do: so many at once, aligned to the largest and cut to
    24 bits, the result too."""
    total = 0.0
    for start in range(0, len(products), together):
        terms = [total, *products[start : start + together]]
        step = math.ldexp(1.0, math.frexp(max(map(abs, terms)))[1] - 24)
        total = math.fsum(math.trunc(term / step) * step for term in terms) if step else 0.0
        _, exponent = math.frexp(total)
        total = math.ldexp(math.trunc(math.ldexp(total, 24 - exponent)), exponent - 24)
    return total


@settings(max_examples=60, deadline=None)
@given(
    d=st.integers(1, 300),
    seed=st.integers(0, 2**32 - 1),
    spread=st.booleans(),
    together=st.sampled_from([4, 8, 16]),
    is_one_sided=st.booleans(),
)
def test_sums_that_are_cut_keep_the_bound(
    d: int, seed: int, spread: bool, together: int, is_one_sided: bool
) -> None:
    w, x = some_numbers(2, d, seed, spread=spread).astype(np.float16)
    if is_one_sided:  # all that is cut adds up
        w, x = abs(w), abs(x)
    split = Split.of(w[None].astype(np.float32), 1, CPU)
    products = [float(a) * float(b) for a, b in zip(split.parts[0].double(), x, strict=True)]
    found = cut_sum(products, together) * float(split.unscale[0])
    exact = math.fsum(float(a) * float(b) for a, b in zip(w, x, strict=True))
    error = float(split.error(math.hypot(*x.astype(np.float64)))[0])
    assert abs(found - exact) <= error


@pytest.fixture(params=[False, True], ids=["", "tensor cores"])
def tensor(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether torch's CPU passes for a device with tensor cores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_module, "has_tensor_cores", lambda _: request.param)
        yield request.param


def some_rows(seed: int, n: int, d: int, dtype: type) -> Any:
    """Few values, copies: many products are equal."""
    chance = np.random.default_rng(seed)
    X = chance.integers(-2, 3, (n, d)) + 0.25
    return X[chance.integers(0, n, n)].astype(dtype)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 80),
    d=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from([np.float16, np.float32]),
    metric=st.sampled_from(["cosine", "ip", "l2"]),
    index=st.sampled_from(["flat", "ivf"]),
    tensor=st.booleans(),
    first=st.sampled_from([7, 10**6]),
    sparse=st.sampled_from([1, 64]),
)
def test_rows_between_are_those_of_a_scan(
    n: int,
    d: int,
    seed: int,
    dtype: type,
    metric: str,
    index: str,
    tensor: bool,
    first: int,
    sparse: int,
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_module, "has_tensor_cores", lambda _: tensor)
        patch.setattr(tensor_cores, "_SPARSE", sparse)
        patch.setattr(between, "FIRST", first)
        X = some_rows(seed, n, d, dtype)
        pool = make_pool(Path(folder), X, metric=metric, index=index, device="torch:cpu")
        w = np.random.default_rng(seed).standard_normal(d).astype(np.float32)
        exact = pool.fetch(np.arange(n)).astype(np.float64) @ w.astype(np.float64)
        error = float(pool._vectors.error(w[None])[0])
        low, high = np.sort(exact)[[n // 4, n // 2]] + [0, error]
        for least, most in ((low, high), (low, math.inf), (-math.inf, high), (high, low - 1)):
            parts = list(pool.between(w, lambda b=(least, most): b))
            rows = np.concatenate([part[0] for part in parts])
            products = np.concatenate([part[1] for part in parts])
            assert rows.dtype == np.int32
            assert products.dtype == np.float32
            assert len(np.unique(rows)) == len(rows)
            assert (np.abs(products - exact[rows]) <= error).all()
            surely = np.flatnonzero((exact >= least + error) & (exact <= most - error))
            maybe = np.flatnonzero((exact >= least - error) & (exact <= most + error))
            assert set(surely) <= set(rows.tolist()) <= set(maybe)


def test_bounds_may_draw_nearer_and_a_stop_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_compute, "_CPU_BLOCK", 1)  # blocks of 64
    monkeypatch.setattr(between, "FIRST", 10)
    X = (np.arange(640, dtype=np.float32) / 640)[:, None]
    pool = make_pool(tmp_path, X, metric="ip", device="torch:cpu")
    low = [-math.inf]
    counts = []
    for rows, products in pool.between(X[-1], lambda: (low[0], math.inf)):
        counts.append(len(rows))
        low[0] = 0.91 * float(X[-1, 0]) if len(products) else low[0]
    assert counts == [10, *[0] * 8, 3, 54]
    with pytest.raises(Cancelled):
        next(pool.between(X[-1], lambda: (0.0, 1.0), stop=lambda: True))
    host = Pool.open(tmp_path / "pool")
    with pytest.raises(TypeError, match="not on a device"):
        next(host.between(X[-1], lambda: (0.0, 1.0)))


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("index", ["flat", "ivf"])
def test_tensor_cores_find_the_neighbours_that_float64_finds(
    tmp_path: Path, metric: str, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sparse pairs, as in large pools: float32 products of some alone."""
    monkeypatch.setattr(device_module, "has_tensor_cores", lambda _: True)
    monkeypatch.setattr(tensor_cores, "_PAIRS", 100)
    alone = []
    pair_values = TensorCoreCompute._pair_values
    monkeypatch.setattr(
        TensorCoreCompute,
        "_pair_values",
        lambda self, *given: alone.append(1) or pair_values(self, *given),
    )
    X = np.random.default_rng(2).standard_normal((6_000, 8)).astype(np.float16)
    X[3_000:] = X[:3_000]
    pool = make_pool(tmp_path, X, metric=metric, index=index, device="torch:cpu")
    queries = pool.fetch(np.array([1, 17, 3_017]))
    rows, similarities = pool.search(queries, 20)
    expected_rows, expected = brute_force(pool, queries, 20)
    assert alone
    assert np.array_equal(rows, expected_rows)
    assert np.array_equal(similarities, expected)


def test_no_room_while_working_is_an_overload(tmp_path: Path, tensor: bool) -> None:
    X = some_rows(0, 50, 3, np.float16)
    pool = make_pool(tmp_path, X, device="torch:cpu")
    compute = pool._vectors.computes[0]
    assert isinstance(compute, TensorCoreCompute if tensor else DeviceCompute)

    class Full:
        def __getitem__(self, _: object) -> object:
            raise torch.OutOfMemoryError

    column = compute.column(np.ones(3, np.float32))
    compute._rows = Full()  # type: ignore[assignment]
    one, none = np.ones((1, 3), np.float32), np.zeros(1, np.float32)
    few = np.arange(5, dtype=np.int32)
    cosines = pool.gathering.cosines(few)
    assert cosines is not None
    for work in (
        lambda: pool.gathering.of(few),
        lambda: cosines.largest(np.arange(2), np.arange(5), (few[:0], few[:0]), none, 1),
        lambda: compute.product(0, 50, one.T),
        lambda: compute.between(0, 50, column, 0.0, 1.0),
        lambda: compute.nearest(0, 50, one, 5, none, none),
    ):
        with pytest.raises(CoresiftError, match="no room left for work") as refusal:
            work()
        assert refusal.value.reason is Reason.OVERLOADED
        assert refusal.value.retry_after_s


def test_no_room_for_the_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(DeviceCompute, "_place", full)
    segment = Segment(0, np.ones((5, 2), np.float32), None, None, unit=False)
    with pytest.raises(StartError, match="no room for 40 bytes of vectors: use --device cpu"):
        DeviceCompute(segment, "ip", CPU)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch says that there are two; its settings are put back."""
    matmul = torch.backends.cuda.matmul
    before = torch.get_float32_matmul_precision(), matmul.allow_fp16_reduced_precision_reduction
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    yield
    torch.set_float32_matmul_precision(before[0])
    matmul.allow_fp16_reduced_precision_reduction = before[1]


@pytest.mark.usefixtures("gpus")
def test_no_settings_that_break_the_bounds() -> None:
    torch.set_float32_matmul_precision("high")  # TF32
    assert torch_device("cuda:1") == torch.device("cuda", 1)
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction


@pytest.mark.usefixtures("gpus")
def test_which_gpu() -> None:
    for name in ("cpu", "cuda", "cuda:0", "cuda:1"):
        assert resolve_device(name) == name
    for name in ("cuda:", "cuda:x", "cuda:-1", "torch:cpu", "", "CUDA"):
        with pytest.raises(StartError, match="must be auto, cpu, cuda or cuda:NUMBER"):
            resolve_device(name)
    with pytest.raises(StartError, match="cuda:2: torch sees 2 CUDA GPUs here"):
        resolve_device("cuda:2")
    with pytest.raises(StartError, match="there is no cuda:2 device"):
        torch_device("cuda:2")


@pytest.mark.usefixtures("gpus")
def test_vectors_need_room_for_work_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10 * 2**30, 16 * 2**30))
    require_room(2**30, "cuda")
    require_room(2**50, "cpu")
    for needed in (2**34, 9 * 2**30):
        with pytest.raises(StartError, match=f"{needed} of vectors need room for work"):
            require_room(needed, "cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**31, 2**40))
    norms = np.ones(5, np.float32)
    segment = Segment(0, np.ones((5, 2), np.float32), norms, None, unit=False)
    with pytest.raises(StartError, match="60 of vectors need room for work"):
        compute_for(segment, "ip", "cuda:1")
