"""What a session is configured with, as frozen values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, overload

from coresift.client.calls.named import Named, Param, assignments, checked
from coresift.client.enums import ClassWeight


class Keep(Enum):
    """Stands for "leave it as it is" where None has a meaning of its own."""

    KEEP = "keep"


KEEP = Keep.KEEP


class Strategy(Named):
    """How candidates are scored: a name and parameters, as in ``Strategy("bald", samples=64)``."""


@dataclass(frozen=True, init=False, repr=False)
class Mix:
    """Shares of 2..8 strategies in each batch, by weight.

    ``Mix({"max_entropy": 3, Strategy("signal", name="loss"): 1})``, or pairs instead of a mapping.
    """

    shares: tuple[tuple[Strategy, float], ...]

    @overload
    def __init__(self, shares: Mapping[Strategy | str, float]) -> None: ...
    @overload
    def __init__(self, shares: Mapping[str, float]) -> None: ...
    @overload
    def __init__(self, shares: Iterable[tuple[Strategy | str, float]]) -> None: ...
    def __init__(self, shares: Any) -> None:
        pairs = shares.items() if isinstance(shares, Mapping) else shares
        parts = tuple((as_strategy(strategy), float(share)) for strategy, share in pairs)
        object.__setattr__(self, "shares", parts)

    def __repr__(self) -> str:
        return f"Mix({list(self.shares)!r})"

    def __str__(self) -> str:
        return " + ".join(f"{share:g} {strategy}" for strategy, share in self.shares)


@dataclass(frozen=True)
class All:
    """Candidates: every item that may be labelled."""


@dataclass(frozen=True)
class Seals:
    """Candidates: the k (1..1000) nearest neighbours of every item that ever had a label (SEALS,
    Coleman et al., 2022)."""

    k: int = 100


@dataclass(frozen=True)
class RandomSubset:
    """Candidates: ``size`` (1..10,000,000) unlabelled items at random, others at each revision
    (RandPool, Coleman et al., 2022)."""

    size: int = 10_000


@dataclass(frozen=True)
class Anchors:
    """Candidates: ``size`` (1..100,000) items near labelled items of every class (AnchorAL, Lesci
    and Vlachos, 2024): a few labelled items of each class (``per_class``, 1..100) name their
    ``neighbours`` (1..1000)."""

    size: int = 1_000
    per_class: int = 10
    neighbours: int = 50


Candidates = All | Seals | RandomSubset | Anchors


@dataclass(frozen=True)
class HeadConfig:
    """L2-regularised logistic regression: minimises 0.5 |w|^2 + c * sum of log-losses."""

    c: float = 100.0
    class_weight: ClassWeight = ClassWeight.NONE


@dataclass(frozen=True, init=False, repr=False)
class BatchPolicy:
    """How a batch is taken from the scores: ``BatchPolicy("gist", max_similarity=0.95)``.

    Args:
        name: "top", "cluster_margin", "badge", "gist" or "power".
        max_similarity: no two items of a batch are this similar (cosine) or more, in (0, 1];
            None: no limit.
        class_shares: predicted class to its share of a batch, together at most 1; the other
            classes share the rest.
        params: of the policy, as of a `Strategy`.
    """

    name: str
    params: Mapping[str, Param]
    max_similarity: float | None
    class_shares: Mapping[str, float]

    def __init__(
        self,
        name: str = "top",
        /,
        *,
        max_similarity: float | None = None,
        class_shares: Mapping[str, float] | None = None,
        **params: Param,
    ) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "params", checked(params))
        object.__setattr__(self, "max_similarity", max_similarity)
        object.__setattr__(self, "class_shares", dict(class_shares or {}))

    def __hash__(self) -> int:
        params, shares = frozenset(self.params.items()), frozenset(self.class_shares.items())
        return hash((self.name, params, self.max_similarity, shares))

    def __repr__(self) -> str:
        return f"BatchPolicy({', '.join([repr(self.name), *self._settings()])})"

    def __str__(self) -> str:
        settings = self._settings()
        return f"{self.name}({', '.join(settings)})" if settings else self.name

    def _settings(self) -> list[str]:
        limit = [] if self.max_similarity is None else [f"max_similarity={self.max_similarity}"]
        shares = [f"class_shares={self.class_shares}"] if self.class_shares else []
        return [*assignments(self.params), *limit, *shares]


@dataclass(frozen=True)
class Groups:
    """Items that belong together by a metadata column: frames of a video, images of a patient.

    Items without a value in the column are in no group.
    """

    column: str
    max_per_batch: int = 1
    """At most so many items of a group in a batch: 1..1000."""
    one_lease: bool = False
    """No item of a group is leased while another of it is; needs ``max_per_batch`` of 1."""
    one_label: bool = False
    """No item of a group is offered once one of it has a label; implies ``one_lease``."""


@dataclass(frozen=True)
class StopRule:
    """When progress advises to stop, besides budget and exhaustion: ``StopRule(0.95)``."""

    target_recall: float | None = None
    """Share of the pool's positives that must be found, in (0, 1]; None: recall is not judged."""
    confidence: float = field(default=0.95, kw_only=True)
    """Of the certificate, 0.5..0.999."""
    class_name: str = field(default="", kw_only=True)
    """Whose recall counts. Empty: binary, the positive one; otherwise required with a target."""


def as_strategy(given: Strategy | str) -> Strategy:
    """A strategy; a plain name has no parameters."""
    return Strategy(given) if isinstance(given, str) else given
