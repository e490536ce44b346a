"""What is scraped, alerted, shown and scaled by goes by the names that the rest has."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from deploy.prometheus.prometheusrule import MADE, SOURCES, resource
from tests.integration.deploy.manifests import (
    KUBERNETES,
    ROOT,
    SERVING,
    of_kind,
    one,
    resources,
    selects,
)

from coresift.server.metrics import Metrics

PLAIN = [ROOT / "deploy" / "prometheus" / name for name in SOURCES]
DASHBOARDS = ROOT / "deploy" / "grafana" / "dashboards"


def test_the_prometheus_rule_is_made_of_the_plain_files() -> None:
    assert MADE.read_text() == resource(), f"run python {MADE.with_suffix('.py').relative_to(ROOT)}"
    groups = [group for file in PLAIN for group in yaml.safe_load(file.read_text())["groups"]]
    [rule] = of_kind(resources("monitoring"), "PrometheusRule")
    assert rule["spec"]["groups"] == groups


def test_links_of_alerts_lead_where_one_says() -> None:
    text = resource("https://git.example.com/coresift/deploy/prometheus/")
    links = re.findall(r"runbook_url: (.*)", text)
    assert links
    start = "https://git.example.com/coresift/deploy/prometheus/RUNBOOK.md#"
    assert all(link.startswith(start) for link in links)


def test_each_dashboard_is_a_config_map() -> None:
    found = of_kind(resources("monitoring"), "ConfigMap")
    shown: dict[str, Any] = {}
    for config_map in found:
        assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
        shown |= {name: json.loads(text) for name, text in config_map["data"].items()}
    assert shown == {file.name: json.loads(file.read_text()) for file in DASHBOARDS.iterdir()}


@pytest.mark.parametrize("overlay", SERVING)
def test_each_replica_is_scraped_once(overlay: str) -> None:
    [monitor] = of_kind(resources("monitoring"), "ServiceMonitor")
    spec, found = monitor["spec"], resources(overlay)
    services = [
        service
        for service in of_kind(found, "Service")
        if selects(spec["selector"], service["metadata"].get("labels", {}))
    ]
    [service] = services
    [endpoint] = spec["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert service["metadata"]["labels"][spec["jobLabel"]] == "coresift"
    assert monitor["metadata"]["namespace"] == service["metadata"]["namespace"]


@pytest.mark.parametrize("overlay", SERVING)
def test_each_cron_job_has_its_alert(overlay: str) -> None:
    text = PLAIN[SOURCES.index("alerts.yaml")].read_text()
    patterns = set(re.findall(r'kube_cronjob_\w+\{cronjob=~"([^"]+)"', text))
    names = [job["metadata"]["name"] for job in of_kind(resources(overlay), "CronJob")]
    meant = [name for pattern in patterns for name in names if re.fullmatch(pattern, name)]
    assert sorted(meant) == sorted(names) == ["coresift-export", "coresift-probe"]


@pytest.mark.parametrize("overlay", ["ha", "ha-external"])
def test_the_autoscaler_has_its_metrics(overlay: str) -> None:
    """The adapter makes them, of series that the server has."""
    values = yaml.safe_load(
        (KUBERNETES / "examples" / "prometheus-adapter-values.yaml").read_text()
    )
    rules = values["rules"]["custom"]
    scaler = one(resources(overlay), "HorizontalPodAutoscaler", "coresift")
    wanted = {metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"]}
    assert wanted == {rule["name"]["as"] for rule in rules}
    served = {sample.name for family in Metrics().registry.collect() for sample in family.samples}
    families = {family.name for family in Metrics().registry.collect()}
    for rule in rules:
        for series in re.findall(r"\b(coresift_\w+)\{", rule["seriesQuery"] + rule["metricsQuery"]):
            base = re.sub("_(sum|count)$", "", series)
            assert series in served or base in families, series
