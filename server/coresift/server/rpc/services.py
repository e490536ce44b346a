"""What the handlers call: the session layer's services of one server."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from coresift.server.errors import CoresiftError, Reason
from coresift.server.session.batches import Batches
from coresift.server.session.copies.backups import Backups
from coresift.server.session.copies.erasure import Erasure
from coresift.server.session.coresets.coreset_jobs import CoresetJobs
from coresift.server.session.labeling import Labeling
from coresift.server.session.lifecycle import Lifecycle
from coresift.server.session.live.live import LiveSession
from coresift.server.session.live.sessions import LiveSessions
from coresift.server.session.model import Modelling
from coresift.server.session.progress.consensus import ConsensusLists
from coresift.server.session.progress.progress import ProgressReports
from coresift.server.session.setup.pools import Pools
from coresift.server.session.signals.signals import Signals
from coresift.server.session.vector_scores import VectorScoring
from coresift.server.session.work.call import CALL

T = TypeVar("T")

OUTDATED = frozenset({Reason.ITEM_NOT_FOUND, Reason.POOL_VERSION_NOT_LOADED})
"""What calls meet where the view has an older pool version than the session."""


@dataclass(frozen=True, slots=True)
class Services:
    """The session layer, as the handlers see it."""

    pools: Pools
    sessions: LiveSessions
    lifecycle: Lifecycle
    backups: Backups
    erasure: Erasure
    progress: ProgressReports
    consensus: ConsensusLists
    batches: Batches
    labeling: Labeling
    modelling: Modelling
    vectors: VectorScoring
    signals: Signals
    coresets: CoresetJobs

    async def on(self, session_id: str, call: Callable[[LiveSession], Awaitable[T]]) -> T:
        """``call`` with the live session.

        Another replica may have moved the session to a pool version with further items: the call
        is then made again on the newest. Or it may have been deleted and made again, or written
        anew without an annotator's name: it is then read anew.
        """
        live = await self.sessions.open(session_id)
        CALL.get().names_annotators = not live.config.pseudonymous
        while True:
            try:
                return await call(live)
            except CoresiftError as error:
                if error.reason in OUTDATED and await reconfigured(live):
                    return await call(live)
                if error.reason is not Reason.SESSION_NOT_FOUND:
                    raise
                missed, refusal = live, error
            if await self.sessions.open(session_id) is missed:  # no other call has noticed
                self.sessions.drop(session_id)
            live = await self.sessions.open(session_id)
            if live.uid == missed.uid:
                raise refusal


async def reconfigured(live: LiveSession) -> bool:
    """Catch up with the log; whether that changed the configuration."""
    before = live.view.config_version
    await live.sync(time.monotonic())
    return live.view.config_version != before
