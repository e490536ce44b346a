"""Fixtures for all tests."""

from __future__ import annotations

pytest_plugins = ["fixtures.redis", "fixtures.servers", "fixtures.nearly_right"]
