"""Coresift's Python client: what to label next, and what to keep.

`Client` blocks, `AsyncClient` is for asyncio; both have the same methods.
"""

from __future__ import annotations

from coresift.client.aio import AsyncClient
from coresift.client.calls.backup import Erasure
from coresift.client.calls.basis import Basis
from coresift.client.calls.config import (
    KEEP,
    All,
    Anchors,
    BatchPolicy,
    Groups,
    HeadConfig,
    Mix,
    RandomSubset,
    Seals,
    StopRule,
    Strategy,
)
from coresift.client.calls.consensus import AnnotatorAgreement, ItemConsensus
from coresift.client.calls.coreset_values import (
    Coreset,
    CoresetMethod,
    CoresetPlan,
    CoresetProgress,
    CoresetSummary,
    Sampler,
    Targets,
)
from coresift.client.calls.head import Head
from coresift.client.calls.labels import (
    RETRACT,
    UNSURE,
    Classes,
    Label,
    LabelRecord,
    LabelResult,
)
from coresift.client.calls.leases import Batch, Lease, Pick, Renewal
from coresift.client.calls.model import Predictions, Scores
from coresift.client.calls.pools import Neighbour, Pool
from coresift.client.calls.progress import (
    ClassCount,
    Estimate,
    Progress,
    RandomSample,
    ValidationScore,
)
from coresift.client.calls.session import Session
from coresift.client.calls.signals import Signal
from coresift.client.client import Client
from coresift.client.convert import StringColumn
from coresift.client.credentials import TokenFile
from coresift.client.dynamics import TrainingDynamics
from coresift.client.enums import (
    ClassWeight,
    Metric,
    Outcome,
    Phase,
    PickReason,
    Purpose,
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
    ItemsMissing,
    NotAllowed,
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
    "Anchors",
    "AnnotatorAgreement",
    "AsyncClient",
    "Basis",
    "Batch",
    "BatchPolicy",
    "ClassCount",
    "ClassWeight",
    "Classes",
    "Client",
    "Conflict",
    "Coreset",
    "CoresetMethod",
    "CoresetPlan",
    "CoresetProgress",
    "CoresetSummary",
    "CoresiftError",
    "DeadlineExceeded",
    "Erasure",
    "Estimate",
    "FieldViolation",
    "Groups",
    "Head",
    "HeadConfig",
    "InternalError",
    "InvalidInput",
    "ItemConsensus",
    "ItemsMissing",
    "Label",
    "LabelRecord",
    "LabelResult",
    "Lease",
    "Metric",
    "Mix",
    "Neighbour",
    "NotAllowed",
    "NotFound",
    "Outcome",
    "Phase",
    "Pick",
    "PickReason",
    "Pool",
    "PreconditionFailed",
    "Predictions",
    "Progress",
    "Purpose",
    "RandomSample",
    "RandomSubset",
    "Reason",
    "ReleaseReason",
    "Renewal",
    "ResourceExhausted",
    "Sampler",
    "Scores",
    "Seals",
    "Session",
    "Signal",
    "SignalKind",
    "StopAdvice",
    "StopRule",
    "Strategy",
    "StringColumn",
    "Targets",
    "Task",
    "TokenFile",
    "TrainingDynamics",
    "Unavailable",
    "ValidationScore",
]
