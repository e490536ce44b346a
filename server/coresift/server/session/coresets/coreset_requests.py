"""A core-set job as it was asked for, and as it was planned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coresift.server.arrays import Float32s
from coresift.server.coreset.class_budgets import ClassBudgets
from coresift.server.coreset.methods import method_of, sampler_of
from coresift.server.coreset.problem import Rater
from coresift.server.coreset.select import Recipe
from coresift.server.errors import invalid
from coresift.server.selection.parameters import Params, Value
from coresift.server.state.values import Request

DEFAULT_SAMPLER = "top"
UNSAMPLED = "which chooses items by each other, without a sampler"


@dataclass(frozen=True, slots=True)
class Targets:
    """Items and vectors, float32 [q, d'] as they were given, to be near to or far from."""

    item_ids: tuple[str, ...] = ()
    vectors: Float32s | None = None

    def __bool__(self) -> bool:
        return bool(self.item_ids) or self.vectors is not None


@dataclass(frozen=True, slots=True)
class Pinned:
    """A signal that a job reads, by name and content: one of the same name may come later."""

    name: str
    content_hash: str
    kind: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A ScoreCoreset as it was asked; ``pool`` or ``session_id`` is empty."""

    request: Request
    pool: str
    session_id: str
    method: str
    params: Params
    sampler: str
    sampler_params: Params
    budget: int | None
    seed: int
    class_signal: str
    predicted_classes: bool
    class_budgets: ClassBudgets | None
    start_item_ids: tuple[str, ...]
    start_from_labels: bool
    query: Targets
    avoid: Targets
    pacing_buckets: int
    grace_s: float


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A job as asked for, with what it was planned on.

    Attributes:
        nonce: of the log entry at the revision.
        signals: those it reads, by name and content.
        params, sampler_params: every parameter with its value.
    """

    job_id: str
    digest: bytes
    pool: str
    pool_version: str
    method: str
    params: Mapping[str, Value]
    sampler: str
    sampler_params: Mapping[str, Value]
    notes: tuple[str, ...]
    budget: int | None
    seed: int
    grace_s: float
    config_version: int
    revision: int
    nonce: bytes
    head_version: str
    signals: tuple[Pinned, ...]
    items: int
    expected_s: float
    expected_bytes: int


def recipe_of(asked: Asked) -> Recipe:
    """The frozen recipe of what was asked. UNKNOWN_METHOD, INVALID_FIELD."""
    method = method_of(asked.method, asked.params)
    if isinstance(method, Rater):
        sampler = sampler_of(asked.sampler or DEFAULT_SAMPLER, asked.sampler_params)
        return Recipe(method, sampler, asked.class_budgets)
    if asked.sampler:
        raise invalid("sampler", f"has no meaning for {asked.method}, {UNSAMPLED}")
    if asked.sampler_params:
        raise invalid("sampler_params", f"have no meaning for {asked.method}, {UNSAMPLED}")
    return Recipe(method, None, asked.class_budgets)
