"""Dashboards that ask for what the server exports, as far as can be seen without running one."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.grafana.dashboards import FOLDER, dashboards, text_of
from deploy.grafana.queries import filled, panels
from deploy.grafana.units import written
from tests.fixtures.prometheus import need

from coresift.server.metrics import Metrics

RULES = FOLDER.parents[1] / "prometheus"
OF_TARGETS = {"namespace", "pod", "instance", "job"}
"""Labels that Prometheus gives to what it scrapes."""
MADE = {"replica", "short", "le", "cronjob", "alertname", "alertstate"}
NOT_OURS = {
    "up": set(),
    "kube_cronjob_status_last_successful_time": {"cronjob"},
    "kube_cronjob_created": {"cronjob"},
}
NOT_SHOWN = {
    "python_gc_objects_collected": "for those who tune Python's garbage collector",
    "python_gc_objects_uncollectable": "the same",
    "python_gc_collections": "the same",
    "python_info": "the release says it",
    "process_virtual_memory_bytes": "mapped pools make it meaningless",
}
WORDS = re.compile(r"\b(?:coresift|grpc_server|process|kube)_\w+|\bup\b")
PANELS = [
    pytest.param(panel, id=f"{name}-{panel['title']}")
    for name, dashboard in dashboards().items()
    for panel in panels(dashboard)
]


def exported() -> dict[str, set[str]]:
    """Labels by name of a series."""
    metrics = Metrics()
    found: dict[str, set[str]] = {}
    for spec in metrics.catalogue.specs:
        labels = {name for name, _ in spec.labels}
        if spec.kind == "histogram":
            found |= {f"{spec.name}_sum": labels, f"{spec.name}_count": labels}
            found[f"{spec.name}_bucket"] = labels | {"le"}
        else:
            found[spec.name] = labels
    for family in metrics.registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def rule_queries() -> Iterator[str]:
    for name in ("records", "alerts"):
        for group in yaml.safe_load((RULES / f"{name}.yaml").read_text())["groups"]:
            yield from (rule["expr"] for rule in group["rules"])


def every_query() -> list[str]:
    shown = [
        filled(target["expr"], rate="1m", whole="6h")
        for dashboard in dashboards().values()
        for panel in panels(dashboard)
        for target in panel["targets"]
    ]
    return [*shown, *rule_queries()]


@pytest.mark.parametrize("name", dashboards())
def test_the_files_are_what_the_tables_say(name: str) -> None:
    """After a change: python -m deploy.grafana.dashboards."""
    assert (FOLDER / f"{name}.json").read_text() == text_of(dashboards()[name])


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_explains_itself(panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert len(panel["description"]) > 20
    assert panel["description"].endswith(".")
    assert defaults["unit"]
    assert defaults["thresholds"]["steps"][0]["value"] is None
    assert panel["targets"]
    assert all(target["refId"] for target in panel["targets"])
    for target in panel["targets"]:
        assert panel["datasource"] == target["datasource"] == {
            "type": "prometheus",
            "uid": "${datasource}",
        }  # fmt: skip
        assert target["legendFormat"] or panel["type"] == "stat"


@pytest.mark.parametrize("name", dashboards())
def test_panels_do_not_overlap(name: str) -> None:
    dashboard = json.loads((FOLDER / f"{name}.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        place = itertools.product(
            range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])
        )
        cells = set(place)
        assert not cells & taken
        taken |= cells
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", dashboards())
def test_a_dashboard_can_be_narrowed(name: str) -> None:
    variables = {v["name"]: v for v in dashboards()[name]["templating"]["list"]}
    assert list(variables) == ["datasource", "namespace", "pod", "pool"]
    for each in ("namespace", "pod", "pool"):
        assert variables[each]["multi"]
        assert variables[each]["includeAll"]
        assert variables[each]["allValue"] == ".*"
        shown = [t["expr"] for panel in panels(dashboards()[name]) for t in panel["targets"]]
        assert any(f'{each}=~"${each}"' in expr for expr in shown)


def test_what_is_asked_for_is_exported() -> None:
    """Every name of a metric, and its labels, in dashboards, records and alerts."""
    known = exported() | NOT_OURS
    every_label = set().union(*known.values()) | OF_TARGETS | MADE
    for expr in every_query():
        bare = re.sub(r'"[^"]*"', '""', expr)
        assert set(WORDS.findall(bare)) <= set(known), expr
        for name, matchers in re.findall(r"(\w+)\{([^}]*)\}", bare):
            labels = set(re.findall(r"(\w+)\s*[=!]", matchers))
            assert labels <= known[name] | OF_TARGETS, expr
        for listed in re.findall(r"(?:by|on|group_left) \(([^)]*)\)", bare):
            assert set(re.findall(r"\w+", listed)) <= every_label, expr


def test_what_is_exported_is_shown() -> None:
    """Every metric is in a panel or an alert, or here is why not."""
    asked = set().union(*(WORDS.findall(expr) for expr in every_query()))
    shown = {re.sub(r"_(sum|count|bucket)$", "", name) for name in asked}
    names = {spec.name for spec in Metrics().catalogue.specs}
    names |= {re.sub(r"_total$", "", family.name) for family in Metrics().registry.collect()}
    shown |= {re.sub(r"_total$", "", name) for name in shown}
    assert names - shown == set(NOT_SHOWN)


def test_promtool_understands_every_query(tmp_path: Path) -> None:
    rules = [{"record": "a:query", "expr": e, "labels": {"n": str(n)}} for n, e in
             enumerate(every_query())]  # fmt: skip
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run(
        [need("promtool"), "check", "rules", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("value", "unit", "decimals", "text"),
    [
        (0.0, "s", None, "0 s"),
        (0.00042, "s", None, "420 µs"),
        (0.2114, "s", None, "211 ms"),
        (90.0, "s", None, "1.5 min"),
        (7200.0, "s", None, "2 hours"),
        (0.9798, "percentunit", 2, "97.98%"),
        (3 * 2**20, "bytes", None, "3 MiB"),
        (1234.0, "short", None, "1.23 K"),
        (9.94, "reqps", 1, "9.9 req/s"),
        (20.16, "suffix: x", 1, "20.2x"),
        (2.0, "none", None, "2"),
    ],
)
def test_values_are_written_as_in_grafana(
    value: float, unit: str, decimals: int | None, text: str
) -> None:
    assert written(value, unit, decimals) == text


def test_values_of_variables_are_written_as_in_grafana() -> None:
    expr = 'x{pod=~"$pod",pool=~"$pool"}[$__rate_interval]'
    assert filled(expr, rate="1m", whole="1h") == 'x{pod=~".*",pool=~".*"}[1m]'
    chosen = {"pod": "a.b", "pool": ["c", "d"]}
    narrow = filled(expr, rate="1m", whole="1h", chosen=chosen)
    assert narrow == 'x{pod=~"a\\\\.b",pool=~"(c|d)"}[1m]'
