"""Fixtures for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["tests.fixtures.redis", "tests.fixtures.servers", "tests.fixtures.nearly_right"]


@pytest.fixture(scope="session")
def clinc150() -> Path:
    """The data of the demo."""
    return Path(__file__).parent / "data" / "clinc150"
