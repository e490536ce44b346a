"""A real server, started as the manifests start it: probes, canary and export find it well."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.fixtures.access import TokensFile
from tests.fixtures.certificates import Certificates
from tests.fixtures.private_redis import private_redis
from tests.fixtures.servers import Pools, ServerProcess
from tests.integration.deploy.manifests import (
    SERVING,
    Resource,
    resources,
    server,
    settings,
    workloads,
)

Response = health_pb2.HealthCheckResponse
KINDS = ("startupProbe", "readinessProbe", "livenessProbe")


def asked(listen: str, probe: Resource) -> str:
    """What a probe is told: a status by name, or the code of a refusal."""
    with grpc.insecure_channel(listen, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        request = health_pb2.HealthCheckRequest(service=probe["grpc"]["service"])
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(request, timeout=probe["timeoutSeconds"])
        except grpc.RpcError as error:
            code: str = error.code().name
            return code
        return str(Response.ServingStatus.Name(answer.status))


class Mounts:
    """Folders of this machine in the place of volumes; `here` finds them in a setting."""

    def __init__(self, folder: Path, certificates: Certificates, pool: Path) -> None:
        self._folder = folder
        tls, tokens, token = (self._made(f"/etc/coresift/{n}") for n in ("tls", "tokens", "token"))
        (tls / "tls.crt").write_bytes(certificates.server.certificate.read_bytes())
        (tls / "tls.key").write_bytes(certificates.server.key.read_bytes())
        (tls / "ca.crt").write_bytes(certificates.authority.certificate.read_bytes())
        secret = TokensFile(tokens / "tokens.json").add("canary")
        (token / "token").write_text(secret)
        shutil.copytree(pool, self._made("/pools/photos") / "v1")
        for place in ("/artifacts", "/exports", "/data"):
            self._made(place)

    def _made(self, place: str) -> Path:
        (self._folder / place[1:]).mkdir(parents=True)
        return self._folder / place[1:]

    def here(self, value: str) -> str:
        """A setting with a folder of this machine in it, or as it is."""
        value = value.replace("s3://bucket", "")
        return f"{self._folder}{value}" if value.startswith("/") else value


def environment(overlay: str, container: Resource, mounts: Mounts) -> dict[str, str]:
    """What a container of an overlay has, but for what only a cluster has."""
    given = {name: mounts.here(value) for name, value in settings(overlay, container).items()}
    return given | {name: "127.0.0.1:0" for name in given if name.endswith("_LISTEN")}


def arguments(container: Resource, given: dict[str, str]) -> list[str]:
    """What it runs, filled in as Kubernetes does it."""
    words: list[str] = container["args"]
    for name, value in given.items():
        words = [word.replace(f"$({name})", value) for word in words]
    return words


def run_job(overlay: str, name: str, mounts: Mounts, more: dict[str, str]) -> str:
    """What a CronJob's container says; it must end well."""
    [work] = [work for work in workloads(resources(overlay)) if work.name == f"CronJob/{name}"]
    [container] = work.containers
    given = environment(overlay, container, mounts) | more
    done = subprocess.run(
        [sys.executable, "-m", "coresift.client", *arguments(container, given)],
        env=os.environ | given,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """Nobody else's: the export takes every session that there is."""
    with private_redis(tmp_path / "state") as url:
        yield url


@pytest.mark.parametrize(
    ("overlay", "demands"),
    [
        pytest.param("cpu", False, id="plain"),
        pytest.param("ha", True, id="certificates of both sides, and tokens"),
    ],
)
def test_a_server_as_the_manifests_start_it(
    overlay: str,
    demands: bool,
    pools: Pools,
    redis_url: str,
    tmp_path: Path,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mounts = Mounts(tmp_path, certificates, pools.growing.directory)
    [container] = server(overlay).pod["containers"]
    probes = {kind: container[kind] for kind in KINDS}
    given = environment(overlay, container, mounts)
    more: dict[str, str] = {}
    if demands:  # as settings.env of components/tls says it
        given["CORESIFT_TLS_CLIENT_CA"] = mounts.here("/etc/coresift/tls/ca.crt")
        more["CORESIFT_CERT"] = str(certificates.client.certificate)
        more["CORESIFT_KEY"] = str(certificates.client.key)
    # One Redis here, which the manifest's secret would name.
    given |= {"CORESIFT_STATE": redis_url, "CORESIFT_STATE_MIN_REPLICAS": "0"}
    words = arguments(container, given)
    assert words.pop(0) == "serve"
    with monkeypatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        replica = ServerProcess(*words).launch()
    try:
        serving = replica.wait_for(lambda event: event.get("event") == "serving")
        replica.listen = serving["listen"]
        health = serving["health"]
        assert {asked(health, probe) for probe in probes.values()} == {"SERVING"}
        # A name that is misspelt would be noticed.
        odd = {"grpc": {"service": "ready"}, "timeoutSeconds": 2}
        assert asked(health, odd) == "NOT_FOUND"
        # Probes bear no certificate: the port of the service would not do.
        on_the_service = asked(replica.listen, probes["readinessProbe"])
        assert on_the_service == ("UNAVAILABLE" if demands else "SERVING")
        if demands:  # plain, they need less
            more["CORESIFT_SERVER"] = replica.listen
            assert "delete" in run_job(overlay, "coresift-probe", mounts, more)
            run_job(overlay, "coresift-export", mounts, more)
    finally:
        replica.terminate()
        assert replica.wait() == 0


def test_no_overlay_probes_differently() -> None:
    """What the test above asks of two overlays holds for all: they differ in patience alone."""
    [first, *others] = (
        {kind: server(overlay).pod["containers"][0][kind]["grpc"] for kind in KINDS}
        for overlay in SERVING
    )
    assert all(other == first for other in others)
