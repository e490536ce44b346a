"""What to label before there is a head, and orders that no strategy scored."""

from __future__ import annotations

import numpy as np

from coresift.server.arrays import Bools, Rows
from coresift.server.pool.pool import Pool
from coresift.server.selection.candidates import neighbours_of
from coresift.server.selection.scoring import Scored
from coresift.server.session.setup.materials import Materials
from coresift.server.session.view.snapshot import Snapshot, positive_rows


def unscored(rows: Rows, *, is_complete: bool) -> Scored:
    """Rows that no strategy scored, in their order."""
    return Scored(rows, np.full(len(rows), np.nan), np.full(len(rows), -1, np.int16), is_complete)


def nearest_to_positives(pool: Pool, snapshot: Snapshot) -> Rows:
    rows = positive_rows(snapshot)
    k = min(neighbours_of(snapshot.config.candidates) or 100, pool.manifest.items - 1)
    if not len(rows) or not k:
        return np.empty((0, 0), np.int32)
    return pool.neighbours(rows, k)


def cold_start(
    materials: Materials, snapshot: Snapshot, nearest: Rows, blocked: Bools, depth: int
) -> Scored:
    """An order before a head exists.

    Only positives labelled: by turns their neighbours (the nearest of each first) and random
    items. Otherwise typical items of distinct clusters (the start of Hacohen et al., 2022),
    then random ones.
    """
    order = materials.random(snapshot.config.seed, "cold_start")
    wanted = depth + len(snapshot.votes) + len(materials.validation)
    random = order.first(wanted)
    if len(nearest):
        near = nearest.T.ravel()
        near = near[np.sort(np.unique(near, return_index=True)[1])]
        turns = np.concatenate([2.0 * np.arange(len(near)), 2.0 * np.arange(len(random)) + 1])
        rows = np.concatenate([near, random])[np.argsort(turns, kind="stable")]
    else:
        rows = np.concatenate([materials.pool.cold_start_rows, random])
    rows = rows[np.sort(np.unique(rows, return_index=True)[1])]
    rows = rows[~blocked[rows]].astype(np.int32)
    is_complete = wanted >= order.length
    return unscored(rows if is_complete else rows[:depth], is_complete=is_complete)
