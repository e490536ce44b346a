"""Which servers are trusted with labels."""

from __future__ import annotations

import pytest

from coresift.server.state.connect import DistrustError, Mode, ReplicaError, trust

GOOD = {
    "redis_version": "6.2.14",
    "redis_mode": "standalone",
    "role": "master",
    "maxmemory_policy": "noeviction",
    "aof_enabled": "1",
}


@pytest.mark.parametrize("version", ["6.2.0", "7.0.15", "7.2.4", "8.4.0", "10.0.1"])
def test_good_servers_are_trusted(version: str) -> None:
    trust({**GOOD, "redis_version": version}, volatile=False)
    trust(
        {**GOOD, "redis_version": version, "redis_mode": "cluster"}, volatile=False, mode="cluster"
    )


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("redis_version", "6.0.16", "too old: use 6.2"),
        ("redis_version", "5.0.7", "too old"),
        ("redis_mode", "cluster", r"use redis\+cluster://"),
        ("redis_mode", "sentinel", r"use redis\+sentinel://"),
        ("role", "slave", "replica"),
        ("maxmemory_policy", "volatile-ttl", "evicts keys"),
        ("aof_enabled", "0", "no append-only file"),
    ],
)
def test_others_are_not(field: str, value: str, says: str) -> None:
    with pytest.raises(DistrustError, match=says):
        trust({**GOOD, field: value}, volatile=False)


@pytest.mark.parametrize("mode", ["standalone", "cluster"])
def test_a_replica_is_told_apart(mode: Mode) -> None:
    with pytest.raises(ReplicaError):
        trust({**GOOD, "role": "slave", "redis_mode": mode}, volatile=True, mode=mode)


def test_a_single_server_is_no_cluster() -> None:
    with pytest.raises(DistrustError, match="use redis://"):
        trust(GOOD, volatile=False, mode="cluster")


def test_volatile_accepts_a_server_without_file_only() -> None:
    trust({**GOOD, "aof_enabled": "0"}, volatile=True)
    with pytest.raises(DistrustError, match="evicts keys"):
        trust({**GOOD, "maxmemory_policy": "allkeys-lfu"}, volatile=True)
