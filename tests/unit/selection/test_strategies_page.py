"""The page of strategies names everything that the registries hold."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from coresift.server.selection import registry
from coresift.server.selection.candidates import CANDIDATE_POLICIES
from coresift.server.selection.registry import BATCH_POLICIES, MIX, STRATEGIES

PAGE = (Path(registry.__file__).parent / "STRATEGIES.md").read_text()
KINDS = {**STRATEGIES, **BATCH_POLICIES, **CANDIDATE_POLICIES}


@pytest.mark.parametrize("name", [*KINDS, MIX])
def test_the_page_has_a_line_for_it(name: str) -> None:
    (line,) = (line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
    for parameter in fields(KINDS[name]) if name != MIX else ():  # type: ignore[arg-type]
        assert f"`{parameter.name}`" in line


def test_the_page_has_no_line_too_many() -> None:
    lines = [line.split("`")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    assert sorted(lines) == sorted([*KINDS, MIX])
