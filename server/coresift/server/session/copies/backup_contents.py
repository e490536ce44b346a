"""What a copy of a session says, checked entry by entry, and the rows that follow from its log."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from coresift.server.head import Task
from coresift.server.pool.groups import NO_GROUP
from coresift.server.pool.pool import Pool
from coresift.server.session.copies.backup_file import damaged
from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.setup.materials import Materials
from coresift.server.session.view.labels import ClassSets, unpack
from coresift.server.session.view.view import View
from coresift.server.state.entries import (
    ConfigEntry,
    Entry,
    ExpiryEntry,
    GrantEntry,
    LabelsEntry,
    ReleaseEntry,
    unpack_entry,
)
from coresift.server.state.transfer import Rows, Standing
from coresift.server.state.values import RETRACTION, LiveLease, Settings

MAX_ANNOTATOR_BYTES = 128
NUMBERS = ("format", "pos", "rev", "cv", "votes", "created", "now", "quota", "budget")
OTHER_FIELDS = ("secret", "config", "nonce")
"""With the numbers, the fields of meta that a file must have."""
MOST = 1 << 47
"""Times (ms) and counts are below it: it is far off, and still a date that can be written."""


class Copied:
    """A log as it is read, entry by entry.

    Attributes:
        nonce: of the newest entry with labels.
        packed_config: the newest configuration, as the entry has it.
    """

    def __init__(self, check: Callable[[Entry], None] = lambda entry: None) -> None:
        self._view: View | None = None
        self.nonce = b""
        self.packed_config = b""
        self._check = check

    @property
    def offset(self) -> int:
        """Of the newest entry; 0 before the first."""
        return 0 if self._view is None else self._view.offset

    @property
    def view(self) -> View:
        """What the entries amount to."""
        if self._view is None:
            raise damaged("has no log")
        return self._view

    def add(self, after: int, blobs: Sequence[bytes]) -> list[Entry]:
        """Take the packed entries that follow position ``after``, whole or not at all."""
        entries = [unpack_entry(offset, blob) for offset, blob in enumerate(blobs, after + 1)]
        for entry in entries:
            if self._view is None:
                if not isinstance(entry, ConfigEntry) or entry.offset != 1:
                    raise damaged("has a log that does not start with a configuration")
                first = SessionConfig.from_settings(Settings(1, None, entry.config))
                self._view = View(first, entry.config_version)
            self._check(entry)
            self._view.apply([entry])
            if isinstance(entry, LabelsEntry):
                self.nonce = entry.nonce
            if isinstance(entry, ConfigEntry):
                self.packed_config = entry.config
        return entries

    def check_standing(self, standing: Standing) -> None:
        """Refuse what does not fit the log."""
        view, meta, settings = self.view, standing.meta, standing.settings
        said = (int(meta["pos"]), int(meta["rev"]), meta["nonce"], int(meta["cv"]))
        found = (view.offset, view.revision, self.nonce, view.config_version)
        if said != found or int(meta["votes"]) != view.vote_count:
            raise damaged("has a log that is not the one its last frame tells of")
        if settings.config != self.packed_config or settings != view.config.settings():
            raise damaged("has settings that are not those of its newest configuration")
        held = {(lease.row, lease.annotator) for lease in standing.leases}
        if missing := [
            (row, name) for row, own in view.leases.items() for name in own - _of(held, row, own)
        ]:
            raise damaged(f"lacks the lease of row {missing[0][0]}")


def _of(held: Collection[tuple[int, str]], row: int, names: frozenset[str]) -> frozenset[str]:
    return frozenset(name for name in names if (row, name) in held)


def annotators_of(entry: Entry) -> set[str]:
    """The annotators that an entry names."""
    match entry:
        case LabelsEntry() | GrantEntry() | ReleaseEntry():
            return {entry.annotator}
        case ExpiryEntry():
            return {annotator for _, annotator in entry.leases}
        case _:
            return set()


def rows_of(entries: Sequence[Entry]) -> set[int]:
    """The rows whose votes entries may change."""
    return {
        row
        for entry in entries
        if isinstance(entry, LabelsEntry | GrantEntry | ReleaseEntry)
        for row in entry.rows
    }


def votes_and_skips(view: View, rows: Collection[int] | None = None) -> Rows:
    """Votes, quotas and skips of a view; of all rows, or of some as they are now."""
    if rows is None:
        skips = [*view.skips, *((row, None) for row in view.hidden)]
        return Rows(votes=view.votes, extra=view.extra, skips=skips)
    return Rows(
        votes={row: view.votes[row] for row in rows if row in view.votes},
        unvoted=[row for row in rows if row not in view.votes],
        extra={row: view.extra[row] for row in rows if row in view.extra},
        skips=[
            *((row, name) for row, name in view.skips if row in rows),
            *((row, None) for row in rows if row in view.hidden),
        ],
    )


def leases_and_groups(view: View, leases: Sequence[LiveLease], materials: Materials | None) -> Rows:
    """Leases as the store has them, and groups; ``materials`` where groups have one lease."""
    labelled: dict[int, list[int]] = {}
    leased: dict[int, int] = {}
    rule = None if materials is None else materials.rule
    if materials is not None and rule is not None and rule.one_lease:
        rows = sorted({lease.row for lease in leases})
        pairs = zip(materials.kept_groups(rows), rows, strict=True)
        leased = {group: row for group, row in pairs if group != NO_GROUP}
        if rule.one_label:
            voted = view.voted().tolist()
            for row, group in zip(voted, materials.kept_groups(voted), strict=True):
                if group != NO_GROUP:
                    labelled.setdefault(group, []).append(row)
    return Rows(labelled_groups=labelled, leased_groups=leased, leases=leases)


class Fits:
    """Refuses entries that a session of a configuration and a pool cannot have."""

    def __init__(self, config: SessionConfig, pool: Pool) -> None:
        self._config, self._pool, self._items = config, pool, pool.manifest.items
        self._values: set[bytes] = {RETRACTION}

    def entry(self, entry: Entry) -> None:
        """INVALID_BACKUP."""
        at = f"in log entry {entry.offset}"
        if not isinstance(entry.time_ms, int) or not 0 <= entry.time_ms < MOST:
            raise damaged(f"has {at} no time")
        if not isinstance(entry.nonce, bytes):
            raise damaged(f"has {at} no nonce")
        for name in annotators_of(entry):
            self.annotator(name, at)
        match entry:
            case LabelsEntry():
                self.rows(entry.rows, at)
                self._labels(entry, at)
            case GrantEntry() | ReleaseEntry():
                self.rows(entry.rows, at)
            case ExpiryEntry():
                self.rows([row for row, _ in entry.leases], at)
            case ConfigEntry():
                then = SessionConfig.from_settings(Settings(1, None, entry.config))
                now = self._config
                if (then.pool, then.task, then.classes, then.seed, then.pseudonymous) != (
                    (now.pool, now.task, now.classes, now.seed, now.pseudonymous)
                ):
                    raise damaged(f"has {at} what never changes in a session, changed")

    def rows(self, rows: Sequence[int], at: str) -> None:
        """Rows are those of the pool."""
        for row in rows:
            if not isinstance(row, int) or not 0 <= row < self._items:
                raise damaged(f"names {at} a row that the pool lacks: {row!r}")

    def annotator(self, name: str, at: str) -> None:
        """Names have a length that calls may have, too."""
        if not 1 <= len(name.encode()) <= MAX_ANNOTATOR_BYTES:
            raise damaged(f"names {at} an annotator of {len(name.encode())} bytes")

    def _labels(self, entry: LabelsEntry, at: str) -> None:
        if not len(entry.rows) == len(entry.item_ids) == len(entry.values) == len(entry.outcomes):
            raise damaged(f"has {at} lists of different lengths")
        found = self._pool.ids.rows_of(entry.item_ids)
        wrong = np.flatnonzero(np.asarray(found) != np.array(entry.rows))
        if wrong.size:
            item_id = entry.item_ids[int(wrong[0])]
            raise damaged(f"names {at} item {item_id!r} by a row that is not the pool's")
        for value in entry.values:
            if value not in self._values:
                self._value(value, at)
                self._values.add(value)

    def _value(self, value: bytes, at: str) -> None:
        content, classes = unpack(value), len(self._config.classes)
        numbers: Sequence[int] = () if content is None else (content,)  # type: ignore[assignment]
        if isinstance(content, ClassSets):
            numbers = (*content.present, *content.absent)
        sets = isinstance(content, ClassSets)
        if content is not None and sets != (self._config.task is Task.MULTILABEL):
            raise damaged(f"has {at} a label that does not fit the task")
        if not all(isinstance(number, int) and 0 <= number < classes for number in numbers):
            raise damaged(f"has {at} a class that the session lacks")


def standing_of(said: Mapping[str, bytes], leases: Sequence[LiveLease]) -> Standing:
    """What a file says besides the log. TypeError, ValueError, KeyError.

    Fields of no meaning here are passed over; the newest entry's nonce is found in the log.
    """
    meta = {name: said[name] for name in (*NUMBERS, *OTHER_FIELDS)}
    for name, value in meta.items():
        if not isinstance(value, bytes):
            raise TypeError(f"its {name} is not bytes")
    for name in NUMBERS:
        number = int(meta[name])
        if meta[name] != str(number).encode() or not -1 <= number < MOST:
            raise ValueError(f"its {name} is no number of the kind")
    if len(meta["secret"]) < 16:
        raise ValueError("its key is too short")
    if not all(0 <= lease.deadline_ms < MOST for lease in leases):
        raise ValueError("the deadline of a lease is no time")
    return Standing(meta, tuple(leases))
