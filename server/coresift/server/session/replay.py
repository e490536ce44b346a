"""Replay: repeats every NextBatch of a session's log and compares the picks.

A grant is a function of the log: its ranking of the labels up to the revision it names, its
proposals of the view up to the offset it names, and what the store allowed of the log right
before it. A batch may be shorter than a replayed one, because a replica proposes only so many
rows; then its picks must be the first ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coresift.server.arrays import Rows
from coresift.server.session.candidates import Candidates
from coresift.server.session.config import SessionConfig
from coresift.server.session.live import LOG_PAGE
from coresift.server.session.pools import Pools
from coresift.server.session.proposals import expansion, over_ask, proposals
from coresift.server.session.ranking import (
    HeadState,
    Ranking,
    Snapshot,
    deeper,
    fit_head,
    rank,
)
from coresift.server.session.view import View
from coresift.server.state.entries import ConfigEntry, Entry, GrantEntry
from coresift.server.state.store import Settings, Store


@dataclass(frozen=True, slots=True)
class Difference:
    """A grant whose picks are not those of the replay."""

    offset: int
    granted: tuple[int, ...]
    replayed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What a replay found."""

    batches: int
    picks: int
    differences: tuple[Difference, ...]


async def read_log(store: Store, session_id: str) -> list[Entry]:
    """The whole log of a session."""
    record = await store.read(session_id)
    entries: list[Entry] = []
    while True:
        read = await store.log(record.uid, len(entries), LOG_PAGE)
        entries.extend(read.entries)
        if len(read.entries) < LOG_PAGE:
            return entries


def replay(pools: Pools, log: Sequence[Entry]) -> Report:
    """Repeat every grant of a log that starts with the session's first configuration."""
    player = _Player(pools, log)
    grants = [entry for entry in log if isinstance(entry, GrantEntry)]
    differences = []
    for grant in grants:
        replayed = player.picks(grant)
        if replayed[: len(grant.rows)] != grant.rows:
            differences.append(Difference(grant.offset, grant.rows, replayed))
    return Report(len(grants), sum(len(grant.rows) for grant in grants), tuple(differences))


class _Player:
    """Views of the log at rising offsets, and the ranking of the newest revision asked for."""

    def __init__(self, pools: Pools, log: Sequence[Entry]) -> None:
        self._pools, self._log = pools, log
        self._views: dict[str, View] = {}
        self._ranking: Ranking | None = None
        self._neighbours: dict[tuple[str, int, int], Rows] = {}

    def picks(self, grant: GrantEntry) -> tuple[int, ...]:
        """The rows that the replay would have granted."""
        ranking = self._ranking_of(grant)
        seen = self._view("proposals", grant.view_offset)
        allowed = self._view("claims", grant.offset - 1)
        pool = self._pools.of_session(seen.config.pool, seen.config.pool_version)
        wanted = over_ask(grant.size)
        found = proposals(ranking, seen, grant.annotator, wanted)
        while len(found) < wanted and not ranking.scored.complete:
            ranking = self._ranking = deeper(pool, ranking)
            found = proposals(ranking, seen, grant.annotator, wanted)
        if len(found) < wanted:
            near = np.empty(0, np.int32)
            if seen.config.seals_k is not None and seen.leases:
                leased = np.array(sorted(seen.leases), np.int32)
                near = np.unique(self._neighbours_of(seen.config, leased)).astype(np.int32)
            blocked = seen.blocked_rows(grant.annotator)
            found += expansion(pool, ranking, near, blocked, wanted - len(found))
        free = [p.row for p in found if allowed.free_for(p.row, grant.annotator)]
        return tuple(free[: grant.size])

    def _view(self, use: str, offset: int) -> View:
        view = self._views.get(use)
        if view is None or view.offset > offset:
            view = self._views[use] = self._first_view()
        view.apply(self._log[view.offset : offset])
        return view

    def _first_view(self) -> View:
        first = self._log[0]
        if not isinstance(first, ConfigEntry):
            raise ValueError("the log does not start with a configuration")
        config = SessionConfig.from_settings(Settings(1, None, first.config))
        return View(config, first.config_version)

    def _ranking_of(self, grant: GrantEntry) -> Ranking:
        """The ranking of the labels up to the grant's revision, under its configuration."""
        view = self._view("rankings", self._ranked_offset(grant))
        current = self._ranking
        if current is not None:
            known = current.snapshot
            if (known.revision, known.config_version) == (view.revision, view.config_version):
                return current
        snapshot = Snapshot.of(view)
        pool = self._pools.of_session(view.config.pool, view.config.pool_version)
        state = HeadState(snapshot, fit_head(pool, snapshot))
        candidates = None
        if view.config.seals_k is not None:
            neighbours = self._neighbours_of(view.config, snapshot.ever)
            candidates = Candidates(np.unique(neighbours).astype(np.int32))
        self._ranking = rank(pool, state, candidates)
        return self._ranking

    def _ranked_offset(self, grant: GrantEntry) -> int:
        """The last offset before the grant that has its revision and its configuration."""
        offset = grant.view_revision
        for entry in self._log[offset : grant.view_offset]:
            if isinstance(entry, ConfigEntry) and entry.config_version <= grant.config_version:
                offset = entry.offset
        return offset

    def _neighbours_of(self, config: SessionConfig, rows: Rows) -> Rows:
        pool = self._pools.of_session(config.pool, config.pool_version)
        k = min(config.seals_k or 0, pool.manifest.items - 1)
        keys = [(config.pool_version, k, row) for row in rows.tolist()]
        missing = [key[2] for key in keys if key not in self._neighbours]
        if missing:
            found = pool.neighbours(np.array(missing, np.int32), k)
            for row, neighbours in zip(missing, found, strict=True):
                self._neighbours[config.pool_version, k, row] = neighbours
        if not keys:
            return np.empty((0, k), np.int32)
        return np.stack([self._neighbours[key] for key in keys])
