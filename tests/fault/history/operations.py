"""Operations: the attempts of one request, put together, and its messages decoded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.fault.history.record import MESSAGES, READS, Attempt, Outcome

from coresift.server.session.view.labels import UNSURE, pack_class
from coresift.server.state.values import RETRACTION
from coresift.v1 import selection_pb2 as pb

CLASSES = ("negative", "positive")
"""Of a binary session."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A write with all its attempts, or one attempt of a read."""

    kind: str
    request_id: str
    intent: str
    request: Any
    attempts: tuple[Attempt, ...]
    """In the order of their starts."""
    answers: tuple[Any, ...]
    """Of the attempts that went well, in the order of their ends."""

    @property
    def began_ms(self) -> float:
        """When the first attempt began."""
        return self.attempts[0].invoked_ms

    @property
    def acknowledged_ms(self) -> float | None:
        """When the first answer came; None: none did."""
        return min((a.completed_ms for a in self.attempts if a.outcome is Outcome.OK), default=None)

    @property
    def answer(self) -> Any:
        """The first answer."""
        return self.answers[0]

    @property
    def may_have_happened(self) -> bool:
        """Whether any attempt may have had an effect."""
        return any(attempt.outcome is not Outcome.REFUSED for attempt in self.attempts)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of its attempts."""
        return tuple(attempt.number for attempt in self.attempts)


def operations_of(attempts: Iterable[Attempt]) -> list[Operation]:
    """The operations of a session's attempts, by their starts."""
    groups: dict[tuple[str, bytes], list[Attempt]] = {}
    for attempt in attempts:
        is_read = attempt.kind in READS
        key = str(attempt.number) if is_read else f"{attempt.kind} {attempt.request_id}"
        groups.setdefault((key, attempt.request), []).append(attempt)
    found = [_operation(group) for group in groups.values()]
    return sorted(found, key=lambda operation: operation.began_ms)


def _operation(group: list[Attempt]) -> Operation:
    first = min(group, key=lambda attempt: attempt.invoked_ms)
    request, answer = MESSAGES[first.kind]
    answered = sorted(
        (attempt for attempt in group if attempt.outcome is Outcome.OK),
        key=lambda attempt: attempt.completed_ms,
    )
    return Operation(
        first.kind,
        first.request_id,
        first.intent,
        request.FromString(first.request),
        tuple(sorted(group, key=lambda attempt: attempt.invoked_ms)),
        tuple(answer.FromString(attempt.answer) for attempt in answered),
    )


def row_of(item_id: str) -> int:
    """The row of an item."""
    return int(item_id.rpartition("-")[2])


def rows_of(item_ids: Iterable[str]) -> tuple[int, ...]:
    """Rows of items."""
    return tuple(map(row_of, item_ids))


def value_of(label: pb.Label, classes: Sequence[str]) -> bytes:
    """A label as the log keeps it."""
    kind = label.WhichOneof("value")
    if kind == "class_name":
        return pack_class(classes.index(label.class_name))
    return UNSURE if kind == "unsure" else RETRACTION


def lease_ms_of(request: Any) -> int | None:
    """The lease duration that a request names."""
    if not request.HasField("lease_duration"):
        return None
    return int(request.lease_duration.ToTimedelta().total_seconds() * 1000)


def milliseconds(timestamp: Any) -> int:
    """A timestamp of an answer, as the store counts."""
    return int(timestamp.ToMilliseconds())
