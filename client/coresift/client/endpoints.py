"""Where replicas are: what a target names, and how a name is looked up."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

LISTS = re.compile(r"(?:ipv4:|ipv6:|dns:(?!//[^/]))(?:///)?(.*)", re.DOTALL)
"""gRPC names that are addresses or a name for the system's resolver."""
OTHERS = re.compile(r"(unix|unix-abstract|vsock|xds|google-c2p|dns|passthrough):")
"""gRPC names that gRPC alone can read."""


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed target."""

    text: str
    """As it was given; a name that gRPC can read, unless there are several addresses."""
    addresses: tuple[str, ...]
    """HOST:PORT of each replica that the target lists; one entry: the target as a whole."""
    name: tuple[str, int] | None
    """Host and port that may stand for several replicas, and must be looked up."""

    @property
    def is_local(self) -> bool:
        """Whether what is sent stays on this machine."""
        if self.text.startswith(("unix:", "unix-abstract:")):
            return True
        if len(self.addresses) > 1:
            return all(_is_loopback(address) for address in self.addresses)
        return _is_loopback(_body(self.text))


def parse(text: str) -> Target:
    """Read a target: ``host:port``, several with commas between them, or any gRPC name.

    Raises ValueError: the list is empty.
    """
    if OTHERS.match(text) and not LISTS.fullmatch(text):
        return Target(text, (text,), None)
    entries = [entry.strip() for entry in _body(text).split(",")]
    addresses = tuple(dict.fromkeys(entry for entry in entries if entry))
    if not addresses:
        raise ValueError(f"a target is HOST:PORT, or several with commas, got {text!r}")
    if len(addresses) > 1:
        return Target(text, addresses, None)
    host, port = _split(addresses[0])
    is_name = host and port.isdecimal() and not _is_number(host)
    return Target(text.strip(" ,"), (text.strip(" ,"),), (host, int(port)) if is_name else None)


def look_up(name: tuple[str, int]) -> tuple[str, ...]:
    """The addresses of a name, HOST:PORT each, sorted. Raises OSError.

    Of one family: a replica with an address in both is still one replica.
    """
    host, port = name
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # The system puts first what this machine has a route to.
    family = found[0][0]
    numbers = {info[4][0] for info in found if info[0] == family}
    form = "[{}]:{}" if family == socket.AF_INET6 else "{}:{}"
    return tuple(sorted(form.format(number, port) for number in numbers))


def _body(text: str) -> str:
    matched = LISTS.fullmatch(text)
    return matched[1] if matched else text


def _split(address: str) -> tuple[str, str]:
    """Host, without brackets, and port of an address; empty where it has none."""
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], port
    return (host, port) if ":" not in host else ("", "")


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_loopback(address: str) -> bool:
    host = _split(address)[0] or address
    if host == "localhost":
        return True
    return _is_number(host) and ipaddress.ip_address(host.partition("%")[0]).is_loopback
