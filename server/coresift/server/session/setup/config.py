"""A session's configuration: what it may be, and its form in the state store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from typing import Any, TypeVar, get_args

import msgpack

from coresift.server.artifacts import is_content_hash
from coresift.server.errors import CoresiftError, Reason
from coresift.server.head import ClassWeight, HeadConfig, Task
from coresift.server.selection.candidates import (
    CANDIDATE_POLICIES,
    CandidatePolicy,
    Seals,
    name_of,
)
from coresift.server.selection.parameters import read
from coresift.server.selection.plain import DOUBTS
from coresift.server.selection.registry import BATCH_POLICIES, MIX, STRATEGIES, Choice
from coresift.server.state.values import Settings

T = TypeVar("T")

DEFAULT_LEASE_MS = 15 * 60 * 1000
KEPT_CONFIGS = 256
"""Read ones: reading one takes 50 us, and every call of a session needs it."""


@dataclass(frozen=True, slots=True)
class Component:
    """A strategy and its share of each batch."""

    strategy: Choice
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """How a batch is taken from the scores; see BatchPolicy on the wire."""

    policy: Choice = field(default_factory=lambda: Choice("top"))
    max_similarity: float | None = None
    class_shares: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class GroupRule:
    """Items that belong together; see GroupRule on the wire."""

    column: str
    max_per_batch: int = 1
    one_lease: bool = False
    one_label: bool = False
    """Implies ``one_lease``."""


@dataclass(frozen=True, slots=True)
class StopRule:
    """When recall suffices; see StopRule on the wire."""

    target_recall: float | None = None
    confidence: float = 0.95
    class_name: str = ""


@dataclass(frozen=True, slots=True)
class SignalFile:
    """What the strategy reads of a stored signal. The file never changes."""

    key: str
    """Of `Situation.signals`."""
    content_hash: str
    column: str
    """Empty: the doubt over all columns."""
    doubt: str = ""
    """A name of `coresift.server.selection.plain` DOUBTS."""


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """How a session selects. ``mix`` has one component unless the strategy is a mix."""

    pool: str
    pool_version: str
    task: Task
    classes: tuple[str, ...]
    mix: tuple[Component, ...] = (Component(Choice("max_entropy")),)
    candidates: CandidatePolicy = field(default_factory=Seals)
    filter: str = ""
    batch: BatchConfig = field(default_factory=BatchConfig)
    groups: GroupRule | None = None
    explore_fraction: float = 0.0
    validation_size: int = 0
    stop: StopRule = field(default_factory=StopRule)
    head: HeadConfig = field(default_factory=HeadConfig)
    seed: int = 0
    votes_per_item: int = 1
    label_budget: int | None = None
    lease_ms: int = DEFAULT_LEASE_MS
    signals: tuple[SignalFile, ...] = ()
    prior_head: str = ""
    """Content hash of a head that selects until the labels determine one."""
    pseudonymous: bool = False
    """The log keeps pseudonyms instead of annotators' names."""

    @property
    def strategy(self) -> str:
        """Name of the strategy on the wire."""
        return self.mix[0].strategy.name if len(self.mix) == 1 else MIX

    @property
    def head_classes(self) -> tuple[str, ...]:
        """Names of the head's columns; binary: the positive class."""
        return self.classes[1:] if self.task is Task.BINARY else self.classes

    def settings(self) -> Settings:
        """The form that the store keeps."""
        packed = asdict(self) | {
            "candidates": [name_of(self.candidates), asdict(self.candidates)],
        }
        if not self.pseudonymous:  # releases that do not know it read all other sessions
            del packed["pseudonymous"]
        return Settings(self.votes_per_item, self.label_budget, msgpack.packb(packed))

    @classmethod
    def from_settings(cls, settings: Settings) -> SessionConfig:
        """The inverse of `settings`. FORMAT_TOO_NEW for what this release cannot read."""
        return _unpacked(settings.config)


