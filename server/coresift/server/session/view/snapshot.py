"""The labels of a session at a revision, and the head that they determine. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coresift.server.arrays import Float64s, Int64s, Rows
from coresift.server.errors import CoresiftError, Reason
from coresift.server.head import Head, Task, TrainingSet, fit
from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.setup.materials import Materials
from coresift.server.session.view.labels import pack_class, training_targets
from coresift.server.session.view.pages import Pages
from coresift.server.session.view.view import View
from coresift.server.state.values import head_key


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The labels of a view at its revision; safe to read on other threads."""

    config: SessionConfig
    config_version: int
    revision: int
    nonce: bytes
    lineage: object
    """Of the view."""
    votes: Pages[dict[str, bytes]]
    ever: Rows
    first_offsets: Int64s
    """Of the log entries with the first labels of the rows in ``ever``, ascending."""

    @classmethod
    def of(cls, view: View) -> Snapshot:
        """A snapshot of the view as it is."""
        return cls(
            view.config,
            view.config_version,
            view.revision,
            view.nonce,
            view.lineage,
            view.votes.copy(),
            np.array(view.ever_rows, np.int32),
            np.array(view.ever_offsets, np.int64),
        )

    def labelled(self) -> Rows:
        """Rows with a vote, ascending."""
        return np.sort(self.votes.rows())

    def vote_count(self) -> int:
        """Votes of all items."""
        return sum(map(len, self.votes.values()))

    def targets_of(self, rows: Rows) -> tuple[Rows, Float64s, Float64s]:
        """Those of ``rows`` (labelled ones) that train something, with their targets and opposed
        weights as in `coresift.server.head.TrainingSet`."""
        ballots = [self.votes[row] for row in rows.tolist()]
        # Rows share equal ballots: what one teaches is worked out once.
        addresses = np.fromiter((id(ballot) for ballot in ballots), np.int64, len(ballots))
        _, firsts, which = np.unique(addresses, return_index=True, return_inverse=True)
        votes = [tuple(ballots[first].values()) for first in firsts.tolist()]
        config = self.config
        places, targets, opposed = training_targets(config.task, len(config.classes), votes)
        place_of = np.full(len(votes), -1)
        place_of[places] = np.arange(len(places))
        which = place_of[which]
        trained = np.flatnonzero(which >= 0)
        return rows[trained], targets[which[trained]], opposed[which[trained]]


@dataclass(frozen=True, slots=True)
class HeadState:
    """The head of a snapshot; ``head`` is None while the labels do not determine one and there is
    no prior."""

    snapshot: Snapshot
    head: Head | None
    is_prior: bool = False

    @property
    def version(self) -> str:
        """Identifies the head by labels and configuration; empty without one."""
        if self.head is None:
            return ""
        if self.is_prior:
            return f"prior-{self.snapshot.config.prior_head[:16]}"
        return head_key(self.snapshot.revision, self.snapshot.nonce, self.snapshot.config_version)

    @property
    def unfitted_classes(self) -> tuple[str, ...]:
        """Names of the columns that the head lacks; all without a head."""
        names = self.snapshot.config.head_classes
        if self.head is None:
            return names
        return tuple(name for name, ok in zip(names, self.head.fitted, strict=True) if not ok)


def fit_head(materials: Materials, snapshot: Snapshot) -> Head | None:
    """The head of the snapshot's labels; None where they do not determine one."""
    rows, targets, opposed = training_rows(materials, snapshot)
    if not len(rows):
        return None
    config = snapshot.config
    training = TrainingSet(materials.pool.fetch(rows), targets, opposed)
    return fit(config.task, config.head, training)


def training_rows(materials: Materials, snapshot: Snapshot) -> tuple[Rows, Float64s, Float64s]:
    """Rows that train the head, ascending, with targets and opposed weights."""
    rows = snapshot.labelled()
    if len(materials.validation):
        rows = np.setdiff1d(rows, materials.validation, assume_unique=True).astype(np.int32)
    return snapshot.targets_of(rows)


def head_state(materials: Materials, snapshot: Snapshot) -> HeadState:
    """The snapshot with its head, or the prior."""
    head = fit_head(materials, snapshot)
    return with_head(materials, snapshot, head)


def with_head(materials: Materials, snapshot: Snapshot, head: Head | None) -> HeadState:
    """The snapshot with a head that was fitted before, or the prior."""
    if head is None and materials.prior is not None:
        return HeadState(snapshot, materials.prior, is_prior=True)
    return HeadState(snapshot, head)


def positive_rows(snapshot: Snapshot) -> Rows:
    """Rows that some annotator calls positive, ascending; none unless the task is binary."""
    if snapshot.config.task is not Task.BINARY:
        return np.empty(0, np.int32)
    positive = pack_class(1)
    rows = (row for row, item in snapshot.votes.items() if positive in item.values())
    return np.sort(np.fromiter(rows, np.int32))


def head_of(state: HeadState) -> Head:
    """The head, or HEAD_NOT_FITTED."""
    if state.head is None:
        raise CoresiftError(
            Reason.HEAD_NOT_FITTED,
            "the labels do not determine a head yet: binary sessions need a positive and a "
            "negative, multiclass two classes, multilabel one class present and absent",
        )
    return state.head
