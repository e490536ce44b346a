"""Panels as values, and the JSON that Grafana 11 wants of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
PODS = 'namespace=~"$namespace",pod=~"$pod"'
"""An absent label matches `.*` too: All hides no series outside of Kubernetes."""
SHORT = {
    "<pods>": PODS,
    "<pools>": f'{PODS},pool=~"$pool"',
    "<rate>": "$__rate_interval",
    "<range>": "$__range",
}
"""What the tables of panels write for it."""
GREEN, ORANGE, RED, BLUE = "green", "orange", "red", "blue"
ALWAYS_BLUE = ((None, BLUE),)
"""For what is neither good nor bad."""

COLUMNS = 24
"""Of the grid."""

Steps = Sequence[tuple[float | None, str]]


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        text: what it shows, what good looks like, what to do otherwise.
        queries: legend to PromQL, with the words of `SHORT`.
        unit: as Grafana names it.
        steps: colours from the value on; the first from None.
        width, height: of 24 columns; in rows of 30 pixels.
        nothing: what to say where there is no data, such as where a fault never happened.
        names: by value, where numbers stand for words.
        most: end of the axis.
    """

    title: str
    text: str
    queries: dict[str, str]
    unit: str = "short"
    steps: Steps = ALWAYS_BLUE
    width: int = 8
    height: int = 7
    nothing: str = ""
    names: dict[str, str] | None = None
    most: float | None = None
    decimals: int | None = None

    kind = "timeseries"

    def queries_json(self) -> list[Json]:
        """The targets."""
        instant = self.kind != "timeseries"
        return [
            {
                "refId": chr(ord("A") + number),
                "datasource": SOURCE,
                "editorMode": "code",
                "expr": expand(expr),
                "legendFormat": legend,
                "instant": instant,
                "range": not instant,
            }
            for number, (legend, expr) in enumerate(self.queries.items())
        ]

    def custom(self) -> Json:
        """How values are drawn."""
        return {}

    def options(self) -> Json:
        """Of this kind of panel."""
        return {}

    def json(self, number: int, x: int, y: int) -> Json:
        """As Grafana wants it, at a place of the grid."""
        defaults: Json = {
            "unit": self.unit,
            "min": 0,
            "color": {"mode": "palette-classic" if self.kind == "timeseries" else "thresholds"},
            "thresholds": {
                "mode": "absolute",
                "steps": [{"color": color, "value": value} for value, color in self.steps],
            },
            "mappings": [],
            "custom": self.custom(),
        }
        if self.names:
            options = {value: {"text": text} for value, text in self.names.items()}
            defaults["mappings"] = [{"type": "value", "options": options}]
        extras = {"noValue": self.nothing or None, "max": self.most, "decimals": self.decimals}
        defaults |= {name: value for name, value in extras.items() if value is not None}
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.text,
            "datasource": SOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": self.queries_json(),
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "options": self.options(),
        }


@dataclass(frozen=True)
class Lines(Panel):
    """Values over time. ``stacked``: they add up; ``log``: the axis has powers of ten."""

    stacked: bool = False
    log: bool = False

    def custom(self) -> Json:
        scale = {"type": "log", "log": 10} if self.log else {"type": "linear"}
        return {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 30 if self.stacked else 8,
            "showPoints": "auto",
            "spanNulls": False,
            "scaleDistribution": scale,
            "stacking": {"mode": "normal" if self.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if len(self.steps) > 1 else "off"},
        }

    def options(self) -> Json:
        legend = {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []}
        return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}


@dataclass(frozen=True)
class Stat(Panel):
    """The newest value, large."""

    width: int = 3
    height: int = 4

    kind = "stat"

    def options(self) -> Json:
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "none",
            "justifyMode": "center",
            "orientation": "auto",
            "textMode": "auto",
        }


@dataclass(frozen=True)
class Bars(Panel):
    """The newest value of each series as a bar."""

    kind = "bargauge"

    def options(self) -> Json:
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "displayMode": "basic",
            "orientation": "horizontal",
            "valueMode": "color",
            "showUnfilled": True,
        }


def expand(expr: str) -> str:
    """PromQL with the words of `SHORT` written out."""
    for word, meaning in SHORT.items():
        expr = expr.replace(word, meaning)
    return expr


def by_replica(expr: str) -> str:
    """With the label ``replica``: the pod, or the address where there are no pods."""
    named = f'label_replace({expr}, "replica", "$1", "instance", "(.+)")'
    return f'label_replace({named}, "replica", "$1", "pod", "(.+)")'


def quantiles(
    metric: str, *shares: float, of: str = "<pods>", over: str = "<rate>"
) -> dict[str, str]:
    """Queries by legend: shares of a histogram's observations lie below these values."""
    total = f"sum by (le) (rate({metric}_bucket{{{of}}}[{over}]))"
    return {f"p{share * 100:g}": f"histogram_quantile({share:g}, {total})" for share in shares}


def per(labels: str, expr: str, how: str = "sum") -> dict[str, str]:
    """The query that adds up by these labels (parted by commas); they are its legend too."""
    legend = ": ".join(f"{{{{{label}}}}}" for label in labels.split(", "))
    return {legend: f"{how} by ({labels}) ({expr})"}


def slow(metric: str, label: str, share: float) -> dict[str, str]:
    """The query of a quantile for each value of a label."""
    total = f"sum by (le, {label}) (rate({metric}_bucket{{<pods>}}[<rate>]))"
    return {f"{{{{{label}}}}}": f"histogram_quantile({share:g}, {total})"}


def positive(queries: dict[str, str]) -> dict[str, str]:
    """The same without series that are 0: of many things that can happen, those that do."""
    return {legend: f"{expr} > 0" for legend, expr in queries.items()}
