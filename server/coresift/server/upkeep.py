"""What goes on beside the calls of a server, and its end."""

from __future__ import annotations

import asyncio

import grpc.aio
import structlog

from coresift.server.rpc.admission import Admission
from coresift.server.rpc.health import NOT_SERVING, SERVING, Health
from coresift.server.rpc.services import Services
from coresift.server.session.view.view_files import ViewFiles
from coresift.server.state.store import Store

log = structlog.get_logger()

LEAVE_S = 0.5
"""Between "not serving" and the end of new calls: balancers look away meanwhile."""
STOP_S = 0.5
"""At the end of a drain, in which the calls that are left are told that they end."""
PURGE_S = 600.0
STATE_S = 1.0


async def drain(
    server: grpc.aio.Server,
    health: Health,
    services: Services,
    admission: Admission,
    drain_s: float,
) -> None:
    """Say "not serving", give balancers a moment, refuse new calls, wait for those under way.

    What is left at the end of the time is ended in a way that clients retry elsewhere.
    """
    health.leave()
    await asyncio.sleep(LEAVE_S)
    await services.coresets.stop()
    stopping = asyncio.ensure_future(server.stop(drain_s))
    await asyncio.wait({stopping}, timeout=max(0.0, drain_s - STOP_S))
    if not stopping.done():
        await admission.stop()
    await stopping


async def watch_state(store: Store, health: Health) -> None:
    """Publish under the health name ``state`` whether the store answers."""
    while True:
        health.set("state", SERVING if store.available() else NOT_SERVING)
        await asyncio.sleep(STATE_S)


async def purge(store: Store, files: ViewFiles) -> None:
    """Remove sessions that were deleted a day ago."""
    while True:
        try:
            await store.purge()
            await files.sweep()
        except Exception as error:
            log.warning("purge postponed", error=str(error))
        await asyncio.sleep(PURGE_S)
