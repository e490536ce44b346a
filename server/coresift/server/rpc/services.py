"""What the handlers call: the session layer's services of one server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from coresift.server.errors import CoresiftError, Reason
from coresift.server.session.coresets import CoresetJobs
from coresift.server.session.labeling import Labeling
from coresift.server.session.lifecycle import Lifecycle
from coresift.server.session.live import LiveSession, LiveSessions
from coresift.server.session.model import Modelling
from coresift.server.session.pools import Pools
from coresift.server.session.signals import Signals

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Services:
    """The session layer, as the handlers see it."""

    pools: Pools
    sessions: LiveSessions
    lifecycle: Lifecycle
    labeling: Labeling
    modelling: Modelling
    signals: Signals
    coresets: CoresetJobs

    async def on(self, session_id: str, call: Callable[[LiveSession], Awaitable[T]]) -> T:
        """``call`` with the live session.

        A cached session may have been deleted and made again elsewhere: it is then read anew.
        """
        try:
            return await call(await self.sessions.open(session_id))
        except CoresiftError as error:
            if error.reason is not Reason.SESSION_NOT_FOUND or not self.sessions.drop(session_id):
                raise
        return await call(await self.sessions.open(session_id))
