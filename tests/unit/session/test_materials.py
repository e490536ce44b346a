"""What a configuration refers to: hash orders, the validation slice, filters, groups, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.pools import make_pool

from coresift.server.artifacts import Artifacts
from coresift.server.errors import CoresiftError, Reason
from coresift.server.head import Head, Task
from coresift.server.pool.pool import Pool
from coresift.server.selection.priority import random_order
from coresift.server.session.setup.config import GroupRule, SessionConfig, SignalFile
from coresift.server.session.setup.materials import HashOrder, Loader
from coresift.server.session.setup.pools import Pools

N = 40


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    X = np.random.default_rng(2).standard_normal((N, 4)).astype(np.float32)
    metadata: list[dict[str, Any]] = [
        {"split": ("train", "test")[row % 4 == 3]} | ({"video": row // 5} if row < 35 else {})
        for row in range(N)
    ]
    return make_pool(tmp_path_factory.mktemp("pool"), X, metadata=metadata)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return Artifacts(str(tmp_path_factory.mktemp("artifacts")))


@pytest.fixture(scope="module")
def loader(pool: Pool, artifacts: Artifacts) -> Loader:
    return Loader(Pools([pool]), artifacts)


def a_config(pool: Pool, **fields: Any) -> SessionConfig:
    manifest = pool.manifest
    known = {"task": Task.BINARY, "classes": ("no", "yes")} | fields
    return SessionConfig(manifest.name, manifest.version, **known)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    items=st.integers(1, 400),
    share=st.sampled_from([None, 0.01, 0.3, 1.0]),
    counts=st.lists(st.integers(0, 450), min_size=1, max_size=8),
)
def test_a_hash_order_is_the_random_order_under_a_mask(
    seed: int, items: int, share: float | None, counts: list[int]
) -> None:
    """However its beginnings are asked for, one after the other."""
    eligible = None
    if share is not None:
        eligible = np.random.default_rng(seed % 2**32).random(items) < share
        eligible[seed % items] = True
    whole = random_order(seed, "x", items, items).tolist()
    expected = [row for row in whole if eligible is None or eligible[row]]
    order = HashOrder(seed, "x", items, eligible)
    assert order.length == len(expected)
    for count in counts:
        first = order.first(count)
        assert first.dtype == np.int32
        assert first.tolist() == expected[:count]


def test_an_order_that_nothing_may_enter_is_empty() -> None:
    order = HashOrder(1, "x", 10, np.zeros(10, np.bool_))
    assert order.length == 0
    assert order.first(5).tolist() == []


def test_materials_are_those_of_the_configuration(pool: Pool, loader: Loader) -> None:
    plain = loader.load(a_config(pool, seed=4))
    assert plain.eligible is None
    assert plain.groups is None
    assert plain.prior is None
    assert plain.eligible_items == N
    assert len(plain.validation) == 0
    everything = random_order(4, "explore", N, N).tolist()
    assert plain.order.first(N).tolist() == everything
    assert plain.groups_of(np.array([3, 4], np.int32)).tolist() == [-1, -1]
    config = a_config(
        pool,
        seed=4,
        filter="split == 'train'",
        groups=GroupRule("video"),
        validation_size=6,
    )
    full = loader.load(config)
    admitted = [row for row in range(N) if row % 4 != 3]
    assert full.eligible is not None
    assert np.flatnonzero(full.eligible).tolist() == admitted
    assert full.eligible_items == len(admitted)
    assert full.admits(np.array([2, 3, 8, 7], np.int32)).tolist() == [2, 8]
    assert full.order.first(N).tolist() == [row for row in everything if row in admitted]
    slice_ = [row for row in random_order(4, "validation", N, N).tolist() if row in admitted]
    assert full.validation.tolist() == slice_[:6]
    assert full.random(4, "fill").first(N).tolist() == [
        row for row in random_order(4, "fill", N, N).tolist() if row in admitted
    ]
    rows = np.array([0, 4, 5, 34, 35], np.int32)
    assert full.groups_of(rows).tolist() == [0, 0, 1, 6, -1]


def test_the_slice_is_all_there_is_where_more_is_asked_for(pool: Pool, loader: Loader) -> None:
    found = loader.load(a_config(pool, validation_size=1_000, filter="split == 'test'"))
    assert sorted(found.validation.tolist()) == list(range(3, N, 4))


def test_signals_and_a_prior_come_from_their_files(
    pool: Pool, artifacts: Artifacts, loader: Loader
) -> None:
    values = np.arange(N, dtype=np.float32) / 7
    table = pa.table({"loss": values, "gain": -values})
    stored = artifacts.put("signals", table)
    prior = Head(Task.BINARY, np.ones((1, 4)), np.array([0.5]), np.ones(1, np.bool_))
    kept = loader.keep_prior(prior)
    assert loader.keep_prior(prior) == kept
    files = (SignalFile("s/loss", stored.content_hash, "loss"),)
    found = loader.load(a_config(pool, signals=files, prior_head=kept))
    assert list(found.signals) == ["s/loss"]
    assert found.signals["s/loss"].dtype == np.float32
    np.testing.assert_array_equal(found.signals["s/loss"], values)
    assert found.prior is not None
    assert found.prior.weights.tobytes() == prior.weights.tobytes()
    assert found.prior.bias.tobytes() == prior.bias.tobytes()
    for fields in (
        {"signals": (SignalFile("s/loss", "ab" * 32, "loss"),)},
        {"prior_head": "cd" * 32},
    ):
        with pytest.raises(CoresiftError) as caught:
            loader.load(a_config(pool, **fields))
        assert caught.value.reason is Reason.ARTIFACT_MISSING


def test_files_of_other_pools_and_sessions_are_refused(
    pool: Pool, artifacts: Artifacts, loader: Loader
) -> None:
    """A session that was imported names them by their hashes."""
    values = np.zeros(N + 1, np.float32)
    long = artifacts.put("signals", pa.table({"loss": values})).content_hash
    fitting = artifacts.put("signals", pa.table({"loss": values[1:]})).content_hash
    heads = [
        Head(Task.BINARY, np.ones((1, 5)), np.zeros(1), np.ones(1, np.bool_)),
        Head(Task.MULTICLASS, np.ones((1, 4)), np.zeros(1), np.ones(1, np.bool_)),
    ]
    for fields in (
        {"signals": (SignalFile("s/loss", long, "loss"),)},
        {"signals": (SignalFile("s/loss", fitting, "gain"),)},
        *({"prior_head": loader.keep_prior(head)} for head in heads),
    ):
        with pytest.raises(CoresiftError) as caught:
            loader.load(a_config(pool, **fields))
        assert caught.value.reason is Reason.ARTIFACT_MISSING


@pytest.mark.parametrize("name", ["../private", "../nothing", "ab" * 32, ""])
def test_no_file_outside_is_read_removed_or_told_of(artifacts: Artifacts, name: str) -> None:
    file = Path(artifacts.put("heads", pa.table({"head": [b""]})).uri.removeprefix("file://"))
    root = file.parent.parent
    outside = root / "private.parquet"
    outside.write_bytes(b"x")
    with pytest.raises(CoresiftError) as caught:
        artifacts.get("heads", name)
    assert caught.value.reason is Reason.ARTIFACT_MISSING
    assert str(root) not in caught.value.message
    assert "bytes" not in caught.value.message
    artifacts.remove("heads", name)
    assert outside.exists()


def test_a_pool_version_that_is_not_here_is_named(loader: Loader) -> None:
    config = SessionConfig("pool", "0" * 32, Task.BINARY, ("no", "yes"))
    with pytest.raises(CoresiftError) as caught:
        loader.load(config)
    assert caught.value.reason is Reason.POOL_VERSION_NOT_LOADED
