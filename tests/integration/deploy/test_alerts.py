"""Rules that Prometheus takes, and alerts that fire when they should and not when they should not.

The cases are in deploy/prometheus, for whoever changes an alert and has promtool.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.grafana.dashboards import dashboards
from deploy.grafana.queries import panels
from deploy.grafana.service import OBJECTIVE, OURS
from tests.fixtures.prometheus import need

FOLDER = Path(__file__).parents[3] / "deploy" / "prometheus"
RULES = [FOLDER / "records.yaml", FOLDER / "alerts.yaml"]
CASES = [FOLDER / "alerts_test.yaml", FOLDER / "objective_test.yaml"]


def rules(*paths: Path) -> Iterator[dict[str, Any]]:
    for path in paths:
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


ALERTS = {rule["alert"]: rule for rule in rules(FOLDER / "alerts.yaml")}


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(
        [need("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_rules() -> None:
    promtool("check", "rules", "--lint-fatal", *RULES)


@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should(cases: Path) -> None:
    promtool("test", "rules", cases)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_whole(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("page", "ticket")
    told = rule["annotations"]
    assert {"summary", "description", "runbook", "runbook_url"} == set(told)
    assert all(told.values())
    assert told["runbook_url"] == f"RUNBOOK.md#{name.lower()}"


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_case_of_each_kind(name: str) -> None:
    tests = [case for path in CASES for case in yaml.safe_load(path.read_text())["tests"]]
    firing = [case for case in tests if case["name"].startswith(f"{name} fires")]
    silent = [case for case in tests if case["name"].startswith(f"{name} does not")]
    assert firing
    assert silent
    for case in firing:
        [sample, *_] = case["promql_expr_test"][0]["exp_samples"]
        assert f'severity="{ALERTS[name]["labels"]["severity"]}"' in sample["labels"]
    for check in (check for case in silent for check in case["promql_expr_test"]):
        assert check["exp_samples"] == []
    asked = [check["expr"] for case in firing + silent for check in case["promql_expr_test"][:1]]
    assert all(f'alertname="{name}"' in expr for expr in asked)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_its_section(name: str) -> None:
    """What it means, how to look, what to do."""
    page = (FOLDER / "RUNBOOK.md").read_text()
    found = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    for word in ("Means", "Look", "Do"):
        assert f"**{word}.**" in found[1]


def test_the_runbook_has_no_section_too_many() -> None:
    sections = re.findall(r"^## (\w+)$", (FOLDER / "RUNBOOK.md").read_text(), re.MULTILINE)
    assert sections == list(ALERTS)


def test_panels_that_the_runbook_names_are_there() -> None:
    """By their whole titles: those of Grafana's search."""
    page = (FOLDER / "RUNBOOK.md").read_text()
    named = {" ".join(n.split()) for n in re.findall(r"(?<![*\w])\*([^*]+)\*(?!\*)", page)}
    titles = {panel["title"] for dashboard in dashboards().values() for panel in panels(dashboard)}
    assert len(named) > 10
    assert named - titles == {"Service", "Labeling"}


def test_the_objective_is_one() -> None:
    """The dashboard, the records and the alerts mean the same calls and the same share."""
    records = (FOLDER / "records.yaml").read_text()
    assert records.count(f'grpc_code=~"{OURS}"') == len(list(rules(FOLDER / "records.yaml")))
    burns = [rule["expr"] for name, rule in ALERTS.items() if "Budget" in name]
    assert all(f"{1 - OBJECTIVE:g}" in expr for expr in burns)
