"""A view is the log applied in order: labels, leases, skips, and what follows for annotators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from coresift.server.head import Task
from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.view.labels import UNSURE, pack_class
from coresift.server.session.view.snapshot import Snapshot
from coresift.server.session.view.view import View
from coresift.server.state.entries import (
    ConfigEntry,
    Entry,
    ExpiryEntry,
    GrantEntry,
    LabelsEntry,
    ReleaseEntry,
)
from coresift.server.state.values import RETRACTION, Release, ViewKey

NO, YES = pack_class(0), pack_class(1)
CONFIG = SessionConfig("p", "v", Task.BINARY, ("no", "yes"))


class Log:
    """Entries at rising offsets."""

    def __init__(self, config: SessionConfig = CONFIG) -> None:
        self.entries: list[Entry] = []
        self.config(config)

    @property
    def next(self) -> int:
        return len(self.entries) + 1

    @property
    def nonce(self) -> bytes:
        return b"nonce %d" % self.next

    def config(self, config: SessionConfig) -> None:
        version = 1 + sum(isinstance(entry, ConfigEntry) for entry in self.entries)
        packed = config.settings().config
        self.entries.append(ConfigEntry(self.next, 0, "q", version, packed, self.nonce))

    def labels(self, annotator: str, *labels: tuple[int, bytes]) -> None:
        rows, values = zip(*labels, strict=True)
        ids = tuple(f"item-{row}" for row in rows)
        entry = LabelsEntry(self.next, 0, "q", self.nonce, annotator, rows, ids, values, ())
        self.entries.append(entry)

    def grant(self, annotator: str, *rows: int, review: bool = False) -> None:
        size = len(rows)
        entry = GrantEntry(self.next, 0, "q", annotator, rows, size, 9, 0, 0, 1, b"", review)
        self.entries.append(replace(entry, nonce=self.nonce))

    def release(self, annotator: str, reason: Release, *rows: int) -> None:
        entry = ReleaseEntry(self.next, 0, "q", annotator, rows, int(reason), self.nonce)
        self.entries.append(entry)

    def expiry(self, *leases: tuple[int, str]) -> None:
        self.entries.append(ExpiryEntry(self.next, 0, leases, self.nonce))


def applied(log: Log, entries: Sequence[Entry] | None = None) -> View:
    view = View(CONFIG, 1)
    view.apply(log.entries if entries is None else entries)
    return view


def contents(view: View) -> tuple[object, ...]:
    return (
        view.key(),
        view.votes,
        list(view.ever_rows),
        view.leases,
        view.skips,
        view.hidden,
        view.under_voted,
        view.extra,
        view.vote_count,
        view.label_count,
        list(view.recent),
        view.configs,
        view.config,
    )


def a_log() -> Log:
    log = Log()
    log.grant("ann", 1, 2, 3)
    log.labels("ann", (1, YES), (2, UNSURE))
    log.grant("bob", 4)
    log.labels("bob", (1, NO))
    log.release("ann", Release.SKIP, 3)
    log.release("bob", Release.CANNOT_LABEL, 4)
    log.labels("ann", (1, RETRACTION))
    log.grant("cyd", 5)
    log.expiry((5, "cyd"))
    log.config(replace(CONFIG, votes_per_item=2))
    log.labels("cyd", (1, YES))
    log.grant("dee", 1, review=True)
    return log


def test_a_log_has_one_meaning() -> None:
    view = applied(a_log())
    assert view.key() == ViewKey(13, 12, b"nonce 12", 2, b"nonce 13")
    assert view.votes == {1: {"bob": NO, "cyd": YES}, 2: {"ann": UNSURE}}
    assert list(view.ever_rows) == [1, 2]
    assert view.vote_count == 3
    assert view.leases == {1: {"dee"}}
    assert view.extra == {1: 1}
    assert view.under_voted == {1, 2}
    assert view.skips == {(3, "ann")}
    assert list(view.hidden) == [4]
    assert view.config.votes_per_item == 2


def test_pieces_and_repetitions_change_nothing() -> None:
    log = a_log()
    whole = contents(applied(log))
    for cut in range(len(log.entries) + 1):
        view = applied(log, log.entries[:cut])
        view.apply(log.entries[max(0, cut - 2) :])
        view.apply(log.entries)
        assert contents(view) == whole


def test_a_gap_in_the_log_is_refused() -> None:
    log = a_log()
    view = applied(log, log.entries[:3])
    before = contents(view)
    with pytest.raises(ValueError, match="log entry 5 after 3"):
        view.apply(log.entries[4:])
    assert contents(view) == before


def test_a_correction_is_one_vote_and_a_lost_one_leaves_no_item() -> None:
    log = Log()
    log.labels("ann", (1, YES))
    log.labels("ann", (1, NO), (2, RETRACTION))
    view = applied(log)
    assert view.votes == {1: {"ann": NO}}
    assert view.vote_count == 1
    log.labels("ann", (1, RETRACTION))
    view.apply(log.entries)
    assert view.votes == {}
    assert view.vote_count == 0
    assert list(view.ever_rows) == [1]
    assert view.revision == 4
    assert view.voted().tolist() == []
    log.labels("bob", (7, YES), (1, YES))
    view.apply(log.entries)
    assert list(view.ever_rows) == view.voted().tolist() == [1, 7]
    assert view.retracted == set()


def test_a_snapshot_does_not_move() -> None:
    log = a_log()
    view = applied(log, log.entries[:4])
    snapshot = Snapshot.of(view)
    before = (dict(snapshot.votes), snapshot.ever.tolist(), snapshot.revision)
    view.apply(log.entries)
    assert (snapshot.votes, snapshot.ever.tolist(), snapshot.revision) == before
    assert snapshot.votes == {1: {"ann": YES}, 2: {"ann": UNSURE}}


def test_who_may_have_an_item() -> None:
    log = Log()
    log.grant("ann", 1)
    log.labels("ann", (2, YES))
    log.release("ann", Release.SKIP, 3)
    log.release("ann", Release.CANNOT_LABEL, 4)
    view = applied(log)
    free = {name: [row for row in range(6) if view.free_for(row, name)] for name in ("ann", "bob")}
    assert free == {"ann": [0, 5], "bob": [0, 3, 5]}
    log.config(replace(CONFIG, votes_per_item=2))
    view.apply(log.entries)
    free = {name: [row for row in range(6) if view.free_for(row, name)] for name in ("ann", "bob")}
    assert free == {"ann": [0, 5], "bob": [0, 1, 2, 3, 5]}
    log.grant("bob", 1)
    view.apply(log.entries)
    assert not view.free_for(1, "cyd")


def test_who_waits_for_whom() -> None:
    log = Log()
    log.grant("ann", 1)
    view = applied(log)
    assert view.waits_for("bob")
    assert not view.waits_for("ann")
    log.release("bob", Release.SKIP, 1)
    view.apply(log.entries)
    assert not view.waits_for("bob")
    assert view.waits_for("cyd")


def test_a_spent_budget_comes_back_with_leases_only() -> None:
    log = Log(replace(CONFIG, label_budget=2))
    log.labels("ann", (0, YES))
    log.grant("bob", 1)
    view = applied(log)
    assert view.waits_for_budget("cyd", 3)
    assert not view.waits_for_budget("cyd", 1)  # the only item has its vote
    log.release("cyd", Release.SKIP, 1, 2)
    view.apply(log.entries)
    assert not view.waits_for_budget("cyd", 3)
    log.labels("dee", (2, YES))
    view.apply(log.entries)
    assert not view.waits_for_budget("eve", 9)  # spent by votes, which do not end


def free_for_review(view: View, annotator: str, items: int = 6) -> list[int]:
    return [row for row in range(items) if view.free_for_review(row, annotator)]


def test_who_may_take_a_second_look() -> None:
    log = Log()
    log.labels("ann", (1, YES), (2, YES), (3, YES), (4, YES))
    log.release("bob", Release.SKIP, 2)
    log.release("bob", Release.CANNOT_LABEL, 3)
    view = applied(log)
    assert free_for_review(view, "ann") == []
    assert free_for_review(view, "bob") == [1, 4]
    assert free_for_review(view, "cyd") == [1, 2, 4]
    log.grant("bob", 4, review=True)
    view.apply(log.entries)
    assert free_for_review(view, "cyd") == [1, 2]
    assert (view.quota_of(4), view.quota_of(1)) == (2, 1)
    assert view.under_voted == {4}
    log.labels("bob", (4, YES))
    view.apply(log.entries)
    assert view.under_voted == set()
    assert free_for_review(view, "cyd") == [1, 2, 4]
    assert not view.free_for(4, "cyd")


def test_a_second_look_raises_the_quota_by_what_it_needs() -> None:
    log = Log(replace(CONFIG, votes_per_item=3))
    log.labels("ann", (1, YES))
    log.grant("bob", 1, review=True)
    log.grant("cyd", 1, review=True)
    view = applied(log)
    assert view.extra == {}
    assert not view.free_for_review(1, "dee")
    log.labels("bob", (1, YES))
    log.labels("cyd", (1, YES))
    log.labels("dee", (1, YES))
    log.grant("eve", 1, review=True)
    view.apply(log.entries)
    assert view.extra == {1: 2}
    log.labels("dee", (1, RETRACTION))
    log.expiry((1, "eve"))
    view.apply(log.entries)
    assert view.extra == {1: 2}  # for good
    log.config(replace(CONFIG, votes_per_item=1))
    view.apply(log.entries)
    assert view.quota_of(1) == 3
    assert view.under_voted == set()


def test_an_expired_second_look_is_offered_to_all() -> None:
    log = Log()
    log.labels("ann", (1, YES))
    log.grant("bob", 1, review=True)
    view = applied(log)
    assert view.waits_for("cyd")
    assert not view.waits_for("ann")
    assert view.waits_for_budget("cyd", 1)
    log.expiry((1, "bob"))
    view.apply(log.entries)
    assert view.under_voted == {1}
    assert view.free_for(1, "cyd")
    assert not view.free_for(1, "ann")
