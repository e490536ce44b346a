"""What a comparison runs: every strategy on every candidate policy, and two questions beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coresift.client.calls.config import Mix
from coresift.client.simulation.campaign import Plan
from coresift.client.simulation.methods import PROTOCOL, Method, method
from coresift.client.simulation.protocol import SEED_NEGATIVES, SEED_POSITIVES, Concept

SEEDED = SEED_POSITIVES + SEED_NEGATIVES
BASELINE, FAMILIAR = "random@all", "max_entropy@all"
"""What every method is compared with."""
BUDGET, BATCH = 1_000, 100
MARKS = (200, 500, 1_000)
"""Labels at which methods are compared."""

NEAR = ("max_entropy", "most_likely_positive", "ens", "ens(one_step=true)", "information_density")
"""Uncertainty, search and density: on neighbours they should be as good as over all."""
STRATEGIES = (
    *NEAR,
    *("bald", "epig", "direct", "typiclust", "probcover(sample=2500)", "k_center"),
)
"""ProbCover's own sample of 10,000 would be half of such a pool, and most of the time."""
POLICIES = ("all", "seals:100", "seals:10")
BATCHES = ("cluster_margin", "badge", "gist", "power", "top(max_similarity=0.9)")
OTHERS = (
    "mix(max_entropy=1, most_likely_positive=1)@all",
    "max_entropy@random_subset:2000",
    "max_entropy@anchors:1000",
)
LEFT_OUT = {
    "margin": "on a binary task the order of max_entropy",
    "least_confidence": "on a binary task the order of max_entropy",
    "signal": "ranks by a column that a user uploads; these data sets have none",
}
"""Strategies that a comparison does not run, and why."""

SEARCH_BATCH = 10
SEARCH_BUDGETS = (100, 200, 300)
"""Labels after the seed set."""
SEARCHERS = ("ens@all", "ens(one_step=true)@all", "most_likely_positive@all")
COLD_BUDGET = 500
COLD = ("typiclust@all", "probcover(sample=2500)@all", "k_center@all", FAMILIAR, BASELINE)


@dataclass(frozen=True)
class Study:
    """Methods on the same seed sets, batches and budget.

    ``search`` and ``cold`` hold the plans of the questions beside the main one; empty: not asked.
    """

    methods: tuple[Method, ...]
    main: tuple[Plan, ...]
    search: tuple[Plan, ...]
    cold: tuple[Plan, ...]

    @property
    def plans(self) -> tuple[Plan, ...]:
        """All of them."""
        return self.main + self.search + self.cold


def everything() -> list[Method]:
    """The methods that ``--methods all`` stands for."""
    return [
        method(name)
        for name in (
            BASELINE,
            *(f"{strategy}@{policy}" for policy in POLICIES for strategy in STRATEGIES),
            *(f"max_entropy/{batch}@all" for batch in BATCHES),
            *OTHERS,
        )
    ]


def comparison(
    methods: Sequence[Method], concepts: Sequence[Concept], seeds: int, budget: int, batch: int
) -> Study:
    """The campaigns of a comparison of ``methods``, with what they are compared with.

    Where `ens` is among them, it is also run in small batches on small budgets, beside its greedy
    form and the head's; where a strategy that needs no labels is, without a seed set.
    """
    names = [PROTOCOL.get(chosen.name, chosen.name) for chosen in methods]
    chosen = tuple(map(method, dict.fromkeys((BASELINE, FAMILIAR, *names))))

    def plans(of: Sequence[Method], budget: int, batch: int, *, cold: bool = False) -> list[Plan]:
        return campaigns(of, concepts, seeds, budget, batch, cold=cold)

    strategies = {own.strategy.name for own in chosen if not isinstance(own.strategy, Mix)}
    search: list[Plan] = []
    if "ens" in strategies:
        ens, *greedy = map(method, SEARCHERS)
        longest = SEEDED + max(SEARCH_BUDGETS)
        for beyond in SEARCH_BUDGETS:
            search += plans([ens], SEEDED + beyond, SEARCH_BATCH)
        search += plans(greedy, longest, SEARCH_BATCH)
    cold: list[Plan] = []
    if strategies & {"typiclust", "probcover", "k_center"}:
        cold = plans([method(name) for name in COLD], COLD_BUDGET, batch, cold=True)
    return Study(chosen, tuple(plans(chosen, budget, batch)), tuple(search), tuple(cold))


def campaigns(
    methods: Sequence[Method],
    concepts: Sequence[Concept],
    seeds: int,
    budget: int,
    batch: int,
    *,
    cold: bool = False,
) -> list[Plan]:
    """A plan for every method on every concept and seed set, and draw where it is random."""
    return [
        Plan(concept, chosen, seed, draw, budget, batch, cold)
        for concept in concepts
        for seed in range(seeds)
        for chosen in methods
        for draw in range(chosen.draws)
    ]
