"""What a replica says of itself."""

from __future__ import annotations

from coresift.client.errors import CoresiftError
from coresift.client.flow import Flow
from coresift.client.steps import Ask, Probe

SERVING = b"\x08\x01"
"""A HealthCheckResponse with this status."""
LONGEST_NAME = 127
"""In bytes, so that its length takes one."""


def check_health(service: str = "readiness") -> Flow[bool]:
    """Whether a replica serves, by its standard health service.

    The replicas are asked one after another, within one timeout, until one says yes; calls keep
    away for a while from one that does not.

    Args:
        service: ``readiness``: takes calls; ``liveness``: should not be restarted; ``state``:
            Redis answers.

    Raises NotFound: no such name is known. Unavailable, CoresiftError: none answers.
    """
    request, settings = request_of(service), (yield Ask())
    routes, ends = settings.routes, settings.clock() + settings.timeout_s
    tried, answered = set[str](), False
    while True:
        address = routes.pick("", tried)
        left_s = max(0.001, ends - settings.clock())
        try:
            reply: bytes = yield Probe(address, left_s, request, apart=True)
        except CoresiftError as error:
            failure = error
        else:
            if reply == SERVING:
                return True
            answered = True
        tried.add(address)
        routes.avoid(address)
        if not routes.has_others(tried) or settings.clock() >= ends:
            if answered:
                return False
            raise failure


def request_of(service: str) -> bytes:
    """The bytes of a HealthCheckRequest: the client does without the health package.

    Raises ValueError: the name is too long for one.
    """
    name = service.encode()
    if len(name) > LONGEST_NAME:
        raise ValueError(f"no service has so long a name: {service}")
    return b"\n" + bytes([len(name)]) + name
