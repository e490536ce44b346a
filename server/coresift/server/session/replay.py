"""Replay: repeats every NextBatch of a session's log and compares the picks.

A grant is a function of the log: its ranking of the labels up to the revision it names, its
proposals of the view up to the offset it names, and what the store allowed of the log right
before it. A batch may be shorter than a replayed one, because a replica proposes only so many
rows; then its picks must be the first ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coresift.server.arrays import Rows
from coresift.server.selection.candidates import neighbours_of
from coresift.server.session.ranking.candidates import candidates_of, seeds_of
from coresift.server.session.ranking.ordering import deeper, rank
from coresift.server.session.ranking.proposals import is_plain, over_ask
from coresift.server.session.ranking.proposing import (
    Ahead,
    Deeper,
    NearLeased,
    Run,
    propose,
    sources,
)
from coresift.server.session.ranking.ranking import Ranking
from coresift.server.session.ranking.review import review
from coresift.server.session.ranking.taken_groups import TakenGroups
from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.setup.materials import Loader, Materials
from coresift.server.session.view.catching_up import LOG_PAGE
from coresift.server.session.view.snapshot import Snapshot, head_of, head_state
from coresift.server.session.view.view import View
from coresift.server.state.entries import ConfigEntry, Entry, GrantEntry, LabelsEntry
from coresift.server.state.store import Store
from coresift.server.state.values import NO_GROUP, Settings


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


def replay(loader: Loader, log: Sequence[Entry]) -> Report:
    """Repeat every grant of a log that starts with the session's first configuration."""
    player = _Player(loader, log)
    grants = [entry for entry in log if isinstance(entry, GrantEntry)]
    differences = []
    for grant in grants:
        replayed = player.picks(grant)
        if replayed[: len(grant.rows)] != grant.rows:
            differences.append(Difference(grant.offset, grant.rows, replayed))
    return Report(len(grants), sum(len(grant.rows) for grant in grants), tuple(differences))


class _Player:
    """Views of the log at rising offsets, and the ranking of the newest revision asked for."""

    def __init__(self, loader: Loader, log: Sequence[Entry]) -> None:
        self._loader, self._log = loader, log
        self._materials: tuple[SessionConfig, Materials] | None = None
        self._views: dict[str, View] = {}
        self._ranking: Ranking | None = None
        self._neighbours: dict[tuple[str, int, int], Rows] = {}

    def picks(self, grant: GrantEntry) -> tuple[int, ...]:
        """The rows that the replay would have granted."""
        ranking = self._ranking_of(grant)
        if grant.review:
            ranking = review(ranking, head_of(ranking.state))
        seen = self._view("proposals", grant.view_offset)
        allowed = self._view("claims", grant.offset - 1)
        found = self._proposed(ranking, seen, grant)
        return _granted(ranking, allowed, grant.annotator, found)[: grant.size]

    def _proposed(self, ranking: Ranking, seen: View, grant: GrantEntry) -> list[int]:
        taken = self._taken_since(grant) if is_plain(ranking.snapshot.config) else 0
        wanted = over_ask(grant.size, taken)
        steps = propose(lambda: seen, ranking, grant.annotator, grant.size, wanted)
        answer: Any = None
        try:
            while True:
                match steps.send(answer):
                    case Deeper(shallow, wanted):
                        answer = self._ranking = deeper(shallow, wanted)
                    case Ahead():
                        pass
                    case NearLeased():
                        answer = self._near_leased(seen)
                    case Run(work):
                        answer = work()
        except StopIteration as done:
            return [p.row for p in done.value.rows]

    def _taken_since(self, grant: GrantEntry) -> int:
        """Rows that others were granted or labelled between the grant's proposals and itself."""
        between = self._log[grant.view_offset : grant.offset - 1]
        taking = (entry for entry in between if isinstance(entry, (GrantEntry, LabelsEntry)))
        return sum(len(entry.rows) for entry in taking)

    def _near_leased(self, seen: View) -> Rows:
        if not neighbours_of(seen.config.candidates) or not seen.leases:
            return np.empty(0, np.int32)
        return np.unique(self._neighbours_of(seen.config, sources(seen))).astype(np.int32)

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
        materials = self._load(view.config)
        seeds, found = seeds_of(snapshot), np.empty((0, 0), np.int32)
        if seeds is not None:
            found = self._neighbours_of(snapshot.config, seeds)
        candidates = candidates_of(materials, snapshot, seeds, found)
        self._ranking = rank(materials, head_state(materials, snapshot), candidates)
        return self._ranking

    def _load(self, config: SessionConfig) -> Materials:
        if self._materials is None or self._materials[0] != config:
            self._materials = config, self._loader.load(config)
        return self._materials[1]

    def _ranked_offset(self, grant: GrantEntry) -> int:
        """The last offset before the grant that has its revision and its configuration."""
        offset = grant.view_revision
        for entry in self._log[offset : grant.view_offset]:
            if isinstance(entry, ConfigEntry) and entry.config_version <= grant.config_version:
                offset = entry.offset
        return offset

    def _neighbours_of(self, config: SessionConfig, rows: Rows) -> Rows:
        pool = self._load(config).pool
        k = min(neighbours_of(config.candidates), pool.manifest.items - 1)
        keys = [(config.pool_version, k, row) for row in rows.tolist()]
        missing = [key[2] for key in keys if key not in self._neighbours]
        if missing:
            found = pool.neighbours(np.array(missing, np.int32), k)
            for row, neighbours in zip(missing, found, strict=True):
                self._neighbours[config.pool_version, k, row] = neighbours
        if not keys:
            return np.empty((0, k), np.int32)
        return np.stack([self._neighbours[key] for key in keys])


def _granted(
    ranking: Ranking, allowed: View, annotator: str, proposed: Sequence[int]
) -> tuple[int, ...]:
    """What the claim script would have granted of the proposed rows."""
    materials = ranking.materials
    is_free = allowed.free_for_review if ranking.is_review else allowed.free_for
    taken = TakenGroups.of(materials, allowed, is_review=ranking.is_review)
    one_lease = materials.rule is not None and materials.rule.one_lease
    rows: list[int] = []
    groups: set[int] = set()
    for row in proposed:
        group = materials.group_of(row) if one_lease else NO_GROUP
        if is_free(row, annotator) and taken.admits(row) and group not in groups:
            rows.append(row)
            groups |= {group} - {NO_GROUP}
    return tuple(rows)
