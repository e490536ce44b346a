"""Writes the dashboards from the tables of panels: ``python -m deploy.grafana.dashboards``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from deploy.grafana import labeling, service
from deploy.grafana.panels import COLUMNS, PODS, SOURCE, Json, Panel

FOLDER = Path(__file__).parent / "dashboards"


def dashboards() -> dict[str, Json]:
    """By the name of their file."""
    return {
        "service": dashboard(
            "coresift-service",
            "Coresift: service",
            "Is it up, is it quick, what runs out?",
            service.ROWS,
        ),
        "labeling": dashboard(
            "coresift-labeling",
            "Coresift: labeling",
            "Does the work get on, and does selection pay?",
            labeling.ROWS,
        ),
    }


def dashboard(uid: str, title: str, text: str, rows: dict[str, Sequence[Panel]]) -> Json:
    """A dashboard of rows of panels, which flow from left to right."""
    panels: list[Json] = []
    y = 0
    for name, row in rows.items():
        place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        header = {"id": len(panels) + 1, "type": "row", "title": name, "gridPos": place}
        panels.append(header | {"collapsed": False, "panels": []})
        x, y, bottom = 0, y + 1, y + 1
        for panel in row:
            if x + panel.width > COLUMNS:
                x, y = 0, bottom
            panels.append(panel.json(len(panels) + 1, x, y))
            x, bottom = x + panel.width, max(bottom, y + panel.height)
        y = bottom
    return {
        "uid": uid,
        "title": title,
        "description": text,
        "tags": ["coresift"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "",
        "links": [
            {"type": "dashboards", "title": "Coresift", "tags": ["coresift"], "keepTime": True}
            | {"includeVars": True, "asDropdown": False}
        ],
        "templating": {"list": list(_variables())},
        "annotations": {"list": []},
        "panels": panels,
    }


def _variables() -> Iterable[Json]:
    yield {"name": "datasource", "label": "Data source", "type": "datasource"} | {
        "query": "prometheus",
        "refresh": 1,
    }
    values = {
        "namespace": "label_values(coresift_build_info, namespace)",
        "pod": 'label_values(coresift_build_info{namespace=~"$namespace"}, pod)',
        "pool": f"label_values(coresift_pool_items{{{PODS}}}, pool)",
    }
    for name, query in values.items():
        yield {
            "name": name,
            "label": name.capitalize(),
            "type": "query",
            "datasource": SOURCE,
            "query": {"query": query, "refId": name},
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
            "refresh": 2,
            "sort": 1,
        }


def text_of(dashboard: Json) -> str:
    """The file of a dashboard."""
    return json.dumps(dashboard, indent=2) + "\n"


def main() -> None:
    """Write them."""
    for name, each in dashboards().items():
        (FOLDER / f"{name}.json").write_text(text_of(each), "utf-8")


if __name__ == "__main__":
    main()
