"""Every strategy and batch policy by its name on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coresift.server.errors import CoresiftError, Reason, invalid
from coresift.server.selection.badge import Badge
from coresift.server.selection.batch import BatchPolicy, Top
from coresift.server.selection.batch_policies import ClusterMargin, Gist, Power
from coresift.server.selection.bayesian import Bald, Epig
from coresift.server.selection.density import InformationDensity
from coresift.server.selection.farthest import KCenter
from coresift.server.selection.imbalance import Direct
from coresift.server.selection.nonmyopic import Ens
from coresift.server.selection.parameters import Params, read
from coresift.server.selection.plain import MostLikelyPositive, Random, Signal
from coresift.server.selection.probcover import ProbCover
from coresift.server.selection.strategy import ReadsNeighbours, Setting, Strategy
from coresift.server.selection.typiclust import TypiClust
from coresift.server.selection.uncertainty import LeastConfidence, Margin, MaxEntropy

STRATEGIES: Mapping[str, type[Strategy]] = {
    "random": Random,
    "max_entropy": MaxEntropy,
    "margin": Margin,
    "least_confidence": LeastConfidence,
    "most_likely_positive": MostLikelyPositive,
    "ens": Ens,
    "information_density": InformationDensity,
    "bald": Bald,
    "epig": Epig,
    "direct": Direct,
    "typiclust": TypiClust,
    "probcover": ProbCover,
    "k_center": KCenter,
    "signal": Signal,
}

MIX = "mix"
"""The name under which shares of several strategies make up a batch."""

BATCH_POLICIES: Mapping[str, type[BatchPolicy]] = {
    "top": Top,
    "cluster_margin": ClusterMargin,
    "badge": Badge,
    "gist": Gist,
    "power": Power,
}


@dataclass(frozen=True, slots=True)
class Choice:
    """A name with its parameters, as a configuration keeps them."""

    name: str
    params: Params = ()

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> Choice:
        """The inverse of `dataclasses.asdict` and MessagePack."""
        return cls(packed["name"], tuple((name, value) for name, value in packed["params"]))


def strategy_of(choice: Choice, path: str = "config.strategy") -> Strategy:
    """The frozen strategy of a choice. UNKNOWN_METHOD, INVALID_FIELD."""
    if choice.name not in STRATEGIES:
        raise _unknown("strategy", choice.name, [*STRATEGIES, MIX], path)
    return read(STRATEGIES[choice.name], dict(choice.params), f"{path}.params")


def check_strategy(choice: Choice, setting: Setting, path: str = "config.strategy") -> None:
    """Refuse a strategy that does not exist, is wrongly set, or does not fit the session."""
    strategy = strategy_of(choice, path)
    if setting.task not in strategy.tasks:
        tasks = " or ".join(task.name.lower() for task in sorted(strategy.tasks))
        fitting = ", ".join(n for n, kind in STRATEGIES.items() if setting.task in kind.tasks)
        raise invalid(
            f"{path}.name",
            f"{choice.name!r} needs a {tasks} task; valid for this one are {fitting}",
        )
    if isinstance(strategy, ReadsNeighbours):
        there, wanted = setting.pool.manifest.neighbours, strategy.needs_neighbours
        if there < wanted:
            raise CoresiftError(
                Reason.POOL_LACKS_NEIGHBOURS,
                f"{choice.name!r} needs a neighbour table of {wanted}, the pool has "
                f"{there or 'none'}; build it with --neighbours {wanted}",
                field=path,
            )
    if (objection := strategy.objection(setting)) is not None:
        raise invalid(path, f"{choice.name!r} {objection}")


def batch_policy_of(choice: Choice, path: str = "config.batch") -> BatchPolicy:
    """The frozen batch policy of a choice. UNKNOWN_METHOD, INVALID_FIELD."""
    if choice.name not in BATCH_POLICIES:
        raise _unknown("batch policy", choice.name, list(BATCH_POLICIES), path)
    return read(BATCH_POLICIES[choice.name], dict(choice.params), f"{path}.params")


def _unknown(what: str, name: str, valid: list[str], path: str) -> CoresiftError:
    return CoresiftError(
        Reason.UNKNOWN_METHOD,
        f"no {what} {name!r}; valid are {', '.join(valid)}",
        field=f"{path}.name",
        valid=",".join(valid),
    )