@lru_cache(KEPT_CONFIGS)
def _unpacked(config: bytes) -> SessionConfig:
    try:
        packed = msgpack.unpackb(config)
        if unknown := packed.keys() - set(SessionConfig.__slots__):
            raise _too_new(*sorted(unknown))
        if packed.get("prior_head") and not is_content_hash(packed["prior_head"]):
            raise _too_new("prior_head")
        known = {name: unpack(packed[name]) for name, unpack in _UNPACK.items() if name in packed}
        return SessionConfig(**packed | known)
    except _UNREADABLE as error:
        raise CoresiftError(
            Reason.FORMAT_TOO_NEW, "this release cannot read the configuration of this session"
        ) from error


def _task(number: int) -> Task:
    if number not in set(Task):
        raise _too_new("task")
    return Task(number)


def _mix(packed: list[dict[str, Any]]) -> tuple[Component, ...]:
    return tuple(map(_component, packed))


def _component(packed: Mapping[str, Any]) -> Component:
    strategy = _choice(packed["strategy"], STRATEGIES, "strategy")
    return _dataclass(Component)(dict(packed) | {"strategy": strategy})


def _choice(packed: Mapping[str, Any], registry: Mapping[str, Any], what: str) -> Choice:
    _check_fields(Choice, packed)
    choice = Choice.unpack(packed)
    if choice.name not in registry:
        raise _too_new(f"{what} {choice.name}")
    try:
        read(registry[choice.name], dict(choice.params), f"{what} {choice.name}")
    except CoresiftError as error:
        raise _too_new(error.message) from error
    return choice


def _candidates(packed: list[Any]) -> CandidatePolicy:
    name, params = packed
    if name not in CANDIDATE_POLICIES:
        raise _too_new(f"candidates {name}")
    return _dataclass(CANDIDATE_POLICIES[name])(params)


def _batch(packed: Mapping[str, Any]) -> BatchConfig:
    shares = tuple((name, share) for name, share in packed["class_shares"])
    policy = _choice(packed["policy"], BATCH_POLICIES, "batch policy")
    return _dataclass(BatchConfig)(dict(packed) | {"policy": policy, "class_shares": shares})


def _head(packed: Mapping[str, Any]) -> HeadConfig:
    if packed["class_weight"] not in get_args(ClassWeight):
        raise _too_new("head.class_weight")
    return _dataclass(HeadConfig)(packed)


def _signals(packed: list[Any]) -> tuple[SignalFile, ...]:
    for file in packed:
        if not is_content_hash(file["content_hash"]):
            raise _too_new("SignalFile.content_hash")
        if file.get("doubt") and file["doubt"] not in DOUBTS:
            raise _too_new("SignalFile.doubt")
    return tuple(map(_dataclass(SignalFile), packed))


def _dataclass(kind: type[T]) -> Callable[[Mapping[str, Any]], T]:
    def unpack(packed: Mapping[str, Any]) -> T:
        _check_fields(kind, packed)
        return kind(**packed)

    return unpack


def _check_fields(kind: type[Any], packed: Mapping[str, Any]) -> None:
    if unknown := packed.keys() - {own.name for own in fields(kind)}:
        raise _too_new(*(f"{kind.__name__}.{name}" for name in sorted(unknown)))


def _too_new(*what: str) -> CoresiftError:
    return CoresiftError(
        Reason.FORMAT_TOO_NEW, f"a newer release configured this session: {', '.join(what)}"
    )


_UNREADABLE = (
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    msgpack.exceptions.UnpackException,
)
"""What unpacking something else than a configuration raises."""
_UNPACK: Mapping[str, Callable[[Any], Any]] = {
    "task": _task,
    "classes": tuple,
    "mix": _mix,
    "candidates": _candidates,
    "batch": _batch,
    "groups": lambda packed: None if packed is None else _dataclass(GroupRule)(packed),
    "stop": _dataclass(StopRule),
    "head": _head,
    "signals": _signals,
}
"""Fields that MessagePack does not hand back as they were."""
