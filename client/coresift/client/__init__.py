"""Coresift's Python client: what to label next, and what to keep.

`Client` blocks, `AsyncClient` is for asyncio; both have the same methods.
"""

from __future__ import annotations

from coresift.client.aio import AsyncClient
from coresift.client.calls.basis import Basis
from coresift.client.calls.coreset import Coreset, CoresetPlan, CoresetProgress, CoresetSummary
from coresift.client.calls.labels import (
    RETRACT,
    UNSURE,
    Classes,
    Label,
    LabelRecord,
    LabelResult,
)
from coresift.client.calls.leases import Batch, Lease, Pick, Renewal
from coresift.client.calls.model import Head, Predictions, Scores
from coresift.client.calls.pools import Neighbour, Pool
from coresift.client.calls.session import (
    KEEP,
    All,
    ClassCount,
    HeadConfig,
    Progress,
    Seals,
    Session,
)
from coresift.client.calls.signals import Signal
from coresift.client.client import Client
from coresift.client.convert import StringColumn
from coresift.client.enums import (
    ClassWeight,
    Metric,
    Outcome,
    Phase,
    PickReason,
    ReleaseReason,
    SignalKind,
    StopAdvice,
    Task,
)
from coresift.client.errors import (
    AlreadyExists,
    Conflict,
    CoresiftError,
    DeadlineExceeded,
    FieldViolation,
    InternalError,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    Reason,
    ResourceExhausted,
    Unavailable,
)

__all__ = [
    "KEEP",
    "RETRACT",
    "UNSURE",
    "All",
    "AlreadyExists",
    "AsyncClient",
    "Basis",
    "Batch",
    "ClassCount",
    "ClassWeight",
    "Classes",
    "Client",
    "Conflict",
    "Coreset",
    "CoresetPlan",
    "CoresetProgress",
    "CoresetSummary",
    "CoresiftError",
    "DeadlineExceeded",
    "FieldViolation",
    "Head",
    "HeadConfig",
    "InternalError",
    "InvalidInput",
    "Label",
    "LabelRecord",
    "LabelResult",
    "Lease",
    "Metric",
    "Neighbour",
    "NotFound",
    "Outcome",
    "Phase",
    "Pick",
    "PickReason",
    "Pool",
    "PreconditionFailed",
    "Predictions",
    "Progress",
    "Reason",
    "ReleaseReason",
    "Renewal",
    "ResourceExhausted",
    "Scores",
    "Seals",
    "Session",
    "Signal",
    "SignalKind",
    "StopAdvice",
    "StringColumn",
    "Task",
    "Unavailable",
]
