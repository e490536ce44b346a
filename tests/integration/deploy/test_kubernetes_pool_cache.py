"""The cache of pools ends before the volume that it lies on."""

from __future__ import annotations

import pytest
from tests.integration.deploy.manifests import server, settings

GIB = 2**30


@pytest.mark.parametrize("overlay", ["ha", "ha-external"])
def test_the_cache_is_smaller_than_its_volume(overlay: str) -> None:
    pod = server(overlay).pod
    [container] = pod["containers"]
    given = settings(overlay, container)
    [volume] = [each for each in pod["volumes"] if each["name"] == "pools"]
    [mount] = [each for each in container["volumeMounts"] if each["name"] == "pools"]
    assert mount["mountPath"] == given["CORESIFT_POOL_CACHE"]
    size = volume["emptyDir"]["sizeLimit"]
    assert size.endswith("Gi")
    bound = int(given["CORESIFT_POOL_CACHE_BYTES"])
    assert 0.8 * int(size[:-2]) * GIB <= bound <= 0.95 * int(size[:-2]) * GIB
