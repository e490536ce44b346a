from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TESTS = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """The independent implementation of the protocol."""
    name = "coresift_reference_protocol"
    spec = importlib.util.spec_from_file_location(name, TESTS / "reference" / "protocol.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
