"""Laws that every metric keeps: names, units, words, and labels whose values are few."""

from __future__ import annotations

import re

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from tests.fixtures.metrics_page import PAGE, page

from coresift.server.metrics import Metrics, StateReading
from coresift.server.metrics import calls as of_calls
from coresift.server.metrics import labeling as of_labeling
from coresift.server.metrics import serving as of_serving
from coresift.server.metrics.catalogue import UNITS, Catalogue, Spec
from coresift.server.rpc.call_classes import CallClass
from coresift.server.session.progress.advice import StopAdvice
from coresift.server.state.values import Outcome

SPECS = Metrics().catalogue.specs
ABBREVIATIONS = {"ms", "us", "s", "sec", "secs", "msec", "mb", "kb", "gb", "mib", "percent", "pct"}
FREE_LABELS = {
    *("grpc_type", "grpc_service", "grpc_method", "grpc_code"),
    *("pool", "version", "operation", "method", "device"),
}
"""Labels of which a few values come from what is served; the others have listed ones."""


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_name_says_what_is_counted_and_in_which_unit(spec: Spec) -> None:
    words = spec.name.split("_")
    assert re.fullmatch(r"[a-z]+(_[a-z]+)+", spec.name)
    assert words[0] in {"coresift", "grpc"}
    assert not ABBREVIATIONS & set(words)
    assert (words[-1] == "total") == (spec.kind == "counter")
    assert words[-1] not in {"count", "sum", "bucket", "created"}
    for unit in UNITS:
        assert unit not in words[:-1] or words[-1] in {"limit", unit}, "the unit comes last"
    if spec.kind == "histogram":
        assert spec.unit, "a distribution has a unit"


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_help_is_a_sentence(spec: Spec) -> None:
    assert re.match(r"[A-Z1]", spec.meaning)
    assert spec.meaning.endswith(".")
    assert "|" not in spec.meaning, "it stands in a table"


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_labels_have_few_values(spec: Spec) -> None:
    for name, values in spec.labels:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
        if isinstance(values, str):
            assert name in FREE_LABELS, "its values must be listed"
        else:
            assert len(set(values)) == len(values) <= 10


def test_no_name_twice() -> None:
    names = [spec.name for spec in SPECS]
    assert len(set(names)) == len(names)


def test_listed_values_are_those_of_the_server() -> None:
    assert set(of_calls.CALL_CLASSES) == {each.value for each in CallClass}
    assert tuple(each.name.lower() for each in Outcome) == of_labeling.OUTCOMES
    assert tuple(each.name.lower() for each in StopAdvice) == of_labeling.ADVICE


def samples(metrics: Metrics) -> dict[str, float]:
    lines = generate_latest(metrics.registry).decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_what_may_be_waited_for_begins_at_zero() -> None:
    metrics = Metrics()
    metrics.serves("sea", "v1", items=3, index_bytes=5, load_s=0.5)
    found = samples(metrics)
    begins = {name for name, value in found.items() if not value}
    assert "coresift_redis_wait_shortfalls_total" in begins
    assert "coresift_log_rewinds_total" in begins
    for event in of_labeling.LEASE_EVENTS:
        assert f'coresift_leases_total{{event="{event}",pool="sea"}}' in begins
    for phase in of_labeling.PHASES:
        assert f'coresift_batches_total{{phase="{phase}",pool="sea"}}' in begins
    for advice in of_labeling.ADVICE:
        assert f'coresift_progress_advice_total{{advice="{advice}",pool="sea"}}' in begins
    for outcome in of_labeling.OUTCOMES:
        assert any(f'outcome="{outcome}",pool="sea"' in name for name in begins)
    for cause in of_calls.CAUSES:
        labels = f'{{call_class="state",cause="{cause}"}}'
        assert f"coresift_calls_refused_total{labels}" in begins
    for phase in of_serving.JOB_PHASES:
        assert f'coresift_coreset_jobs_active{{phase="{phase}"}}' in begins
    assert found['coresift_pool_items{pool="sea",version="v1"}'] == 3
    assert found['coresift_pool_index_bytes{pool="sea",version="v1"}'] == 5
    assert found['coresift_pool_load_seconds{pool="sea",version="v1"}'] == 0.5


def test_pools_that_are_not_served_share_one_label() -> None:
    metrics = Metrics()
    metrics.serves("sea", "v1", items=3, index_bytes=5, load_s=0.5)
    for number in range(100):
        metrics.of_pool(f"land-{number}").leased("expired", 1)
    counts = {"sea": 1} | {f"land-{number}": 2 for number in range(100)}
    metrics.state.publish(StateReading(counts, counts, 7, 0), metrics.pools)
    found = samples(metrics)
    assert found['coresift_leases_total{event="expired",pool="(other)"}'] == 100
    assert found['coresift_sessions{pool="sea"}'] == 1
    assert found['coresift_sessions{pool="(other)"}'] == 200
    assert found['coresift_leases_active{pool="(other)"}'] == 200
    assert found["coresift_redis_memory_bytes"] == 7
    assert found["coresift_redis_memory_limit_bytes"] == 0
    assert not [name for name in found if "land" in name]


def test_what_cannot_be_read_is_absent() -> None:
    metrics = Metrics()
    metrics.serves("sea", "v1", items=3, index_bytes=5, load_s=0.5)
    metrics.state.publish(StateReading({}, {}, 7, 9), metrics.pools)
    assert samples(metrics)['coresift_sessions{pool="sea"}'] == 0
    metrics.state.publish(None)
    gone = ("coresift_sessions", "coresift_leases_active", "coresift_redis_memory")
    assert not [name for name in samples(metrics) if name.startswith(gone)]


def test_jobs_are_counted_when_asked() -> None:
    metrics, phases = Metrics(), ["select", "queued", "queued"]
    metrics.count_jobs(lambda: phases)
    assert samples(metrics)['coresift_coreset_jobs_active{phase="queued"}'] == 2
    phases.clear()
    assert samples(metrics)['coresift_coreset_jobs_active{phase="queued"}'] == 0


def test_units_follow_from_names() -> None:
    catalogue = Catalogue(CollectorRegistry())
    catalogue.histogram("a_wait_seconds", "A.")
    catalogue.gauge("a_limit_bytes", "A.")
    catalogue.counter("a_calls_total", "A.")
    assert [spec.unit for spec in catalogue.specs] == ["seconds", "bytes", ""]


def test_the_page_is_of_this_release() -> None:
    assert PAGE.read_text() == page(), "python -m tests.fixtures.metrics_page"
