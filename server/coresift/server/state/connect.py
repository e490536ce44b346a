"""Whether a Redis can be trusted with labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from redis.exceptions import ConnectionError as RedisConnectionError

OLDEST_REDIS = (6, 2)
Mode = Literal["standalone", "cluster"]

_URLS = {
    "standalone": "a single server: use redis:// (or rediss://)",
    "cluster": "a cluster: use redis+cluster:// (or rediss+cluster://)",
    "sentinel": "a sentinel: use redis+sentinel://host:port,host:port/name-of-the-master",
}


class DistrustError(RedisConnectionError):
    """This Redis may lose labels; the text says why and what to do."""


class ReplicaError(DistrustError):
    """This Redis follows another one and takes no writes."""


def trust(info: Mapping[str, str], *, volatile: bool, mode: Mode = "standalone") -> None:
    """Check a server with this ``INFO``.

    Args:
        volatile: accept a server without append-only file.
        mode: what the state URL says that it is.
    Raises:
        DistrustError: it cannot keep labels; `ReplicaError` where it is a replica.
    """
    if info.get("role") == "slave":
        raise ReplicaError("Redis is a replica and takes no writes: name its master")
    why = _distrust(info, volatile=volatile, mode=mode)
    if why:
        raise DistrustError(why)


def _distrust(info: Mapping[str, str], *, volatile: bool, mode: Mode) -> str:
    version = info.get("redis_version", "0.0")
    if tuple(map(int, version.split(".")[:2])) < OLDEST_REDIS:
        return f"Redis {version} is too old: use 6.2 or newer"
    actual = info.get("redis_mode", "standalone")
    if actual != mode:
        return f"Redis runs as {_URLS.get(actual, actual)}"
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        return (
            f"Redis evicts keys (maxmemory-policy {policy}) and would lose labels: "
            "set maxmemory-policy noeviction"
        )
    if info.get("aof_enabled") != "1" and not volatile:
        return (
            "Redis has no append-only file and would lose labels in a restart: set "
            "appendonly yes, or start with --state-volatile if that is meant"
        )
    return ""


def info_fields(info: bytes) -> dict[str, str]:
    """The fields of an ``INFO`` reply."""
    lines = info.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and line[0] != "#")
