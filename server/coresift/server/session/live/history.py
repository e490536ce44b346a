"""A session as it was: heads of earlier revisions, from the log."""

from __future__ import annotations

import asyncio
from typing import Protocol

from coresift.server.arrays import Rows
from coresift.server.errors import CoresiftError, Reason
from coresift.server.head import Head
from coresift.server.session.live.live import LiveSession
from coresift.server.session.view.catching_up import APPLY_ENTRIES
from coresift.server.session.view.snapshot import Snapshot, head_state
from coresift.server.session.view.view import View
from coresift.server.session.work.workers import Workers
from coresift.server.state.store import Store
from coresift.server.state.values import Rewound

PAGE = 32 * APPLY_ENTRIES


class HeadBasis(Protocol):
    """Which head: the labels up to a revision, a configuration, and the name of both.

    The nonce is that of the log entry at the revision.
    """

    @property
    def revision(self) -> int: ...
    @property
    def nonce(self) -> bytes: ...
    @property
    def config_version(self) -> int: ...
    @property
    def head_version(self) -> str: ...


async def head_at(live: LiveSession, basis: HeadBasis, store: Store, workers: Workers) -> Head:
    """The head of an earlier basis of the session, fitted again.

    Raises:
        CoresiftError: HEAD_NOT_FITTED if the log has been rewound, so that it is not to be had.
    """
    snapshot = await _snapshot_at(live, basis, store)
    materials = await live.materials(snapshot.config)
    state = await workers.run(lambda: head_state(materials, snapshot))
    if state.head is None or state.version != basis.head_version:
        raise CoresiftError(
            Reason.HEAD_NOT_FITTED,
            f"the log no longer holds the labels of head {basis.head_version}",
        )
    return state.head


async def labelled_at(live: LiveSession, basis: HeadBasis, store: Store) -> Rows:
    """Rows that had a vote at an earlier basis, int32, ascending. HEAD_NOT_FITTED as `head_at`."""
    return (await _snapshot_at(live, basis, store)).labelled()


async def _snapshot_at(live: LiveSession, basis: HeadBasis, store: Store) -> Snapshot:
    config = live.view.configs.get(basis.config_version, live.config)
    view = View(config, basis.config_version)
    while view.offset < basis.revision:
        wanted = min(PAGE, basis.revision - view.offset)
        read = await store.catch_up(live.uid, view.key(), wanted)
        if isinstance(read, Rewound) or not read.entries:
            raise _gone(basis)
        for start in range(0, len(read.entries), APPLY_ENTRIES):
            view.apply(read.entries[start : start + APPLY_ENTRIES])
            await asyncio.sleep(0)
    if view.nonce != basis.nonce:
        raise _gone(basis)
    # The configuration may have changed before or after the last of these labels.
    view.config, view.config_version = config, basis.config_version
    return Snapshot.of(view)


def _gone(basis: HeadBasis) -> CoresiftError:
    return CoresiftError(
        Reason.HEAD_NOT_FITTED,
        f"the log no longer holds the labels up to revision {basis.revision}",
    )
