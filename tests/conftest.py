"""Fixtures for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import scipy.linalg  # noqa: F401 - its BLAS must be there to be limited

from coresift.server.pool.parallel import limit_blas

pytest_plugins = [
    "tests.fixtures.certificates",
    "tests.fixtures.object_store",
    "tests.fixtures.pool_versions",
    "tests.fixtures.redis",
    "tests.fixtures.servers",
    "tests.fixtures.nearly_right",
]

limit_blas()  # as in the server: on a busy machine BLAS threads wait for each other


@pytest.fixture(scope="session")
def clinc150() -> Path:
    """The data of the demo."""
    return Path(__file__).parent / "data" / "clinc150"
