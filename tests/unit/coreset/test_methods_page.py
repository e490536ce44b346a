"""The page of core-set methods says everything that the registries hold."""

from __future__ import annotations

import re
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from tests.unit.selection.test_strategies_page import is_said

from coresift.server.coreset import methods
from coresift.server.coreset.class_budgets import ClassBudgets
from coresift.server.coreset.methods import METHODS
from coresift.server.coreset.samplers import SAMPLERS
from coresift.server.coreset.sources import Sourced

PAGE = (Path(methods.__file__).parent / "METHODS.md").read_text()
KINDS: dict[str, Any] = {**METHODS, **SAMPLERS}
PARAMETER = re.compile(r"`(\w+)` \(([^)]*)\)")
ONCE = ("signal", "column", "epochs", "runs")
"""Parameters that all methods with a source share; they stand in a list below the table."""


def line_of(name: str) -> str:
    (line,) = (line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
    return line


def parameters_of(name: str) -> list[Field[Any]]:
    return list(fields(KINDS[name]))


def said_once() -> dict[str, str]:
    return dict(re.findall(r"^- " + PARAMETER.pattern, PAGE, re.MULTILINE))


@pytest.mark.parametrize("name", KINDS)
def test_the_page_says_each_parameter_with_default_and_range(name: str) -> None:
    said = dict(PARAMETER.findall(line_of(name)))
    if issubclass(KINDS[name], Sourced):
        said |= said_once()
    parameters = parameters_of(name)
    assert list(said) == [own.name for own in parameters]
    for own in parameters:
        assert is_said(own, said[own.name]), own.name


@pytest.mark.parametrize("name", KINDS)
def test_the_page_names_the_module(name: str) -> None:
    assert line_of(name).split("|")[-2].strip() == KINDS[name].__module__.rpartition(".")[2]


@pytest.mark.parametrize("name", METHODS)
def test_the_page_says_which_way_scores_point(name: str) -> None:
    higher = getattr(METHODS[name], "higher", None)
    assert higher is None or f"| `{name}` | {higher} |" in PAGE


def test_what_is_said_once_holds_for_all() -> None:
    assert tuple(said_once()) == ONCE
    assert [own.name for own in fields(Sourced)] == ["source", *ONCE]


def test_the_page_has_no_line_too_many() -> None:
    lines = [line.split("`")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    assert lines == list(KINDS)


def test_the_page_has_every_rule_of_class_budgets() -> None:
    rules = get_args(get_type_hints(ClassBudgets)["rule"])
    lines = PAGE.partition("## Class budgets")[2].splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| ")][1:] == list(
        rules
    )
