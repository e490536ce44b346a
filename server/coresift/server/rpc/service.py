"""The selection service: its handlers by area, and the pools."""

from __future__ import annotations

from coresift.server.rpc import checks, encode
from coresift.server.rpc.coreset_calls import CoresetCalls
from coresift.server.rpc.labeling_calls import LabelingCalls
from coresift.server.rpc.model_calls import ModelCalls
from coresift.server.rpc.services import Services
from coresift.server.rpc.session_calls import SessionCalls
from coresift.server.rpc.signal_calls import SignalCalls
from coresift.v1 import selection_pb2 as pb
from coresift.v1 import selection_pb2_grpc as rpc

SERVICE = pb.DESCRIPTOR.services_by_name["SelectionService"].full_name


class PoolCalls:
    """GetPool and ListPools."""

    services: Services

    async def GetPool(self, request: pb.GetPoolRequest, context: object) -> pb.GetPoolResponse:
        pool = self.services.pools.find(request.name, request.version, field="name")
        return pb.GetPoolResponse(pool=encode.pool(pool))

    async def ListPools(
        self, request: pb.ListPoolsRequest, context: object
    ) -> pb.ListPoolsResponse:
        size = checks.page_size(request.page_size)
        after = checks.page_after(request.page_token)
        pools = {f"{p.manifest.name}@{p.manifest.version}": p for p in self.services.pools}
        keys = list(pools)
        start = keys.index(after) + 1 if after in pools else 0
        page = keys[start : start + size]
        more = start + size < len(keys)
        return pb.ListPoolsResponse(
            pools=[encode.pool(pools[key]) for key in page],
            next_page_token=checks.page_token(page[-1]) if more else "",
        )


class SelectionService(
    SessionCalls,
    LabelingCalls,
    ModelCalls,
    SignalCalls,
    CoresetCalls,
    PoolCalls,
    rpc.SelectionServiceServicer,
):
    """All handlers: each decodes, calls the session layer, encodes."""

    def __init__(self, services: Services) -> None:
        self.services = services
