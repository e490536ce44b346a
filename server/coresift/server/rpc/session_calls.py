"""Handlers of the sessions' life cycle."""

from __future__ import annotations

from coresift.server.caller import bare
from coresift.server.rpc import checks, encode
from coresift.server.rpc.decode import changes, prior_weights, session_config
from coresift.server.rpc.services import Services
from coresift.v1 import selection_pb2 as pb


class SessionCalls:
    """CreateSession to UndeleteSession."""

    services: Services

    async def CreateSession(
        self, request: pb.CreateSessionRequest, context: object
    ) -> pb.CreateSessionResponse:
        identity = checks.request_of(request, request.request_id)
        session_id = ""
        if request.session_id:
            session_id = checks.own_name("session_id", request.session_id)
        config = session_config(request.config)
        prior = prior_weights(request) if request.HasField("prior_head") else None
        record = await self.services.lifecycle.create(session_id, config, prior, identity)
        return pb.CreateSessionResponse(session=encode.session(record))

    async def GetSession(
        self, request: pb.GetSessionRequest, context: object
    ) -> pb.GetSessionResponse:
        session_id = checks.own_name("session_id", request.session_id)
        record = await self.services.lifecycle.read(session_id)
        return pb.GetSessionResponse(session=encode.session(record))

    async def ListSessions(
        self, request: pb.ListSessionsRequest, context: object
    ) -> pb.ListSessionsResponse:
        size = checks.page_size(request.page_size)
        after = checks.page_after("sessions", request.page_token)
        records = await self.services.lifecycle.page(after, size + 1)
        return pb.ListSessionsResponse(
            sessions=[encode.session(record) for record in records[:size]],
            next_page_token=(
                checks.page_token("sessions", bare(records[size - 1].session_id))
                if len(records) > size
                else ""
            ),
        )

    async def UpdateSession(
        self, request: pb.UpdateSessionRequest, context: object
    ) -> pb.UpdateSessionResponse:
        identity = checks.request_of(request, request.request_id)
        session_id = checks.own_name("session_id", request.session_id)
        expected = None
        if request.HasField("expected_config_version"):
            expected = request.expected_config_version
        record = await self.services.lifecycle.update(
            session_id, changes(request), expected, identity
        )
        return pb.UpdateSessionResponse(session=encode.session(record))

    async def DeleteSession(
        self, request: pb.DeleteSessionRequest, context: object
    ) -> pb.DeleteSessionResponse:
        identity = checks.request_of(request, request.request_id)
        session_id = checks.own_name("session_id", request.session_id)
        purge_ms = await self.services.lifecycle.delete(session_id, identity)
        return pb.DeleteSessionResponse(purge_time=encode.timestamp(purge_ms))

    async def UndeleteSession(
        self, request: pb.UndeleteSessionRequest, context: object
    ) -> pb.UndeleteSessionResponse:
        identity = checks.request_of(request, request.request_id)
        session_id = checks.own_name("session_id", request.session_id)
        record = await self.services.lifecycle.undelete(session_id, identity)
        return pb.UndeleteSessionResponse(session=encode.session(record))
