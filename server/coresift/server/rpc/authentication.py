"""Who calls: the bearer token, and whether it permits the call. Before anything is decoded."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
import structlog

from coresift.server.access_tokens import AccessToken, AccessTokens
from coresift.server.caller import CALLER, Scope
from coresift.server.errors import CoresiftError, Reason
from coresift.server.metrics import Metrics
from coresift.server.rpc.audit import traced
from coresift.server.rpc.interceptor import Continuation
from coresift.server.rpc.scopes import scope_of
from coresift.server.rpc.status import CODES, end_with, to_status
from coresift.v1 import selection_pb2 as pb

log = structlog.get_logger()

HEADER = "authorization"
SCHEME = "bearer"
OPEN = frozenset({"grpc.health.v1.Health"})
"""Services that balancers and probes call, which have no tokens."""

_SERVICE = pb.DESCRIPTOR.services_by_name["SelectionService"]
_SIDES = ("unary", "stream")
_KINDS = {
    method.name: f"{_SIDES[method.client_streaming]}_{_SIDES[method.server_streaming]}"
    for method in _SERVICE.methods
}


class Authentication(grpc.aio.ServerInterceptor):
    """The outermost interceptor: no call passes without a token that permits it.

    It says who calls by setting `CALLER` in the call's own task.
    """

    def __init__(self, tokens: AccessTokens, metrics: Metrics) -> None:
        self._tokens, self._metrics = tokens, metrics

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        service, _, method = handler_call_details.method.lstrip("/").partition("/")
        if service in OPEN:
            return await continuation(handler_call_details)
        # Whatever else is served (reflection) takes any token.
        scope = scope_of(method) if service == _SERVICE.full_name else None
        metadata = handler_call_details.invocation_metadata or ()
        known: AccessToken | None = None
        try:
            known = self._known(metadata)
            _check(known, scope)
        except CoresiftError as error:
            return self._refusal(service, method, known, error, metadata)
        CALLER.set(known.caller)
        return await continuation(handler_call_details)

    def _known(self, metadata: Sequence[tuple[str, str | bytes]]) -> AccessToken:
        """The entry of the call's token. TOKEN_MISSING, TOKEN_INVALID."""
        values = [str(value) for key, value in metadata if key == HEADER]
        if not values:
            raise CoresiftError(
                Reason.TOKEN_MISSING, "the call needs metadata 'authorization: Bearer TOKEN'"
            )
        scheme, _, token = values[0].partition(" ")
        if len(values) > 1 or scheme.lower() != SCHEME:
            raise CoresiftError(
                Reason.TOKEN_INVALID, "metadata 'authorization' must be one 'Bearer TOKEN'"
            )
        known = self._tokens.find(token.strip())
        if known is None:
            raise CoresiftError(Reason.TOKEN_INVALID, "the token is not known here")
        return known

    def _refusal(
        self,
        service: str,
        method: str,
        known: AccessToken | None,
        error: CoresiftError,
        metadata: Sequence[tuple[str, str | bytes]],
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A handler that refuses. It streams whatever the method does, and so reads nothing."""
        began, code = time.perf_counter(), CODES[error.reason].name
        facts = {"method": method, "code": code, "reason": error.reason.value}
        facts |= traced(metadata)
        if known is not None:
            facts |= {"principal": known.name, "tenant": known.caller.tenant}
        if service == _SERVICE.full_name and method in _KINDS:  # else anybody could make labels
            labels = (_KINDS[method], service, method)
            self._metrics.rpc_started.labels(*labels).inc()
            self._metrics.rpc_handled.labels(*labels, code).inc()

        async def refuse(requests: object, context: Any) -> None:
            ms = round(1e3 * (time.perf_counter() - began), 2)
            log.info("call", peer=context.peer(), ms=ms, **facts)
            await end_with(to_status(error), context)

        return grpc.stream_stream_rpc_method_handler(refuse)


def _check(known: AccessToken, scope: Scope | None) -> None:
    """TOKEN_INVALID, SCOPE_MISSING."""
    # Only whoever holds the token learns that it was good once.
    if known.has_expired(time.time()):
        raise CoresiftError(Reason.TOKEN_INVALID, "the token has expired")
    if scope is not None and scope not in known.caller.scopes:
        raise CoresiftError(
            Reason.SCOPE_MISSING,
            f"the token lacks the scope {scope.value!r}, which the call needs",
            scope=scope.value,
        )
