"""Declares metrics on a registry, and keeps what their page says of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily

FAST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Seconds: from a Redis round trip to a long scan."""
UNITS = ("seconds", "bytes", "items", "ratio")

Values = tuple[str, ...] | str
"""A label's values: all that there are, or in words what they are."""


@dataclass(frozen=True, slots=True)
class Spec:
    """A metric, as its page lists it."""

    name: str
    kind: str
    """counter, gauge or histogram."""
    meaning: str
    labels: tuple[tuple[str, Values], ...]

    @property
    def unit(self) -> str:
        """The last word of the name that is one; empty for a plain count."""
        last = self.name.removesuffix("_total").rpartition("_")[2]
        return last if last in UNITS else ""


class Catalogue:
    """Declares metrics. A metric whose labels' values are all known begins with all of them at 0:
    the first event is then a rise, which `rate` sees.

    Attributes:
        specs: what was declared, in order.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.specs: list[Spec] = []

    def counter(self, name: str, meaning: str, **labels: Values) -> Counter:
        """A counter of events."""
        self._note(name, "counter", meaning, labels)
        metric = Counter(name, meaning, list(labels), registry=self.registry)
        for values in _known(labels):
            metric.labels(*values)
        return metric

    def gauge(self, name: str, meaning: str, **labels: Values) -> Gauge:
        """A value of this moment."""
        self._note(name, "gauge", meaning, labels)
        metric = Gauge(name, meaning, list(labels), registry=self.registry)
        for values in _known(labels):
            metric.labels(*values)
        return metric

    def histogram(
        self, name: str, meaning: str, buckets: Sequence[float] = FAST, **labels: Values
    ) -> Histogram:
        """A distribution; ``buckets`` are upper bounds."""
        self._note(name, "histogram", meaning, labels)
        metric = Histogram(name, meaning, list(labels), buckets=buckets, registry=self.registry)
        for values in _known(labels):
            metric.labels(*values)
        return metric

    def sampled(self, name: str, meaning: str, **labels: Values) -> _Family:
        """A gauge that a collector of its own answers for."""
        self._note(name, "gauge", meaning, labels)
        return _Family(name, meaning, tuple(labels))

    def _note(self, name: str, kind: str, meaning: str, labels: dict[str, Values]) -> None:
        self.specs.append(Spec(name, kind, meaning, tuple(labels.items())))


@dataclass(frozen=True, slots=True)
class _Family:
    """Makes a gauge's samples."""

    name: str
    meaning: str
    labels: tuple[str, ...]

    def of(self, values: dict[tuple[str, ...], float]) -> GaugeMetricFamily:
        """The gauge with these values, by its labels' values."""
        family = GaugeMetricFamily(self.name, self.meaning, labels=self.labels)
        for labels, value in values.items():
            family.add_metric(labels, value)
        return family


def _known(labels: dict[str, Values]) -> Iterator[tuple[str, ...]]:
    """All values that the labels have together, where they are known; nothing without labels."""
    known = [values for values in labels.values() if not isinstance(values, str)]
    if labels and len(known) == len(labels):
        yield from product(*known)
