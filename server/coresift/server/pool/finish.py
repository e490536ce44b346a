"""What a pool stores beside its vectors: clusters, index, neighbour table, cold start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coresift.server.arrays import Float32s, Rows
from coresift.server.pool import layout
from coresift.server.pool.clusters import (
    assign,
    centroid_rows,
    probes_for_recall,
    train_centroids,
    typical_rows,
)
from coresift.server.pool.manifest import Manifest
from coresift.server.pool.neighbours import fill_table
from coresift.server.pool.pool import Pool
from coresift.server.pool.progress import Counter, Progress
from coresift.server.pool.rows import VectorRows
from coresift.server.pool.segment import open_segment
from coresift.server.pool.writer import sort_into_lists


def finish(directory: Path, draft: Manifest, parent: Pool | None, report: Progress) -> Manifest:
    """Write all that follows from the vectors; the newest segment lies in row order yet."""
    clusters, centroids = _cluster(directory, draft, parent, report)
    draft = replace(draft, clusters=len(centroids))
    if draft.index == "ivf":
        newest = draft.segments[-1]
        report("lists", 0.0)
        sort_into_lists(
            directory, len(draft.segments) - 1, clusters[newest.first :], draft.clusters
        )
    segments = [open_segment(directory, draft, n) for n in range(len(draft.segments))]
    pool = VectorRows(segments, draft.metric, draft.max_norm)
    if draft.index == "ivf":
        report("probes", 0.0)
        lists = centroid_rows(centroids, draft.metric)
        draft = replace(draft, probes=probes_for_recall(pool, lists, clusters))
    if draft.neighbours:
        _write_neighbours(directory, draft, pool, parent, report)
    cold_start = len(np.fromfile(directory / layout.COLD_START, np.int32))
    return replace(draft, cold_start=cold_start)


def _cluster(
    directory: Path, draft: Manifest, parent: Pool | None, report: Progress
) -> tuple[Rows, Float32s]:
    number = len(draft.segments) - 1
    segment = replace(open_segment(directory, replace(draft, index="flat"), number), first=0)
    rows = VectorRows([segment], draft.metric, draft.max_norm)
    report("k-means", 0.0)
    centroids = train_centroids(rows) if parent is None else np.array(parent.centroids)
    counter = Counter(report, "clusters", rows.items)
    clusters, distances = assign(rows, centroids, counter.add)
    if parent is not None:
        clusters = np.concatenate([parent.clusters, clusters])
        distances = np.concatenate([parent.distances, distances])
    arrays: dict[str, npt.NDArray[Any]] = {
        layout.CENTROIDS: centroids,
        layout.CLUSTERS: clusters,
        layout.DISTANCES: distances,
        layout.COLD_START: typical_rows(clusters, distances),
    }
    for name, array in arrays.items():
        array.tofile(directory / name)
    return clusters, centroids


def _write_neighbours(
    directory: Path, draft: Manifest, pool: VectorRows, parent: Pool | None, report: Progress
) -> None:
    shape = (pool.items, draft.neighbours)
    table = np.memmap(directory / layout.NEIGHBOURS, np.int32, "w+", shape=shape)
    known = 0
    if parent is not None and parent.neighbour_table is not None:
        known = parent.manifest.items
        table[:known] = parent.neighbour_table
    counter = Counter(report, "neighbours", pool.items)
    fill_table(pool, np.asarray(table), known, counter.add)
    table.flush()
