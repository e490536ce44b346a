"""What a pool stores beside its vectors: clusters, index, neighbour table, cold start."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from coresift.server.arrays import Float32s, Rows
from coresift.server.pool import layout
from coresift.server.pool.clusters import (
    assign,
    centroid_rows,
    probes_for_recall,
    train_centroids,
    typical_rows,
)
from coresift.server.pool.directory import link_or_copy
from coresift.server.pool.list_join import ListJoin, probes_for
from coresift.server.pool.manifest import Manifest
from coresift.server.pool.neighbours import ExactTable, TableWork
from coresift.server.pool.partial import partial_table
from coresift.server.pool.pool import Pool
from coresift.server.pool.progress import Counter, Progress
from coresift.server.pool.rows import VectorRows
from coresift.server.pool.segment import open_segment
from coresift.server.pool.self_join import Lists
from coresift.server.pool.writer import sort_into_lists

_TABLE = 1
"""Another number where the parts of a table are no longer the same: none goes on with the old."""


def finish(
    directory: Path,
    draft: Manifest,
    parent: Pool | None,
    content: str,
    partial: Path,
    device: str,
    report: Progress,
) -> Manifest:
    """Write all that follows from the vectors; the newest segment lies in row order yet.

    ``content`` is the hash of its vectors; ``partial`` is where the neighbour table comes to be,
    and stays there beside the one in the directory; ``device`` is where its products are taken.
    """
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
        if device != "cpu":
            pool = VectorRows(segments, draft.metric, draft.max_norm, device)
        work, facts = _table_work(draft, pool, parent, clusters, centroids, report)
        key = hashlib.sha256(json.dumps([content, *facts]).encode()).hexdigest()
        _write_neighbours(directory, draft, work, partial, key, report)
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


def _table_work(
    draft: Manifest,
    pool: VectorRows,
    parent: Pool | None,
    clusters: Rows,
    centroids: Float32s,
    report: Progress,
) -> tuple[TableWork, list[Any]]:
    """How the table is made, and what decides it beside the newest vectors."""
    k, recall = draft.neighbours, draft.neighbours_recall
    facts = [_TABLE, draft.parent, draft.metric, draft.dtype, pool.items, k]
    if parent is not None and parent.neighbour_table is not None:
        return ExactTable(pool, k, parent.neighbour_table), facts
    if recall == 1:
        return ExactTable(pool, k, np.empty((0, k), np.int32)), facts
    report("recall", 0.0)
    lists = Lists.of(clusters, centroids, draft.metric)
    with threadpool_limits(1, user_api="blas"):  # blocks are spread over the cores
        probes = probes_for(pool, lists, k, recall)
    parts = [hashlib.sha256(array.tobytes()).hexdigest() for array in (clusters, centroids)]
    return ListJoin(pool, lists, probes, k), [*facts, probes, *parts]


def _write_neighbours(
    directory: Path, draft: Manifest, work: TableWork, partial: Path, key: str, report: Progress
) -> None:
    chunks = work.chunks()
    counter = Counter(report, "neighbours", draft.items)
    with (
        threadpool_limits(1, user_api="blas"),  # blocks are spread over the cores
        partial_table(partial, key, (draft.items, draft.neighbours), len(chunks)) as table,
    ):
        rest = chunks[table.done :]
        counter.add(sum(end - start for start, end in chunks[: table.done]))
        for rows, neighbours in work.work(rest):
            table.add(rows, neighbours)
            counter.add(len(rows))
        # While it is ours: another build may begin anew there afterwards.
        table.checkpoint()
        link_or_copy(table.path, directory / layout.NEIGHBOURS)
