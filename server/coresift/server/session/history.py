"""A session as it was: heads of earlier revisions, from the log."""

from __future__ import annotations

from coresift.server.errors import CoresiftError, Reason
from coresift.server.head import Head
from coresift.server.pool.pool import Pool
from coresift.server.session.live import LOG_PAGE, LiveSession
from coresift.server.session.ranking import Snapshot, fit_head
from coresift.server.session.view import View
from coresift.server.session.workers import Workers
from coresift.server.state.store import Store


async def head_at(
    live: LiveSession,
    pool: Pool,
    revision: int,
    config_version: int,
    store: Store,
    workers: Workers,
) -> Head:
    """The head of the labels up to ``revision`` under a configuration that the session had.

    Raises:
        CoresiftError: HEAD_NOT_FITTED if the log has been rewound, so that there is none.
    """
    config = live.view.configs.get(config_version, live.config)
    view = View(config, config_version)
    while view.position < revision:
        wanted = min(LOG_PAGE, revision - view.position)
        entries = (await store.log(live.uid, view.position, wanted)).entries
        if not entries:
            break
        view.apply(entries)
    # The configuration may have changed before or after the last of these labels.
    view.config, view.config_version = config, config_version
    snapshot = Snapshot.of(view)
    head = await workers.run(lambda: fit_head(pool, snapshot))
    if head is None or view.revision != revision:
        raise CoresiftError(
            Reason.HEAD_NOT_FITTED, f"the log holds no head of revision {revision} any more"
        )
    return head
