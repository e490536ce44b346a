"""Connections to Redis: from a URL to a client, and whether that Redis can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from coresift.server.errors import StartError

CALL_TIMEOUT_S = 1.0
MAX_CONNECTIONS = 32
OLDEST_REDIS = (6, 2)


class DistrustError(RedisConnectionError):
    """This Redis may lose labels; the text says why and what to do."""


def make_client(url: str, *, volatile: bool, max_connections: int = MAX_CONNECTIONS) -> Redis:
    """A client whose every new connection first checks the server (`distrust`).

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py reads it.
        volatile: accept a server without append-only file.
        max_connections: further calls wait for a free connection.
    Raises:
        StartError: the URL is malformed.
    """
    try:
        options: dict[str, Any] = dict(parse_url(url))
    except ValueError as error:
        raise StartError(f"state URL: {error}") from error

    async def check_first(connection: AbstractConnection) -> None:
        await connection.on_connect()
        await connection.send_command("INFO")
        reasons = distrust(_fields(await connection.read_response()), volatile=volatile)
        if reasons:
            raise DistrustError(reasons)

    options |= {
        "protocol": 2,
        "decode_responses": False,
        "socket_timeout": CALL_TIMEOUT_S,
        "socket_connect_timeout": CALL_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        "retry_on_error": [],
        "redis_connect_func": check_first,
    }
    pool = BlockingConnectionPool(
        max_connections=max_connections, timeout=CALL_TIMEOUT_S, **options
    )
    return Redis.from_pool(pool)


def distrust(info: Mapping[str, str], *, volatile: bool) -> str:
    """Why a server with this ``INFO`` cannot keep labels; empty if it can."""
    version = info.get("redis_version", "0.0")
    if tuple(map(int, version.split(".")[:2])) < OLDEST_REDIS:
        return f"Redis {version} is too old: use 6.2 or newer"
    if info.get("redis_mode") == "cluster":
        return "Redis runs as a cluster, which this URL cannot reach as a whole: name a single one"
    if info.get("role") != "master":
        return "Redis is a replica and takes no writes: name its master"
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


def _fields(info: bytes) -> dict[str, str]:
    lines = info.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and line[0] != "#")
