"""Handlers of sessions as files, and of taking an annotator's name out of one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing

from coresift.server.caller import CALLER
from coresift.server.errors import invalid
from coresift.server.rpc import checks, encode
from coresift.server.rpc.services import Services
from coresift.server.session.copies.backup_upload import Upload
from coresift.v1 import selection_pb2 as pb


class BackupCalls:
    """ExportSession, ImportSession and EraseAnnotator."""

    services: Services

    async def ExportSession(
        self, request: pb.ExportSessionRequest, context: object
    ) -> AsyncIterator[pb.ExportSessionResponse]:
        session_id = checks.own_name("session_id", request.session_id)
        async for data in self.services.backups.export(session_id):
            yield pb.ExportSessionResponse(data=data)

    async def ImportSession(
        self, request_iterator: AsyncIterator[pb.ImportSessionRequest], context: object
    ) -> pb.ImportSessionResponse:
        backups, header, identity = self.services.backups, None, None
        with closing(Upload()) as upload:
            async for part in request_iterator:
                if part.WhichOneof("part") == "header":
                    if header is not None:
                        raise invalid("header", "came a second time")
                    header = part.header
                    identity = checks.request_of(
                        header, header.request_id, field="header.request_id"
                    )
                    if header.session_id:
                        checks.name("header.session_id", header.session_id)
                elif header is None:
                    raise invalid("header", "must be the first message")
                else:
                    await asyncio.to_thread(upload.write, part.data)
            if header is None or identity is None:
                raise invalid("header", "is required")
            in_file = await asyncio.to_thread(upload.check)
            name = checks.name("data", header.session_id or in_file)
            kept = CALLER.get().kept_as(name)
            record = await backups.import_(kept, upload, upload.request(identity))
        return pb.ImportSessionResponse(session=encode.session(record))

    async def EraseAnnotator(
        self, request: pb.EraseAnnotatorRequest, context: object
    ) -> pb.EraseAnnotatorResponse:
        identity = checks.request_of(request, request.request_id)
        session_id = checks.own_name("session_id", request.session_id)
        annotator = checks.annotator(request.annotator)
        erased = await self.services.erasure.erase(session_id, annotator, identity)
        return pb.EraseAnnotatorResponse(replacement=erased.replacement, entries=erased.entries)
