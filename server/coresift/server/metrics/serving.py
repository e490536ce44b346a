"""What is measured of the server itself: pools, state store, core-set jobs, memory of the GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from coresift.server.metrics.catalogue import Catalogue
from coresift.server.metrics.labeling import SERVED_POOL
from coresift.server.metrics.state import StateGauges

JOB_PHASES = (
    *("queued", "prepare", "graph", "train", "score"),
    *("select", "weigh", "measure", "store"),
)
JOB_ENDS = ("finished", "cancelled", "abandoned", "failed")
REFRESHES = ("loaded", "unchanged", "failed")
VERSION = "a served version of the pool"


class ServingMetrics:
    """The part of the metrics that is about what the server has and uses."""

    def _declare_serving(self, catalogue: Catalogue) -> None:
        self.ready = catalogue.gauge(
            "coresift_ready", "1 while the health name readiness is SERVING, else 0."
        )
        self.build_info = catalogue.gauge(
            "coresift_build_info", "1, with the release as label.", version="the release"
        )
        self.reloads = catalogue.counter(
            "coresift_reloads_total",
            "Changed files read again, by outcome.",
            file=("tokens", "certificates"),
            outcome=("ok", "failed"),
        )
        self.pool_items = catalogue.gauge(
            "coresift_pool_items",
            "Items of a served pool version.",
            pool=SERVED_POOL,
            version=VERSION,
        )
        self.pool_index_bytes = catalogue.gauge(
            "coresift_pool_index_bytes",
            "Size of a served pool version: vectors, clusters, neighbours, ids and metadata.",
            pool=SERVED_POOL,
            version=VERSION,
        )
        self.pool_load_seconds = catalogue.gauge(
            "coresift_pool_load_seconds",
            "Time that opening a pool version took.",
            pool=SERVED_POOL,
            version=VERSION,
        )
        self.pool_refreshes = catalogue.counter(
            "coresift_pool_refreshes_total",
            "Looks for newer versions of a served pool, in a local or a remote root, by outcome.",
            pool=SERVED_POOL,
            outcome=REFRESHES,
        )
        self.redis_seconds = catalogue.histogram(
            "coresift_redis_call_seconds",
            "Time of a call to the state store.",
            operation="an operation of the store",
        )
        self.redis_errors = catalogue.counter(
            "coresift_redis_errors_total",
            "Calls to the state store that failed.",
            operation="an operation of the store",
        )
        self.redis_wait_shortfalls = catalogue.counter(
            "coresift_redis_wait_shortfalls_total",
            "Writes that fewer replicas had in time than --state-min-replicas wants.",
        )
        self.redis_up = catalogue.gauge(
            "coresift_redis_up", "1 while the state store answers, else 0."
        )
        self.state = StateGauges(catalogue)
        self.coreset_jobs = catalogue.counter(
            "coresift_coreset_jobs_total",
            "Core-set jobs by method and end.",
            method="a core-set method",
            end=JOB_ENDS,
        )
        self.coreset_jobs_active = catalogue.gauge(
            "coresift_coreset_jobs_active",
            "Core-set jobs on this replica, by what they are doing.",
            phase=JOB_PHASES,
        )
        self.gpu_memory_used = catalogue.gauge(
            "coresift_gpu_memory_used_bytes",
            "Memory of the GPU in use, by whomever; only where pools are on a GPU.",
            device="a device that pools are on",
        )
        self.gpu_memory_limit = catalogue.gauge(
            "coresift_gpu_memory_limit_bytes",
            "Memory of the GPU in all; only where pools are on a GPU.",
            device="a device that pools are on",
        )
        self._operations: dict[str, tuple[Callable[[float], None], Callable[[], None]]] = {}

    def observe_reload(self, file: str, ok: bool) -> None:
        """Count a reload."""
        self.reloads.labels(file, "ok" if ok else "failed").inc()

    def observe_redis(self, operation: str, seconds: float, ok: bool) -> None:
        """Count a call to the state store."""
        known = self._operations.get(operation)
        if known is None:
            errors = self.redis_errors.labels(operation)
            known = self.redis_seconds.labels(operation).observe, errors.inc
            self._operations[operation] = known
        observe, fail = known
        observe(seconds)
        if not ok:
            fail()

    def observe_refresh(self, pool: str, outcome: str) -> None:
        """Count a look for a newer version: loaded, unchanged or failed."""
        by_outcome = {each: self.pool_refreshes.labels(pool, each) for each in REFRESHES}
        by_outcome[outcome].inc()

    def count_jobs(self, phases: Callable[[], Iterable[str]]) -> None:
        """Publish how many of the ``phases`` of the jobs here are which; asked at every scrape."""
        for phase in JOB_PHASES:
            count = partial(_count, phases, phase)
            self.coreset_jobs_active.labels(phase).set_function(count)


def _count(phases: Callable[[], Iterable[str]], phase: str) -> int:
    return sum(each == phase for each in phases())
