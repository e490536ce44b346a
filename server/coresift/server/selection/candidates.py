"""Candidate policies: frozen values that say which rows a strategy may choose from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coresift.server.selection.parameters import parameter

MAX_NEIGHBOURS = 1_000
MAX_SUBSET = 10_000_000


@dataclass(frozen=True, slots=True)
class All:
    """Every item that may be labelled."""


@dataclass(frozen=True, slots=True)
class Seals:
    """The k nearest neighbours of every item that ever had a label (SEALS, Coleman et al.,
    2022). The set only grows."""

    k: int = parameter(100, "neighbours of a labelled item", low=1, high=MAX_NEIGHBOURS)


@dataclass(frozen=True, slots=True)
class RandomSubset:
    """``size`` unlabelled rows at random, others at each revision (RandPool, Coleman et al.,
    2022)."""

    size: int = parameter(10_000, "rows", low=1, high=MAX_SUBSET)


@dataclass(frozen=True, slots=True)
class Anchors:
    """AnchorAL (Lesci and Vlachos, 2024): a small sub-pool around labelled items of every class.

    At each revision up to ``per_class`` labelled items of each class are drawn as anchors; each
    names its ``neighbours`` nearest rows; of these the ``size`` with the largest mean similarity
    to the anchors that name them are candidates. The cost does not grow with the pool or the
    labels. Departures: anchors are drawn at random (the paper also tries k-means++), and
    neighbours are those in the whole pool, labelled ones then left out.
    """

    size: int = parameter(1_000, "rows of the sub-pool", low=1, high=100_000)
    per_class: int = parameter(10, "anchors of a class", low=1, high=100)
    neighbours: int = parameter(50, "neighbours of an anchor", low=1, high=MAX_NEIGHBOURS)


CandidatePolicy = All | Seals | RandomSubset | Anchors

CANDIDATE_POLICIES: Mapping[str, type[CandidatePolicy]] = {
    "all": All,
    "seals": Seals,
    "random_subset": RandomSubset,
    "anchors": Anchors,
}
"""Every candidate policy by its name in the ``oneof`` on the wire."""


def name_of(policy: CandidatePolicy) -> str:
    """The policy's name on the wire."""
    return next(name for name, kind in CANDIDATE_POLICIES.items() if type(policy) is kind)


def neighbours_of(policy: CandidatePolicy) -> int:
    """How many neighbours of an item the policy looks up; 0 for none."""
    match policy:
        case Seals(k):
            return k
        case Anchors(neighbours=neighbours):
            return neighbours
    return 0
