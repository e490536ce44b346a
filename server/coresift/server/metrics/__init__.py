"""Every metric of the server, by name and unit. Labels are bounded: no ids, no free text."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from coresift.server.metrics.calls import CallMetrics
from coresift.server.metrics.catalogue import Catalogue
from coresift.server.metrics.labeling import LabelingMetrics, PoolMetrics
from coresift.server.metrics.serving import ServingMetrics
from coresift.server.metrics.state import StateReading

__all__ = ["Metrics", "PoolMetrics", "StateReading"]


class Metrics(CallMetrics, LabelingMetrics, ServingMetrics):
    """The metrics of one server, on a registry of their own. Safe to use from any thread.

    Attributes:
        catalogue: what there is, for the page that lists it.
    """

    def __init__(self) -> None:
        # A second series for each counter: Prometheus sees by itself when one begins anew.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.catalogue = Catalogue(self.registry)
        self._declare_calls(self.catalogue)
        self._declare_labeling(self.catalogue)
        self._declare_serving(self.catalogue)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def serves(
        self, pool: str, version: str, *, items: int, index_bytes: int, load_s: float
    ) -> None:
        """A pool version is served from now on."""
        self._begin_pool(pool)
        self.pool_items.labels(pool, version).set(items)
        self.pool_index_bytes.labels(pool, version).set(index_bytes)
        self.pool_load_seconds.labels(pool, version).set(load_s)
