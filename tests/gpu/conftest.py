"""Which device the laws run on here: the GPU, or what CORESIFT_TEST_DEVICE names.

``CORESIFT_TEST_DEVICE=torch:cpu make test-gpu`` runs the code of GPUs on torch's CPU device, which
then passes for one with tensor cores.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.fixtures import pools

from coresift.server.pool import device as device_module

DEVICE = os.environ.get("CORESIFT_TEST_DEVICE", "cuda")


@contextmanager
def living_on(device: str) -> Iterator[str]:
    """Pools of tests that name no device are on this one; skips where it is not there."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device here (or set CORESIFT_TEST_DEVICE=torch:cpu)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pools, "usual_device", device)
        if device == "torch:cpu":
            patch.setattr(device_module, "has_tensor_cores", lambda _: True)
        yield device


@pytest.fixture(scope="module")
def the_gpu() -> Iterator[str]:
    """The device of `make test-gpu`."""
    with living_on(DEVICE) as device:
        yield device


@pytest.fixture(
    scope="module",
    params=["torch:cpu", pytest.param(DEVICE, marks=pytest.mark.gpu, id="the device")],
)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """torch's CPU device in every run, so that nothing rots; and that of `make test-gpu`."""
    with living_on(request.param) as there:
        yield there
