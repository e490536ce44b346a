"""Handlers of pools: what is served, and metadata of items."""

from __future__ import annotations

from coresift.server.rpc import checks, encode
from coresift.server.rpc.services import Services
from coresift.server.session.setup.pools import Place, pool_place
from coresift.v1 import selection_pb2 as pb


class PoolCalls:
    """GetPool, ListPools and GetItems."""

    services: Services

    async def GetPool(self, request: pb.GetPoolRequest, context: object) -> pb.GetPoolResponse:
        pool = self.services.pools.find(request.name, request.version, "name", "version")
        return pb.GetPoolResponse(pool=encode.pool(pool))

    async def ListPools(
        self, request: pb.ListPoolsRequest, context: object
    ) -> pb.ListPoolsResponse:
        size = checks.page_size(request.page_size)
        after = _place(checks.page_after("pools", request.page_token))
        pools = [pool for pool in self.services.pools if pool_place(pool) > after]
        token = ""
        if len(pools) > size:
            name, age, version = pool_place(pools[size - 1])
            token = checks.page_token("pools", f"{age}:{version}:{name}")
        return pb.ListPoolsResponse(
            pools=[encode.pool(pool) for pool in pools[:size]], next_page_token=token
        )

    async def GetItems(self, request: pb.GetItemsRequest, context: object) -> pb.GetItemsResponse:
        pool = self.services.pools.find(request.pool, request.pool_version)
        checks.count("item_ids", len(request.item_ids), checks.MAX_VECTORS)
        rows = checks.known_rows(pool, "item_ids[{}]", request.item_ids)
        found = [i for i, row in enumerate(rows.tolist()) if row >= 0]
        return pb.GetItemsResponse(
            basis=encode.pool_basis(pool),
            items=[
                pb.Item(item_id=request.item_ids[i], metadata=columns)
                for i, columns in zip(found, pool.metadata(rows[found]), strict=True)
            ],
            missing=[request.item_ids[i] for i, row in enumerate(rows.tolist()) if row < 0],
        )


def _place(key: str) -> Place:
    if not key:
        return "", 0, ""
    age, _, rest = key.partition(":")
    version, _, name = rest.partition(":")
    return name, checks.small_number(age), version
