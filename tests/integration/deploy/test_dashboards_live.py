"""A real Prometheus, two real servers, every RPC and fault: every panel and alert shows them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from deploy.grafana.dashboards import FOLDER, dashboards
from deploy.grafana.draw import draw_all
from deploy.grafana.queries import filled, panels
from tests.fixtures import traffic
from tests.fixtures.access import METHODS
from tests.fixtures.prometheus import SCRAPE_S, Prometheus, Series, Target, exporter, series_of
from tests.fixtures.servers import Pools
from tests.fixtures.site import NAMESPACE, Site, a_site

from coresift.server.metrics import Metrics

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

RULES = FOLDER.parents[1] / "prometheus"
A_GPU = """\
coresift_gpu_memory_used_bytes{device="0"} 6e10
coresift_gpu_memory_limit_bytes{device="0"} 1.5e11
"""
"""What a server with a GPU exports: here is none, so a page of text stands for it."""
MAY_BE_ZERO = {
    "What waits?": "calls that wait may be gone before Prometheus looks",
    "How many calls work?": "so may calls that work",
    "Which replica computes?": "so may computations",
    "Is the head up to date?": "half of the batches are chosen with the newest head",
}
NOT_PROVOKED = {
    ("coresift_view_files_total", "unusable"): "damaged files have tests of their own",
    ("coresift_view_files_total", "failed"): "a full disk",
    ("coresift_reloads_total", "certificates"): "the servers speak plain text",
    ("coresift_pool_refreshes_total", "failed"): "an object store that is away",
    ("coresift_neighbour_lookups_total", "table"): "these pools have no table",
    ("coresift_progress_advice_total", "recall_reached"): "takes a random sample",
    ("coresift_progress_advice_total", "stabilised"): "takes many labels",
    ("coresift_progress_advice_total", "pool_exhausted"): "takes a label for each item",
}
COUNTED_LABELS = ("outcome", "answer", "phase", "event", "source", "advice", "end", "file")


@dataclass(frozen=True)
class Watched:
    """A site that everything happened to, and the Prometheus that saw it."""

    site: Site
    prometheus: Prometheus
    began: float
    ended: float

    def over_time(
        self, expr: str, chosen: Mapping[str, str | list[str]] | None = None
    ) -> list[Series]:
        """As a panel asks, every second of all that happened."""
        whole = f"{math.ceil(self.ended - self.began)}s"
        query = filled(expr, rate=f"{4 * SCRAPE_S:g}s", whole=whole, chosen=chosen)
        return series_of(
            self.prometheus.ask(
                "query_range", query=query, start=self.began, end=self.ended, step=SCRAPE_S
            )
        )


@pytest.fixture(scope="module")
def watched(pools: Pools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    served = [pools.things.directory, pools.large.directory]
    rules = [RULES / "records.yaml", RULES / "alerts.yaml"]
    with (
        exporter(A_GPU) as gpu,
        a_site(folder, served, [pools.growing.directory]) as site,
        Prometheus(
            folder / "prometheus",
            [*site.targets, Target(gpu, {"namespace": NAMESPACE, "pod": "coresift-gpu"}, "gpu")],
            rules,
        ) as prometheus,
    ):
        seen = prometheus.until_scraped
        began = time.time()
        seen(2)
        first, second = site.clients
        traffic.every_rpc(first, pools, folder)
        traffic.every_outcome(second)
        traffic.older_heads_choose(first)
        traffic.leases_expire(second)
        traffic.calls_are_refused(site, seen)
        traffic.jobs_end(site, seen)
        traffic.files_change(site, pools)
        traffic.a_log_is_rewound(site)
        traffic.a_replica_lags(site, seen)
        traffic.redis_goes_away(site, seen)
        seen(2)
        yield Watched(site, prometheus, began, time.time())


SHOWN = [
    pytest.param(panel, target["expr"], id=f"{name}-{panel['title']}-{target['refId']}")
    for name, dashboard in dashboards().items()
    for panel in panels(dashboard)
    for target in panel["targets"]
]


@pytest.mark.parametrize(("panel", "expr"), SHOWN)
def test_a_panel_shows_what_happened(watched: Watched, panel: dict[str, Any], expr: str) -> None:
    """Data, and at some time something else than 0."""
    values = [value for series in watched.over_time(expr) for _, value in series.points]
    values = [value for value in values if math.isfinite(value)]
    assert values
    assert max(values) > 0 or panel["title"] in MAY_BE_ZERO


@pytest.mark.parametrize(("panel", "expr"), SHOWN)
def test_a_panel_can_be_narrowed(watched: Watched, panel: dict[str, Any], expr: str) -> None:
    """To one replica and pool, and to several, as Grafana writes them."""
    one = {"namespace": NAMESPACE, "pod": "coresift-1", "pool": "things"}
    for series in watched.over_time(expr, one):
        assert series.labels.get("pod", "coresift-1") == "coresift-1"
        assert series.labels.get("replica", "coresift-1") == "coresift-1"
        assert series.labels.get("pool", "things") == "things"
    several = {"pod": ["coresift-0", "coresift-1"], "pool": ["things", "large", "growing"]}
    assert watched.over_time(expr, several) or "GPU" in panel["title"]


def test_variables_have_values(watched: Watched) -> None:
    for dashboard in dashboards().values():
        for variable in dashboard["templating"]["list"][1:]:
            query = filled(variable["query"]["query"], rate="", whole="")
            metric, _, label = query.removeprefix("label_values(").removesuffix(")").rpartition(",")
            found = watched.prometheus.ask(f"label/{label.strip()}/values", **{"match[]": metric})
            wanted = {
                "namespace": [NAMESPACE],
                "pod": ["coresift-0", "coresift-1"],
                "pool": ["growing", "large", "things"],
            }
            assert found == wanted[variable["name"]]


def test_every_rpc_was_called(watched: Watched) -> None:
    called = watched.prometheus.query("sum by (grpc_method) (grpc_server_handled_total) > 0")
    assert {series.labels["grpc_method"] for series in called} == set(METHODS)


def test_every_outcome_was_there(watched: Watched) -> None:
    """Each value of each label that says what became of something."""
    missing = set()
    for spec in Metrics().catalogue.specs:
        for label, values in spec.labels:
            if spec.kind != "counter" or label not in COUNTED_LABELS or isinstance(values, str):
                continue
            counts = watched.prometheus.query(f"sum by ({label}) ({spec.name}) > 0")
            found = {series.labels[label] for series in counts}
            missing |= {(spec.name, value) for value in set(values) - found}
    assert missing == set(NOT_PROVOKED)


def test_rules_are_evaluated(watched: Watched) -> None:
    rules = [rule for group in watched.prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 20
    for rule in rules:
        assert (rule["health"], rule.get("lastError", "")) == ("ok", "")
        watched.prometheus.query(rule["query"])


def test_alerts_tell_what_happened(watched: Watched) -> None:
    """What fires at once does; what must last does not wake anybody."""
    alerts = watched.prometheus.ask("alerts")["alerts"]
    states = {alert["labels"]["alertname"]: alert["state"] for alert in alerts}
    assert states["CoresiftLogRewound"] == "firing"
    assert states["CoresiftErrorBudgetBurnsFast"] == "firing"
    assert states["CoresiftWritesNotReplicated"] == "pending"
    for alert in alerts:
        assert "%!" not in str(alert["annotations"])
        assert "<no value>" not in str(alert["annotations"])
        assert "error" not in alert["annotations"]["summary"].lower()


def test_without_labels_of_kubernetes(watched: Watched, tmp_path: Path) -> None:
    """As under compose: All hides nothing."""
    bare = [Target(target.address) for target in watched.site.targets]
    with Prometheus(tmp_path, bare) as prometheus:
        prometheus.until_scraped(3)
        for one in SHOWN:
            panel, expr = one.values
            found = prometheus.query(filled(str(expr), rate="4s", whole="10s"))
            if cast("dict[str, Any]", panel)["title"] == "Is each replica ready?":
                assert {series.labels["replica"] for series in found} == {
                    target.address for target in bare
                }


def test_pictures_are_drawn(watched: Watched, tmp_path: Path) -> None:
    draw_all(watched.prometheus.url, watched.began, watched.ended, tmp_path, "things")
    for name in dashboards():
        assert 30_000 < (tmp_path / f"{name}.png").stat().st_size < 300_000
