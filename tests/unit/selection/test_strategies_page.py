"""The page of strategies says everything that the registries hold."""

from __future__ import annotations

import re
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import pytest

from coresift.server.selection import registry
from coresift.server.selection.candidates import CANDIDATE_POLICIES
from coresift.server.selection.registry import BATCH_POLICIES, MIX, STRATEGIES

PAGE = (Path(registry.__file__).parent / "STRATEGIES.md").read_text()
KINDS = {**STRATEGIES, **BATCH_POLICIES, **CANDIDATE_POLICIES}


def line_of(name: str) -> str:
    (line,) = (line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
    return line


def is_said(own: Field[Any], text: str) -> bool:
    """Whether the text in a parameter's brackets is its default and range; what 0 means may stand
    behind a colon."""
    choices = own.metadata["choices"]
    if own.default is MISSING:
        return text == "required"
    if choices:
        return text == f"{own.default}; {', '.join(choices)}"
    if own.type == "bool":
        return text == str(own.default).lower()
    if own.type == "str":
        return text == (own.default or "none")
    default, ends = text.split(", ")
    low, high = ends.split("..")
    said = [float(number) for number in (default.partition(":")[0], low, high)]
    return said == [own.default, own.metadata["low"], own.metadata["high"]]


@pytest.mark.parametrize("name", KINDS)
def test_the_page_says_each_parameter_with_default_and_range(name: str) -> None:
    line = line_of(name)
    parameters = fields(KINDS[name])  # type: ignore[arg-type]  # a dataclass
    said = dict(re.findall(r"`(\w+)` \(([^)]*)\)", line))
    assert list(said) == [own.name for own in parameters]
    for own in parameters:
        assert is_said(own, said[own.name]), own.name


def test_the_page_has_a_line_for_mixes() -> None:
    assert "`shares`" in line_of(MIX)


def test_the_page_has_no_line_too_many() -> None:
    lines = [line.split("`")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    assert sorted(lines) == sorted([*KINDS, MIX])
