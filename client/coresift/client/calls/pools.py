"""Pools: what is served, and the nearest items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy.typing as npt

from coresift.client.convert import matrix, vectors
from coresift.client.enums import Metric, member
from coresift.client.flow import Flow, Iteration, Rpc, call, pages, parts
from coresift.v1 import selection_pb2 as pb

SEARCH = Rpc("SearchPool", pb.SearchPoolRequest, pb.SearchPoolResponse)
GET = Rpc("GetPool", pb.GetPoolRequest, pb.GetPoolResponse)
LIST = Rpc("ListPools", pb.ListPoolsRequest, pb.ListPoolsResponse)
ITEMS = Rpc("GetItems", pb.GetItemsRequest, pb.GetItemsResponse)

MOST_ITEMS = 10_000


@dataclass(frozen=True)
class Pool:
    """What a served pool version holds, and the limits of one call."""

    name: str
    version: str
    parent_version: str
    """Empty: the first of its lineage."""
    items: int
    dimension: int
    dtype: str
    metric: Metric
    index_kind: str
    clusters: int
    neighbours: int
    """Neighbours an item in the stored table; 0: no table."""
    neighbours_recall: float
    """Share of the true neighbours that the table holds on average, at least; 0: no table."""
    metadata_columns: tuple[str, ...]
    max_batch_size: int
    max_labels_per_call: int
    max_vectors_per_call: int


@dataclass(frozen=True)
class Neighbour:
    """An item near the query."""

    item_id: str
    similarity: float
    """Inner product (cosine on cosine pools); for metric l2 the negative squared distance."""
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class FoundItems:
    """Items that a pool has, with their metadata, and ids that it lacks."""

    metadata: Mapping[str, Mapping[str, str]]
    """By item id, in the order asked."""
    missing: tuple[str, ...]


def get_items(pool: str, item_ids: Sequence[str], *, pool_version: str = "") -> Flow[FoundItems]:
    """Metadata of any number of items, and which ids the pool lacks. NotFound: POOL_NOT_FOUND."""
    metadata: dict[str, Mapping[str, str]] = {}
    missing: list[str] = []
    for part in parts(len(item_ids), MOST_ITEMS):
        request = pb.GetItemsRequest(pool=pool, pool_version=pool_version, item_ids=item_ids[part])
        reply = yield from call(ITEMS, request)
        metadata |= {item.item_id: dict(item.metadata) for item in reply.items}
        missing.extend(reply.missing)
    return FoundItems(metadata, tuple(missing))


def search_pool(
    pool: str,
    *,
    item_id: str | None = None,
    vector: npt.ArrayLike | None = None,
    count: int = 10,
    pool_version: str = "",
    include_metadata: bool = True,
) -> Flow[list[Neighbour]]:
    """The ``count`` (1..1000) items nearest to an item or a vector [d], most similar first.

    Finds the first positives of a rare concept. The item asked with is not among the answers.

    Raises:
        NotFound: POOL_NOT_FOUND, ITEM_NOT_FOUND. InvalidInput: INVALID_VECTOR.
    """
    if (item_id is None) == (vector is None):
        raise ValueError("give exactly one of item_id, vector")
    request = pb.SearchPoolRequest(
        pool=pool, pool_version=pool_version, count=count, include_metadata=include_metadata
    )
    if item_id is not None:
        request.item_id = item_id
    else:
        request.vector.CopyFrom(vectors(matrix(cast("npt.ArrayLike", vector))))
    reply = yield from call(SEARCH, request)
    return [Neighbour(n.item_id, n.similarity, dict(n.metadata)) for n in reply.neighbours]


def get_pool(name: str, version: str = "") -> Flow[Pool]:
    """A served pool; without ``version`` its newest. NotFound: POOL_NOT_FOUND."""
    reply = yield from call(GET, pb.GetPoolRequest(name=name, version=version))
    return _pool(reply.pool)


def list_pools(page_size: int = 0) -> Iteration[Pool]:
    """The served pools, by name, then from the oldest version to the newest."""

    def page(token: str) -> Flow[tuple[list[Pool], str]]:
        request = pb.ListPoolsRequest(page_size=page_size, page_token=token)
        reply = yield from call(LIST, request)
        return [_pool(pool) for pool in reply.pools], reply.next_page_token

    yield from pages(page)


def _pool(pool: pb.Pool) -> Pool:
    return Pool(
        name=pool.name,
        version=pool.version,
        parent_version=pool.parent_version,
        items=pool.items,
        dimension=pool.dimension,
        dtype=pool.dtype,
        metric=member(pb.Metric, Metric, pool.metric),
        index_kind=pool.index_kind,
        clusters=pool.clusters,
        neighbours=pool.neighbours,
        neighbours_recall=pool.neighbours_recall,
        metadata_columns=tuple(pool.metadata_columns),
        max_batch_size=pool.max_batch_size,
        max_labels_per_call=pool.max_labels_per_call,
        max_vectors_per_call=pool.max_vectors_per_call,
    )
