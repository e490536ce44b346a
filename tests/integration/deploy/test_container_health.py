"""`coresift health`, which containers ask of themselves: statuses as exit codes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2_grpc
from tests.fixtures.certificates import Certificates
from tests.fixtures.servers import Pools, ServerProcess
from typer.testing import CliRunner

from coresift.client.cli import build
from coresift.client.commands.shared import Failure, exit_code
from coresift.server.rpc.health import SERVING, Health


def ask(*words: str) -> tuple[int, str]:
    """Exit code and output of the command."""
    try:
        result = CliRunner().invoke(build(), ["health", *words], catch_exceptions=False)
    except Failure as failure:
        return exit_code(failure), str(failure)
    return result.exit_code, result.output


@pytest.mark.parametrize("name", ["readiness", "liveness", "state", "coresift.v1.SelectionService"])
def test_every_name_that_a_probe_may_ask_for_serves(service: ServerProcess, name: str) -> None:
    assert ask(name, "--server", service.listen) == (0, f"{name}: SERVING\n")


def test_readiness_is_what_is_asked_for_unless_another_is_named(service: ServerProcess) -> None:
    assert ask("--server", service.listen) == (0, "readiness: SERVING\n")


def test_an_unknown_name_is_not_found(service: ServerProcess) -> None:
    code, said = ask("readyness", "--server", service.listen)
    assert code == 3
    assert "'readyness'" in said


def test_nobody_there_is_a_code_of_its_own() -> None:
    code, said = ask("--server", "127.0.0.1:1", "--timeout-s", "5")
    assert code == 4
    assert "127.0.0.1:1 does not answer" in said


def test_a_name_that_is_too_long_is_wrong() -> None:
    code, said = ask("x" * 128, "--server", "127.0.0.1:1")
    assert (code, "so long a name" in said) == (2, True)


async def test_a_server_that_drains_answers_no() -> None:
    health, server = Health(), grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        health.set("readiness", SERVING)
        health.leave()
        code, said = await asyncio.to_thread(ask, "--server", address)
    finally:
        await server.stop(None)
    assert (code, said) == (1, "readiness: NOT_SERVING\n")


def test_a_server_with_tls_is_asked_over_tls_or_on_its_plain_port(
    pools: Pools, certificates: Certificates, tmp_path: Path
) -> None:
    pair, trusted = certificates.server, certificates.authority.certificate
    options: list[str | Path] = ["--pool", pools.things.directory, "--data-dir", tmp_path]
    options += ["--tls-cert", pair.certificate, "--tls-key", pair.key]
    with ServerProcess(*options, "--health-listen", "127.0.0.1:0") as server:
        serving = server.wait_for(lambda event: event.get("event") == "serving")
        assert ask("--server", server.listen, "--ca", str(trusted))[0] == 0
        assert ask("--server", server.listen, "--timeout-s", "1")[0] == 4
        assert ask("--server", serving["health"]) == (0, "readiness: SERVING\n")
