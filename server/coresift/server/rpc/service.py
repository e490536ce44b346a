"""The selection service: its handlers by area."""

from __future__ import annotations

from coresift.server.rpc.backup_calls import BackupCalls
from coresift.server.rpc.coreset_calls import CoresetCalls
from coresift.server.rpc.labeling_calls import LabelingCalls
from coresift.server.rpc.model_calls import ModelCalls
from coresift.server.rpc.pool_calls import PoolCalls
from coresift.server.rpc.progress_calls import ProgressCalls
from coresift.server.rpc.services import Services
from coresift.server.rpc.session_calls import SessionCalls
from coresift.server.rpc.signal_calls import SignalCalls
from coresift.v1 import selection_pb2 as pb
from coresift.v1 import selection_pb2_grpc as rpc

SERVICE = pb.DESCRIPTOR.services_by_name["SelectionService"].full_name


class SelectionService(
    SessionCalls,
    BackupCalls,
    ProgressCalls,
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
