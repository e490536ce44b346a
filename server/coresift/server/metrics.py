"""Every metric of the server, by name and unit. Labels are bounded: no ids, no free text."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

FAST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Seconds: from a Redis round trip to a long scan."""


class Metrics:
    """The metrics of one server, on a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        rpc = ["grpc_type", "grpc_service", "grpc_method"]
        self.rpc_started = Counter(
            "grpc_server_started_total", "Calls begun.", rpc, registry=registry
        )
        self.rpc_handled = Counter(
            "grpc_server_handled_total", "Calls ended.", [*rpc, "grpc_code"], registry=registry
        )
        self.rpc_seconds = Histogram(
            "grpc_server_handling_seconds",
            "Time from a call's start to its end.",
            rpc,
            buckets=FAST,
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "coresift_stage_seconds",
            "Time of a stage: catch_up, fit, neighbours, score, review, arrange, claim.",
            ["stage"],
            buckets=FAST,
            registry=registry,
        )
        self.candidates = Histogram(
            "coresift_candidates_items",
            "Items that a ranking chose from.",
            buckets=(100, 1e3, 1e4, 1e5, 1e6, 1e7),
            registry=registry,
        )
        self.considered = Histogram(
            "coresift_considered_ratio",
            "Share of the pool that a ranking chose from.",
            buckets=(0.0001, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1),
            registry=registry,
        )
        self.batches = Counter(
            "coresift_batches_total", "NextBatch answers by phase.", ["phase"], registry=registry
        )
        self.labels = Counter(
            "coresift_labels_total", "Labels by outcome.", ["outcome"], registry=registry
        )
        self.leases = Counter(
            "coresift_leases_total",
            "Leases by what became of them: granted, expired, renewed, released (retries again).",
            ["event"],
            registry=registry,
        )
        self.neighbour_lookups = Counter(
            "coresift_neighbour_lookups_total",
            "Items whose neighbours were looked up, by source: table, store, search.",
            ["source"],
            registry=registry,
        )
        self.log_rewinds = Counter(
            "coresift_log_rewinds_total",
            "Views dropped because the log had been rewound (a failover).",
            registry=registry,
        )
        self.view_files = Counter(
            "coresift_view_files_total",
            "Files of views by what became of them: written, loaded, unusable, failed.",
            ["event"],
            registry=registry,
        )
        self.redis_seconds = Histogram(
            "coresift_redis_call_seconds",
            "Time of a call to the state store.",
            ["operation"],
            buckets=FAST,
            registry=registry,
        )
        self.redis_wait_shortfalls = Counter(
            "coresift_redis_wait_shortfalls_total",
            "Writes that fewer replicas had in time than --state-min-replicas wants.",
            registry=registry,
        )
        self.redis_errors = Counter(
            "coresift_redis_errors_total",
            "Calls to the state store that failed.",
            ["operation"],
            registry=registry,
        )
        self.coreset_jobs = Counter(
            "coresift_coreset_jobs_total",
            "Core-set jobs by method and end: finished, cancelled, abandoned, failed.",
            ["method", "end"],
            registry=registry,
        )
        self.pool_items = Gauge(
            "coresift_pool_items",
            "Items of a served pool version.",
            ["pool", "version"],
            registry=registry,
        )
        self.pool_load_seconds = Gauge(
            "coresift_pool_load_seconds",
            "Time to open a pool at start.",
            ["pool", "version"],
            registry=registry,
        )
        self.reloads = Counter(
            "coresift_reloads_total",
            "Changed files read again, by file (tokens, certificates) and outcome (ok, failed).",
            ["file", "outcome"],
            registry=registry,
        )
        self.calls_working = Gauge(
            "coresift_calls_working",
            "Calls that hold a permit of their class.",
            ["call_class"],
            registry=registry,
        )
        self.calls_queued = Gauge(
            "coresift_calls_queued",
            "Calls that wait for a permit of their class.",
            ["call_class"],
            registry=registry,
        )
        self.calls_open = Gauge(
            "coresift_calls_open",
            "Calls under way, those that only wait for others counted.",
            ["call_class"],
            registry=registry,
        )
        self.calls_refused = Counter(
            "coresift_calls_refused_total",
            "Calls refused for overload, by class (workers: where they needed a thread) and cause: "
            "open, queue, wait, tenant, deadline.",
            ["call_class", "cause"],
            registry=registry,
        )
        self.workers_busy = Gauge(
            "coresift_workers_busy", "Threads that compute for calls.", registry=registry
        )
        self.workers_queued = Gauge(
            "coresift_workers_queued", "Computations that wait for a thread.", registry=registry
        )
        self.loop_lag = Histogram(
            "coresift_event_loop_lag_seconds",
            "How late the event loop, which all calls share, comes to what is due.",
            buckets=FAST,
            registry=registry,
        )
        self.tasks = Gauge("coresift_asyncio_tasks", "Tasks of the event loop.", registry=registry)
        self.build_info = Gauge(
            "coresift_build_info", "1, with the release as label.", ["version"], registry=registry
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage of selection."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.stage_seconds.labels(name).observe(time.perf_counter() - began)

    def observe_reload(self, file: str, ok: bool) -> None:
        """Count a reload."""
        self.reloads.labels(file, "ok" if ok else "failed").inc()

    def refused_by(self, call_class: str) -> Callable[[str], None]:
        """Counts a class's refusals by cause."""
        return lambda cause: self.calls_refused.labels(call_class, cause).inc()

    def observe_redis(self, operation: str, seconds: float, ok: bool) -> None:
        """Count a call to the state store."""
        self.redis_seconds.labels(operation).observe(seconds)
        if not ok:
            self.redis_errors.labels(operation).inc()
