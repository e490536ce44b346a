"""The state URL: one server, a master that sentinels watch, or a cluster.

======================================================  ======================================
``redis://[user:password@]host[:port][/db]``            one server
``unix://[user:password@]/path[?db=0]``                 one server of this machine
``redis+sentinel://[...@]host:port,host:port/name``     the master that sentinels call ``name``
``redis+cluster://[...@]host:port,host:port``           a cluster; any of its nodes are named
======================================================  ======================================

``rediss`` in place of ``redis`` speaks TLS, to sentinels too. User and password are those of the
data servers; special characters in them are percent-encoded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from redis.asyncio.connection import Connection, UnixDomainSocketConnection

from coresift.server.errors import StartError
from coresift.server.state.tls import Tls, TlsConnection

Kind = Literal["single", "sentinel", "cluster"]

PORT = 6379
SENTINEL_PORT = 26379
SCHEMES: dict[str, tuple[Kind, type[Connection | UnixDomainSocketConnection]]] = {
    "redis": ("single", Connection),
    "rediss": ("single", TlsConnection),
    "unix": ("single", UnixDomainSocketConnection),
    "redis+sentinel": ("sentinel", Connection),
    "rediss+sentinel": ("sentinel", TlsConnection),
    "redis+cluster": ("cluster", Connection),
    "rediss+cluster": ("cluster", TlsConnection),
}


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    """Its name, or the path of its socket."""
    port: int
    """0 for a socket."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.port else self.host


@dataclass(frozen=True, slots=True)
class StateUrl:
    """What a state URL says. Its ``repr`` holds no secret."""

    kind: Kind
    addresses: tuple[Address, ...]
    """Of the server, the sentinels, or some nodes of the cluster."""
    connection_class: type[Connection | UnixDomainSocketConnection]
    master_name: str
    options: dict[str, Any] = field(repr=False)
    """How connections to data servers are made, as redis-py names it."""
    sentinel_options: dict[str, Any] = field(repr=False)


def parse_state_url(url: str) -> StateUrl:
    """Read a state URL. `StartError` for a malformed one; it never repeats a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _refused("it cannot be read") from None
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.scheme not in SCHEMES:
        raise _refused(f"its scheme must be one of {', '.join(f'{name}://' for name in SCHEMES)}")
    if "#" in url or "@" in (parts.query if parts.scheme == "unix" else parts.path + parts.query):
        raise _refused("special characters in user and password must be percent-encoded")
    kind, connection_class = SCHEMES[parts.scheme]
    login, hosts = _login(parts)
    is_socket = connection_class is UnixDomainSocketConnection
    addresses = _socket(parts, hosts) if is_socket else _addresses(kind, hosts)
    path = [] if is_socket else [unquote(part) for part in parts.path.split("/") if part]
    if kind == "sentinel" and not path:
        raise _refused("the name that sentinels give the master must follow the hosts: /name")
    master_name = path.pop(0) if kind == "sentinel" else ""
    tls = {"tls": Tls.of(query)} if connection_class is TlsConnection else {}
    sentinel_options: dict[str, Any] = dict(tls)
    if kind == "sentinel":
        for name in ("username", "password"):
            if f"sentinel_{name}" in query:
                sentinel_options[name] = query.pop(f"sentinel_{name}")
    options = {**tls, **login, **_database(kind, path, query)}
    if query:
        raise _refused(f"it has no option {', '.join(sorted(query))}")
    return StateUrl(kind, addresses, connection_class, master_name, options, sentinel_options)


def _refused(why: str) -> StartError:
    return StartError(f"state URL: {why}")


def _login(parts: SplitResult) -> tuple[dict[str, str], str]:
    login, has_login, hosts = parts.netloc.rpartition("@")
    if not has_login:
        return {}, hosts
    user, _, password = login.partition(":")
    pairs = {"username": unquote(user), "password": unquote(password)}
    return {name: value for name, value in pairs.items() if value}, hosts


def _socket(parts: SplitResult, hosts: str) -> tuple[Address, ...]:
    if hosts or len(parts.path) < 2:
        raise _refused("unix:// is followed by the absolute path of the socket")
    return (Address(unquote(parts.path), 0),)


def _addresses(kind: Kind, hosts: str) -> tuple[Address, ...]:
    port = SENTINEL_PORT if kind == "sentinel" else PORT
    addresses = tuple(_address(host, port) for host in hosts.split(","))
    if kind == "single" and len(addresses) > 1:
        raise _refused("several hosts need redis+sentinel:// or redis+cluster://")
    return addresses


def _address(text: str, default_port: int) -> Address:
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, str(default_port)
    host = host.removeprefix("[").removesuffix("]")
    if not host or "@" in host:
        raise _refused("a host is missing")
    # Not repeated: where a password is not percent-encoded, this may be a piece of it.
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise _refused(
            "a port is no number of 1..65535 (special characters in user and password must be "
            "percent-encoded)"
        )
    return Address(unquote(host), int(port))


def _database(kind: Kind, path: list[str], query: dict[str, str]) -> dict[str, int]:
    named = [*path, *([query.pop("db")] if "db" in query else [])]
    if not named:
        return {}
    if len(named) > 1 or not (named[0].isascii() and named[0].isdigit()):
        raise _refused("the database must be one number: /0")
    number = int(named[0])
    if kind == "cluster" and number:
        raise _refused("a cluster has database 0 only")
    return {"db": number}
