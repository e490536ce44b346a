"""What a replica says of itself."""

from __future__ import annotations

import grpc

from coresift.client.errors import CoresiftError, Unavailable
from coresift.client.flow import Flow
from coresift.client.steps import Ask, Probe

READINESS = b"\n\x09readiness"
"""A HealthCheckRequest with this service name; the client does without the health package."""
SERVING = b"\x08\x01"
"""A HealthCheckResponse with this status."""


def check_ready(timeout_s: float) -> Flow[None]:
    """Find a replica that is ready. Unavailable: none is, or none answers in this time each."""
    routes, tried = (yield Ask()).routes, set[str]()
    while True:
        address = routes.pick("", tried)
        try:
            reply: bytes = yield Probe(address, timeout_s, READINESS)
            if reply == SERVING:
                return
            message = f"{address} is not ready: it starts or drains"
            raise Unavailable(None, message, code=grpc.StatusCode.UNAVAILABLE)
        except CoresiftError:
            tried.add(address)
            routes.avoid(address)
            if not routes.has_others(tried):
                raise
