"""The registry: what is asked for by name, and what is said of names that do not exist."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from tests.fixtures.pools import make_pool

from coresift.server.errors import CoresiftError, Reason
from coresift.server.head import Task
from coresift.server.pool.pool import Pool
from coresift.server.selection.batch import Top
from coresift.server.selection.registry import (
    BATCH_POLICIES,
    MIX,
    STRATEGIES,
    Choice,
    batch_policy_of,
    check_strategy,
    strategy_of,
)
from coresift.server.selection.strategy import Setting
from coresift.server.selection.uncertainty import Margin


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    X = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    return make_pool(tmp_path_factory.mktemp("pool"), X)


def test_a_choice_is_a_frozen_value_of_its_kind() -> None:
    assert strategy_of(Choice("margin", (("over", "max"),))) == Margin("max")
    assert batch_policy_of(Choice("top")) == Top()
    assert MIX not in STRATEGIES


def test_a_choice_survives_the_store() -> None:
    choice = Choice("signal", (("name", "loss"), ("order", "smallest")))
    packed = {"name": "signal", "params": [["name", "loss"], ["order", "smallest"]]}
    assert Choice.unpack(packed) == choice


def test_names_that_do_not_exist_are_answered_with_those_that_do() -> None:
    for name in ("", "Margin", "mix", "entropy"):
        with pytest.raises(CoresiftError) as caught:
            strategy_of(Choice(name))
        assert caught.value.reason is Reason.UNKNOWN_METHOD
        assert caught.value.field == "config.strategy.name"
        assert caught.value.metadata["valid"].split(",") == [*STRATEGIES, MIX]
        assert f"no strategy {name!r}; valid are random, max_entropy" in caught.value.message
        with pytest.raises(CoresiftError) as caught:
            batch_policy_of(Choice(name), "config.batch")
        assert caught.value.reason is Reason.UNKNOWN_METHOD
        assert caught.value.field == "config.batch.name"
        assert caught.value.metadata["valid"].split(",") == [*BATCH_POLICIES]


def test_a_parameter_that_does_not_exist_is_answered_with_those_that_do() -> None:
    for name, kind in STRATEGIES.items():
        with pytest.raises(CoresiftError) as caught:
            strategy_of(Choice(name, (("sea", 1.0),)))
        assert caught.value.field == "config.strategy.params.sea"
        valid = ", ".join(own.name for own in fields(kind)) or "none"
        assert caught.value.message.endswith(f"valid are {valid}")


@pytest.mark.parametrize("task", Task)
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_that_does_not_fit_the_task_names_those_that_do(
    pool: Pool, name: str, task: Task
) -> None:
    params = (("name", "loss"),) if name == "signal" else ()
    setting = Setting(task, 1 if task is Task.BINARY else 3, pool)
    if task in STRATEGIES[name].tasks:
        if name == "ens":  # its own refusal: see below
            return
        check_strategy(Choice(name, params), setting)
        return
    with pytest.raises(CoresiftError) as caught:
        check_strategy(Choice(name, params), setting)
    assert (caught.value.reason, caught.value.field) == (
        Reason.INVALID_FIELD,
        "config.strategy.name",
    )
    fitting = caught.value.message.rpartition("valid for this one are ")[2].split(", ")
    assert fitting == [other for other, kind in STRATEGIES.items() if task in kind.tasks]


def test_a_strategy_that_reads_neighbours_needs_their_table(
    pool: Pool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    X = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    built = make_pool(tmp_path_factory.mktemp("built"), X, neighbours=9)
    choice = Choice("ens", (("neighbours", 9.0),))
    check_strategy(choice, Setting(Task.BINARY, 1, built))
    for there, wanted in ((built, 10.0), (pool, 9.0)):
        with pytest.raises(CoresiftError, match=f"--neighbours {wanted:g}") as caught:
            check_strategy(
                Choice("ens", (("neighbours", wanted),)), Setting(Task.BINARY, 1, there), "here"
            )
        assert (caught.value.reason, caught.value.field) == (Reason.POOL_LACKS_NEIGHBOURS, "here")


def test_an_objection_is_about_the_session(pool: Pool) -> None:
    with pytest.raises(CoresiftError, match="only on a multilabel task") as caught:
        check_strategy(Choice("margin", (("over", "max"),)), Setting(Task.BINARY, 1, pool), "here")
    assert (caught.value.reason, caught.value.field) == (Reason.INVALID_FIELD, "here")
