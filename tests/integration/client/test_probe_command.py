"""`coresift probe` against good servers, refusing ones, dead ones, and one whose Redis is away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.access import TokensFile
from tests.fixtures.certificates import Certificates
from tests.fixtures.redis_topologies import RedisServer
from tests.fixtures.servers import Pools, Replicas, ServerProcess
from tests.fixtures.tcp_proxy import TcpProxy

from coresift.client import Client
from coresift.client.commands.connection import OPTIONS

STEPS = ["ready", "pool", "create", "next", "label", "next again", "progress", "delete"]


def probe(
    *words: str | Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "coresift.client", "probe", *map(str, words)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={key: value for key, value in os.environ.items() if "CORESIFT" not in key}
        | (env or {}),
    )


def shown(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


def canaries(client: Client) -> list[str]:
    """Sessions that probes have left behind."""
    ids = [session.session_id for session in client.list_sessions(page_size=1000)]
    return [session_id for session_id in ids if session_id.startswith("canary-")]


def test_a_good_service(client: Client, replicas: Replicas) -> None:
    first, second = replicas.first.listen, replicas.second.listen
    done = probe("--server", first, "--pool", "things", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = shown(done)
    assert [step["step"] for step in found["steps"]] == STEPS
    assert all(step["ms"] > 0 and not step["error"] for step in found["steps"])
    assert (found["ok"], found["left_behind"], found["server"]) == (True, False, first)
    deleted = [
        event
        for event in replicas.first.events
        if event.get("session_id") == found["session_id"] and event["method"] == "DeleteSession"
    ]
    assert [event["code"] for event in deleted] == ["OK"]

    done = probe("--server", f"{first},{second}", "--all")
    assert done.returncode == 0, done.stderr
    for word in (first, second, *STEPS):
        assert word in done.stdout
    assert canaries(client) == []


def test_a_wrong_pool(service: ServerProcess, client: Client) -> None:
    done = probe("--server", service.listen, "--pool", "nowhere", "--json")
    assert done.returncode == 1
    assert "pool failed: " in done.stderr
    assert "POOL_NOT_FOUND" in done.stderr
    assert [step["step"] for step in shown(done)["steps"]] == STEPS[:2]
    assert canaries(client) == []


def test_a_short_time(service: ServerProcess, client: Client) -> None:
    done = probe("--server", service.listen, "--timeout-s", "0.1", "--json")
    assert done.returncode in (0, 1)  # a fast machine does it in that time
    assert canaries(client) == []


def test_no_server_and_one_of_two(service: ServerProcess) -> None:
    dead = "127.0.0.1:1"
    done = probe("--server", dead)
    assert (done.returncode, "ready failed: " in done.stderr) == (1, True)
    assert "UNAVAILABLE" in done.stderr
    assert "Traceback" not in done.stderr
    both = f"{dead},{service.listen}"
    assert probe("--server", both).returncode == 0  # the service lives
    done = probe("--server", both, "--all", "--json")
    assert done.returncode == 1
    assert [one["ok"] for one in shown(done)] == [False, True]
    assert f"{dead}: ready failed" in done.stderr


def test_one_that_is_broken_off_deletes_its_session(service: ServerProcess, client: Client) -> None:
    """Kubernetes ends a job with SIGTERM, wherever it is."""
    known = {event.get("session_id") for event in service.events}

    def is_made(event: dict[str, Any]) -> bool:
        name = event.get("session_id", "")
        is_new = name.startswith("canary-") and name not in known
        return is_new and event["method"] == "CreateSession"

    with TcpProxy(service.listen) as proxy:
        proxy.delay(200)  # so that there is time between the steps
        command = [sys.executable, "-m", "coresift.client", "probe", "--server", proxy.address]
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            assert service.wait_for(is_made)["code"] == "OK"
            running.terminate()
            assert running.wait(20) == 1
        finally:
            running.kill()
            running.wait()
    assert canaries(client) == []


def test_options_that_contradict_each_other(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").touch()
    done = probe("--cert", tmp_path / "cert.pem")
    assert (done.returncode, "--cert and --key" in done.stderr) == (2, True)
    assert "token_file" in OPTIONS


@pytest.fixture
def guarded(
    pools: Pools, redis_url: str, certificates: Certificates, tmp_path: Path
) -> Iterator[tuple[ServerProcess, TokensFile, list[str]]]:
    """A server with TLS and tokens, its tokens, and options of the command to trust it."""
    file = TokensFile(tmp_path / "tokens.json")
    tokens = [
        file.add("canary", "ops", ["read", "label", "admin"], ["things"]),
        file.add("weak", "ops", ["read", "label"]),
        file.add("idle", "ops", ["read", "admin"]),
        file.add("blind", "ops", pools=["nothing"]),
    ]
    own = certificates.server
    server = ServerProcess(
        *("--pool", pools.things.directory, "--state", redis_url, "--artifacts", tmp_path),
        *("--tokens", file.path, "--tls-cert", own.certificate, "--tls-key", own.key),
    )
    with server:
        yield server, file, tokens


def test_tokens_and_tls(
    guarded: tuple[ServerProcess, TokensFile, list[str]], certificates: Certificates
) -> None:
    server, _, (canary, weak, idle, blind) = guarded
    ca: list[str | Path] = ["--ca", certificates.authority.certificate, "--server", server.listen]

    def ask(token: str | None, *more: str) -> subprocess.CompletedProcess[str]:
        return probe(*ca, *more, env={} if token is None else {"CORESIFT_TOKEN": token})

    assert ask(canary).returncode == 0
    for token, step, reason in (
        (weak, "create", "SCOPE_MISSING"),
        (idle, "next", "SCOPE_MISSING"),  # and the session goes all the same
        (blind, "pool", "no pool is served, or none that the token may see"),
        (None, "pool", "TOKEN_MISSING"),
        ("nonsense", "pool", "TOKEN_INVALID"),
    ):
        done = ask(token, "--json")
        assert done.returncode == 1
        assert f"{step} failed: " in done.stderr, done.stderr
        assert reason in done.stderr
        assert not shown(done)["left_behind"]
        assert canary not in done.stdout + done.stderr
    assert ask(blind, "--pool", "things").returncode == 1
    with Client(
        server.listen, token=canary, ca=certificates.authority.certificate.read_bytes()
    ) as client:
        assert canaries(client) == []
    plain = probe("--server", server.listen)
    assert (plain.returncode, "ready failed: " in plain.stderr) == (1, True)


def test_a_server_whose_redis_is_away(pools: Pools, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as redis:
        options = ["--pool", pools.things.directory, "--artifacts", tmp_path / "artifacts"]
        with ServerProcess(*options, "--state", redis.url) as server:
            assert probe("--server", server.listen).returncode == 0
            redis.kill()
            done = probe("--server", server.listen, "--timeout-s", "3", "--json")
            assert done.returncode == 1
            assert "create failed: " in done.stderr
            assert "STATE_UNAVAILABLE" in done.stderr
            found = shown(done)
            assert found["left_behind"]  # nobody can know
            assert f"session delete {found['session_id']}" in done.stderr
