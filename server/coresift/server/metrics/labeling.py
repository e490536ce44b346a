"""What is measured of sessions: stages, batches, labels, leases, neighbours."""

from __future__ import annotations

import time

from prometheus_client import Histogram

from coresift.server.metrics.catalogue import Catalogue

STAGES = ("catch_up", "fit", "neighbours", "score", "review", "arrange", "claim")
PHASES = ("cold_start", "selecting", "waiting", "exhausted")
OUTCOMES = ("new", "corrected", "retracted", "unchanged", "late", "surplus")
ANSWERS = ("positive", "negative", "class", "classes", "unsure", "retraction")
LEASE_EVENTS = ("granted", "expired", "renewed", "released")
SOURCES = ("table", "prefetched", "on_demand")
VIEW_FILE_EVENTS = ("written", "loaded", "unusable", "failed")
ADVICE = ("continue", "budget_spent", "pool_exhausted", "recall_reached", "stabilised")

SERVED_POOL = "a served pool"
POOL = f"{SERVED_POOL}, or (other)"
OTHER_POOLS = "(other)"
"""No pool's name has brackets."""
AGES = (0, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14_400, 86_400)


class Timer:
    """``with`` observes the time that what is within takes, also where it fails."""

    __slots__ = ("_began", "_seconds")

    def __init__(self, seconds: Histogram) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self._seconds.observe(time.perf_counter() - self._began)


class LabelingMetrics:
    """The part of the metrics that is about sessions."""

    def _declare_labeling(self, catalogue: Catalogue) -> None:
        self.stage_seconds = catalogue.histogram(
            "coresift_stage_seconds", "Time of a stage of selection.", stage=STAGES
        )
        self.candidates = catalogue.histogram(
            "coresift_candidates_items",
            "Items that a ranking chose from.",
            (100, 1e3, 1e4, 1e5, 1e6, 1e7),
            pool=POOL,
        )
        self.considered = catalogue.histogram(
            "coresift_considered_ratio",
            "Share of the pool that a ranking chose from.",
            (0.0001, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1),
            pool=POOL,
        )
        self.head_age = catalogue.histogram(
            "coresift_head_age_seconds",
            "Age of the oldest acknowledged label that the head a batch was chosen with lacks; "
            "0 where it lacks none.",
            AGES,
            pool=POOL,
        )
        self.batches = catalogue.counter(
            "coresift_batches_total", "NextBatch answers by phase.", pool=POOL, phase=PHASES
        )
        self.labels = catalogue.counter(
            "coresift_labels_total",
            "Labels by outcome and by what they say; repeated requests count once.",
            pool=POOL,
            outcome=OUTCOMES,
            answer=ANSWERS,
        )
        self.leases = catalogue.counter(
            "coresift_leases_total",
            "Leases by what became of them. Repeated requests renew and release again; an expiry "
            "is counted by the replica that found it.",
            pool=POOL,
            event=LEASE_EVENTS,
        )
        self.neighbour_lookups = catalogue.counter(
            "coresift_neighbour_lookups_total",
            "Items whose neighbours were got: from the pool's table; looked up before they were "
            "needed, here or by another replica; or only when a selection needed them.",
            source=SOURCES,
        )
        self.advice = catalogue.counter(
            "coresift_progress_advice_total",
            "Stop advice that GetSessionProgress gave.",
            pool=POOL,
            advice=ADVICE,
        )
        self.log_rewinds = catalogue.counter(
            "coresift_log_rewinds_total",
            "Views dropped because the log had been rewound (a failover).",
        )
        self.view_files = catalogue.counter(
            "coresift_view_files_total",
            "Files of views by what became of them.",
            event=VIEW_FILE_EVENTS,
        )
        self._stages = {stage: self.stage_seconds.labels(stage) for stage in STAGES}
        self._by_pool: dict[str, PoolMetrics] = {}
        self._other_pools: PoolMetrics | None = None

    def stage(self, name: str) -> Timer:
        """Time a stage of selection."""
        return Timer(self._stages[name])

    def of_pool(self, pool: str) -> PoolMetrics:
        """What is measured of the sessions on a pool; those of pools that are not served here
        together."""
        found = self._by_pool.get(pool) or self._other_pools
        if found is None:
            found = self._other_pools = PoolMetrics(self, OTHER_POOLS)
        return found

    @property
    def pools(self) -> frozenset[str]:
        """Names of the served pools."""
        return frozenset(self._by_pool)

    def _begin_pool(self, pool: str) -> None:
        if pool not in self._by_pool:
            self._by_pool[pool] = PoolMetrics(self, pool)


class PoolMetrics:
    """Counts for the sessions on one pool, from 0 on. The labels are looked up once: that takes
    longer than the counting."""

    def __init__(self, metrics: LabelingMetrics, pool: str) -> None:
        self._candidates = metrics.candidates.labels(pool)
        self._considered = metrics.considered.labels(pool)
        self._head_age = metrics.head_age.labels(pool)
        self._batches = {phase: metrics.batches.labels(pool, phase) for phase in PHASES}
        self._leases = {event: metrics.leases.labels(pool, event) for event in LEASE_EVENTS}
        self._advice = {advice: metrics.advice.labels(pool, advice) for advice in ADVICE}
        self._labels = {
            (outcome, answer): metrics.labels.labels(pool, outcome, answer)
            for outcome in OUTCOMES
            for answer in ANSWERS
            if outcome in RETRACTIONS or answer != "retraction"
            if outcome != "retracted" or answer == "retraction"
        }

    def ranked(self, candidates: int, items: int) -> None:
        """A ranking chose from so many of the pool's items."""
        self._candidates.observe(candidates)
        self._considered.observe(candidates / items)

    def answered(self, phase: str) -> None:
        """A NextBatch was answered."""
        self._batches[phase].inc()

    def chosen(self, head_age_s: float) -> None:
        """A batch was chosen with a head that lacks labels of so many seconds."""
        self._head_age.observe(head_age_s)

    def leased(self, event: str, leases: int) -> None:
        """Leases were granted, expired, renewed or released."""
        self._leases[event].inc(leases)

    def labelled(self, outcome: str, answer: str, labels: int) -> None:
        """Labels were committed."""
        self._labels[outcome, answer].inc(labels)

    def advised(self, advice: str) -> None:
        """Advice was given."""
        self._advice[advice].inc()


RETRACTIONS = ("retracted", "unchanged")
"""Outcomes that a retraction may have."""
