"""Which servers are trusted with labels."""

from __future__ import annotations

import pytest

from coresift.server.state.connect import distrust

GOOD = {
    "redis_version": "6.2.14",
    "redis_mode": "standalone",
    "role": "master",
    "maxmemory_policy": "noeviction",
    "aof_enabled": "1",
}


@pytest.mark.parametrize("version", ["6.2.0", "7.0.15", "7.2.4", "8.4.0", "10.0.1"])
def test_good_servers_are_trusted(version: str) -> None:
    assert distrust({**GOOD, "redis_version": version}, volatile=False) == ""


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("redis_version", "6.0.16", "too old: use 6.2"),
        ("redis_version", "5.0.7", "too old"),
        ("redis_mode", "cluster", "cluster"),
        ("role", "slave", "replica"),
        ("maxmemory_policy", "volatile-ttl", "evicts keys"),
        ("aof_enabled", "0", "no append-only file"),
    ],
)
def test_others_are_not(field: str, value: str, says: str) -> None:
    assert says in distrust({**GOOD, field: value}, volatile=False)


def test_volatile_accepts_a_server_without_file_only() -> None:
    assert distrust({**GOOD, "aof_enabled": "0"}, volatile=True) == ""
    assert distrust({**GOOD, "maxmemory_policy": "allkeys-lfu"}, volatile=True)
