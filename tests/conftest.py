"""Fixtures for all tests."""

from __future__ import annotations

pytest_plugins = ["tests.fixtures.redis", "tests.fixtures.servers", "tests.fixtures.nearly_right"]
