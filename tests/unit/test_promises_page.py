"""The page of promises names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "tests" / "fault" / "PROMISES.md").read_text()


def test_what_the_page_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/.]+)`", PAGE)
    assert len(named) > 30
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_attack_is_on_the_page() -> None:
    attacks = {f"tests/fault/{path.name}" for path in (ROOT / "tests" / "fault").glob("test_*.py")}
    of_the_tools = {"tests/fault/test_tcp_proxy.py"}
    assert attacks - of_the_tools <= set(re.findall(r"`(tests/[\w/.]+)`", PAGE))
