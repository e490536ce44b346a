"""The API's enumerations as Python strings: ``Task.BINARY == "binary"``.

A value that a newer server knows and this client does not reads as ``UNKNOWN``.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeVar


class Task(StrEnum):
    """What a label is: see `Client.create_session`."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    MULTILABEL = "multilabel"
    UNKNOWN = "unknown"


class ClassWeight(StrEnum):
    """How labels weigh in the head: all the same, or inversely to their class's number."""

    NONE = "none"
    BALANCED = "balanced"
    UNKNOWN = "unknown"


class Phase(StrEnum):
    """How a batch came about."""

    COLD_START = "cold_start"
    SELECTING = "selecting"
    WAITING = "waiting"
    EXHAUSTED = "exhausted"
    UNKNOWN = "unknown"


class PickReason(StrEnum):
    """Why an item was picked."""

    EXPLOIT = "exploit"
    COLD_START = "cold_start"
    EXPAND = "expand"
    RANDOM = "random"
    UNDER_VOTED = "under_voted"
    EXPLORE = "explore"
    VALIDATION = "validation"
    REVIEW = "review"
    UNKNOWN = "unknown"


class Purpose(StrEnum):
    """What a batch is for: items that lack votes, or labelled ones worth a second look."""

    NEW = "new"
    REVIEW = "review"
    UNKNOWN = "unknown"


class Outcome(StrEnum):
    """What a label did."""

    NEW = "new"
    CORRECTED = "corrected"
    RETRACTED = "retracted"
    UNCHANGED = "unchanged"
    LATE = "late"
    SURPLUS = "surplus"
    UNKNOWN = "unknown"


class ReleaseReason(StrEnum):
    """Why a lease is handed back: free again, hidden from this annotator, hidden from all."""

    RETURN = "return"
    SKIP = "skip"
    CANNOT_LABEL = "cannot_label"
    UNKNOWN = "unknown"


class StopAdvice(StrEnum):
    """Why labeling may stop."""

    CONTINUE = "continue"
    BUDGET_SPENT = "budget_spent"
    POOL_EXHAUSTED = "pool_exhausted"
    RECALL_REACHED = "recall_reached"
    STABILISED = "stabilised"
    UNKNOWN = "unknown"


class SignalKind(StrEnum):
    """What the numbers of a signal are."""

    NUMBER = "number"
    CLASS = "class"
    PROBABILITIES = "probabilities"
    UNKNOWN = "unknown"


class Metric(StrEnum):
    """What makes two items of a pool similar."""

    COSINE = "cosine"
    INNER_PRODUCT = "inner_product"
    L2 = "l2"
    UNKNOWN = "unknown"


PREFIXES: dict[type[StrEnum], str] = {
    Task: "TASK_",
    ClassWeight: "CLASS_WEIGHT_",
    Phase: "PHASE_",
    PickReason: "PICK_REASON_",
    Purpose: "PURPOSE_",
    Outcome: "LABEL_OUTCOME_",
    ReleaseReason: "RELEASE_REASON_",
    StopAdvice: "STOP_ADVICE_",
    SignalKind: "SIGNAL_KIND_",
    Metric: "METRIC_",
}

E = TypeVar("E", bound=StrEnum)


def number(wire: Any, kind: type[E], value: E | str) -> Any:
    """The wire number of a value; ``ValueError`` names the valid ones."""
    valid = [str(member) for member in kind if member.name != "UNKNOWN"]
    if value not in valid:
        raise ValueError(f"{kind.__name__} must be one of {', '.join(valid)}, got {value!r}")
    return wire.Value(PREFIXES[kind] + kind(value).name)


def member(wire: Any, kind: type[E], value: int) -> E:
    """The value of a wire number; ``UNKNOWN`` where there is none."""
    found: E = _member(wire, kind, value)
    return found


@lru_cache(1_024)  # unkept, 2 us each: half of what reading a batch of 100 takes
def _member(wire: Any, kind: type[StrEnum], value: int) -> Any:
    known = value in wire.values()
    name = wire.Name(value).removeprefix(PREFIXES[kind]) if known else "UNKNOWN"
    return kind[name] if name in kind.__members__ else kind["UNKNOWN"]
