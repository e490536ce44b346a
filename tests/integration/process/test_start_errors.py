"""A server that cannot start says why in one line and ends with exit code 1."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fixtures.servers import Pools, ServerProcess

from coresift.server.state.redis_binary import runnable_binaries


def outcome(*options: str | Path) -> str:
    """The last words of a server that must not start."""
    server = ServerProcess(*options).launch()
    assert server.wait() == 1, (server.events, server.other_lines)
    assert not any(event.get("event") == "serving" for event in server.events)
    [line] = server.other_lines
    assert line.startswith("coresift serve: ")
    return line


@pytest.fixture
def taken() -> Iterator[str]:
    """An address that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a redis-server with the given options."""
    folder = tmp_path / "redis"
    folder.mkdir()
    path = folder / "s"
    command = [str(runnable_binaries()[0].path), "--port", "0", "--unixsocket", str(path)]
    process = subprocess.Popen(
        [*command, "--dir", str(folder), "--save", "", *request.param],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "eady to accept connections" in line:
                break
        yield f"unix://{path}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_port_taken(pools: Pools, tmp_path: Path, taken: str) -> None:
    line = outcome("--pool", pools.things.directory, "--data-dir", tmp_path, "--listen", taken)
    assert f"cannot listen on {taken}: Address already in use" in line


def test_metrics_port_taken(pools: Pools, tmp_path: Path, taken: str) -> None:
    options = ("--pool", pools.things.directory, "--data-dir", tmp_path)
    assert f"{taken} for metrics" in outcome(*options, "--metrics-listen", taken)


@pytest.mark.parametrize(
    ("option", "value"), [("--listen", "50051"), ("--metrics-listen", "localhost:99999")]
)
def test_malformed_address(pools: Pools, tmp_path: Path, option: str, value: str) -> None:
    options = ("--pool", pools.things.directory, "--data-dir", tmp_path, option, value)
    assert f"{option} must be HOST:PORT, got {value!r}" in outcome(*options)


def test_hosts_that_are_not_ours(pools: Pools, tmp_path: Path) -> None:
    options = ("--pool", pools.things.directory, "--data-dir", tmp_path)
    assert "Cannot assign" in outcome(*options, "--listen", "192.0.2.1:50051")
    assert "cannot listen on nowhere.invalid:1" in outcome(
        *options, "--listen", "nowhere.invalid:1"
    )


def test_pool_missing(tmp_path: Path) -> None:
    line = outcome("--pool", tmp_path / "sea", "--data-dir", tmp_path)
    assert str(tmp_path / "sea") in line


def test_pool_damaged(pools: Pools, tmp_path: Path) -> None:
    copy = tmp_path / "pool"
    shutil.copytree(pools.things.directory, copy)
    [segment] = [file for file in copy.iterdir() if file.name.startswith("segment-0")][:1]
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.chmod(0o600)
    segment.write_bytes(data)
    line = outcome("--pool", copy, "--data-dir", tmp_path)
    assert segment.name in line


def test_pool_given_twice(pools: Pools, tmp_path: Path) -> None:
    twice = ("--pool", pools.things.directory) * 2
    assert "given twice" in outcome(*twice, "--data-dir", tmp_path)


def test_redis_unreachable(pools: Pools, tmp_path: Path) -> None:
    options = ("--pool", pools.things.directory, "--data-dir", tmp_path)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but nobody listens
        url = f"redis://127.0.0.1:{unused.getsockname()[1]}"
        assert "does not answer" in outcome(*options, "--state", url)


def test_malformed_state_url(pools: Pools, tmp_path: Path) -> None:
    options = ("--pool", pools.things.directory, "--data-dir", tmp_path)
    assert "state URL" in outcome(*options, "--state", "sea")


@pytest.mark.parametrize(
    "redis",
    [["--appendonly", "yes", "--maxmemory-policy", "allkeys-lru", "--maxmemory", "100mb"]],
    indirect=True,
)
def test_redis_that_evicts(pools: Pools, tmp_path: Path, redis: str) -> None:
    options = ("--pool", pools.things.directory, "--data-dir", tmp_path, "--state", redis)
    assert "maxmemory-policy noeviction" in outcome(*options)
    assert "maxmemory-policy noeviction" in outcome(*options, "--state-volatile")


@pytest.mark.parametrize("redis", [["--appendonly", "no"]], indirect=True)
def test_redis_without_aof_needs_a_flag(pools: Pools, tmp_path: Path, redis: str) -> None:
    options = ("--pool", pools.things.directory, "--data-dir", tmp_path, "--state", redis)
    assert "--state-volatile" in outcome(*options)
    with ServerProcess(*options, "--state-volatile"):
        pass


def test_no_gpu(pools: Pools, tmp_path: Path) -> None:
    options = ("--pool", pools.things.directory, "--data-dir", tmp_path, "--device")
    assert "must be auto, cpu, cuda or cuda:NUMBER, got 'sea'" in outcome(*options, "sea")
    if Path("/dev/nvidiactl").exists():
        assert "--device cuda:999: torch sees" in outcome(*options, "cuda:999")
        pytest.skip("there is a GPU here")
    for device in ("cuda", "cuda:7"):
        reason = f"--device {device}: torch sees no CUDA GPU here; use --device cpu"
        assert reason in outcome(*options, device)


def test_no_torch_for_the_gpu(
    pools: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('no torch')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    options = ("--pool", pools.things.directory, "--data-dir", tmp_path, "--device", "cuda")
    assert "--device cuda needs torch: install coresift[server,gpu]" in outcome(*options)


def test_artifact_root_that_cannot_be(pools: Pools, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    options = ("--pool", pools.things.directory, "--data-dir", tmp_path)
    assert "artifact root" in outcome(*options, "--artifacts", tmp_path / "file" / "below")


def test_ready_file(pools: Pools, tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    options = ("--pool", pools.things.directory, "--data-dir", tmp_path, "--ready-file", ready)
    with ServerProcess(*options) as server:
        while not ready.exists():
            assert server.process.poll() is None
        told = json.loads(ready.read_text())
        assert told == {
            "listen": server.listen,
            "metrics": server.metrics,
            "pid": server.process.pid,
        }
