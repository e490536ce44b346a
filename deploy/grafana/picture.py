"""Draws a dashboard in Grafana's grid, from what its queries returned."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
from deploy.grafana.panels import COLUMNS, Json
from deploy.grafana.units import written
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from PIL import Image

mpl.use("Agg")

WIDTH_PX, UNIT_PX, GAP_PX, DPI = 1680, 34, 8, 100
PAGE, CARD, TEXT, DIM, GRID = "#111217", "#181b1f", "#ccccdc", "#8e8e99", "#2c3036"
COLORS = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c", "blue": "#5794f2"}
PALETTE = (
    "#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#f2495c", "#b877d9", "#8ab8ff", "#fade2a",
    "#96d98d", "#ffa6b0", "#37872d", "#e0b400", "#1f60c4", "#fa6400", "#c4162a", "#8f3bb8",
    "#6ed0e0", "#e5a8e2", "#bf9b30", "#508642",
)  # fmt: skip
LEGEND_SIZE = 8.5
LEGEND_LINES = 2


@dataclass(frozen=True)
class Curve:
    """A series of a panel: its name in the legend, and values by time (seconds)."""

    name: str
    points: Sequence[tuple[float, float]]

    @property
    def last(self) -> float:
        """The newest value."""
        return self.points[-1][1]


class Picture:
    """A dashboard with room for its panels."""

    def __init__(self, dashboard: Json, began: float, ended: float, chosen: str) -> None:
        places = [panel["gridPos"] for panel in dashboard["panels"]]
        rows = max(place["y"] + place["h"] for place in places)
        self._began, self._ended = began, ended
        self._height = rows * UNIT_PX + 56
        self._figure = Figure((WIDTH_PX / DPI, self._height / DPI), dpi=DPI, facecolor=PAGE)
        times = " to ".join(f"{datetime.fromtimestamp(t):%H:%M:%S}" for t in (began, ended))
        self._write(14, 30, dashboard["title"], 15, weight="bold")
        self._write(WIDTH_PX - 14, 30, f"{chosen}    {times}", 10, color=DIM, ha="right")
        for panel in dashboard["panels"]:
            if panel["type"] == "row":
                self._write(14, self._top(panel) + 24, f"⌄ {panel['title']}", 12, weight="bold")

    def draw(self, panel: Json, curves: list[Curve]) -> None:
        """One panel."""
        at = panel["gridPos"]
        x, y = at["x"] * WIDTH_PX / COLUMNS + GAP_PX / 2, self._top(panel) + GAP_PX / 2
        width, height = at["w"] * WIDTH_PX / COLUMNS - GAP_PX, at["h"] * UNIT_PX - GAP_PX
        card = FancyBboxPatch(
            (x / WIDTH_PX, 1 - (y + height) / self._height),
            width / WIDTH_PX,
            height / self._height,
            boxstyle="square,pad=0",
            transform=self._figure.transFigure,
            facecolor=CARD,
            edgecolor=GRID,
            linewidth=0.8,
            zorder=-1,
        )
        self._figure.add_artist(card)
        self._write(x + 10, y + 20, panel["title"], 10)
        finite = [curve for curve in curves if any(math.isfinite(v) for _, v in curve.points)]
        if not finite:
            nothing = panel["fieldConfig"]["defaults"].get("noValue", "No data")
            self._write(x + width / 2, y + height / 2 + 12, nothing, 14, color=DIM, ha="center")
        elif panel["type"] == "stat":
            self._stat(panel, finite, x + width / 2, y + height / 2 + 26)
        elif panel["type"] == "bargauge":
            self._bars(panel, finite, (x, y, width, height))
        else:
            self._lines(panel, finite, (x, y, width, height))

    def save(self, path: Path) -> None:
        """As PNG with few colours."""
        data = io.BytesIO()
        self._figure.savefig(data, format="png", facecolor=PAGE)
        Image.open(data).convert("RGB").quantize(96).save(path, optimize=True)

    def _top(self, panel: Json) -> float:
        return float(panel["gridPos"]["y"] * UNIT_PX + 48)

    def _write(self, x: float, y: float, text: str, size: float, **how: Any) -> None:
        how = {"color": TEXT, "va": "baseline"} | how
        self._figure.text(x / WIDTH_PX, 1 - y / self._height, text, fontsize=size, **how)

    def _axes(self, x: float, y: float, width: float, height: float) -> Axes:
        place = (x / WIDTH_PX, 1 - (y + height) / self._height)
        axes = self._figure.add_axes((*place, width / WIDTH_PX, height / self._height))
        axes.set_facecolor(CARD)
        axes.tick_params(colors=DIM, labelsize=8, length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return axes

    def _stat(self, panel: Json, curves: list[Curve], x: float, y: float) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        value = curves[-1].last
        text = written(value, defaults["unit"], defaults.get("decimals"))
        for mapping in defaults["mappings"]:
            text = mapping["options"].get(f"{value:g}", {"text": text})["text"]
        color = color_of(value, defaults)
        self._write(x, y, text, 25, color=color, ha="center")

    def _bars(
        self, panel: Json, curves: list[Curve], box: tuple[float, float, float, float]
    ) -> None:
        x, y, width, height = box
        defaults = panel["fieldConfig"]["defaults"]
        most = max(curve.last for curve in curves) or 1.0
        step = min(44.0, (height - 40) / len(curves))
        for number, curve in enumerate(sorted(curves, key=lambda c: c.name)):
            top = y + 36 + number * step
            name = curve.name if len(curve.name) < 30 else f"{curve.name[:28]}…"
            self._write(x + 10, top + 15, name, 9)
            value = written(curve.last, defaults["unit"], defaults.get("decimals"))
            color = color_of(curve.last, defaults)
            self._write(x + width - 10, top + 15, value, 10, color=color, ha="right")
            axes = self._axes(x + 0.4 * width, top + 4, 0.42 * width, min(16.0, step - 6))
            axes.barh([0], [1], color=GRID, height=1)
            axes.barh([0], [curve.last / most], color=color, height=1)
            axes.set_xlim(0, 1)
            axes.set_ylim(-0.5, 0.5)
            axes.set_axis_off()

    def _lines(
        self, panel: Json, curves: list[Curve], box: tuple[float, float, float, float]
    ) -> None:
        x, y, width, height = box
        defaults = panel["fieldConfig"]["defaults"]
        lines = self._legend(curves, x, y + height, width)
        axes = self._axes(x + 62, y + 34, width - 78, height - 62 - 15 * lines)
        how = defaults["custom"]
        if how["stacking"]["mode"] == "normal":
            times = sorted({t for curve in curves for t, _ in curve.points})
            layers = [[dict(curve.points).get(t, 0.0) for t in times] for curve in curves]
            colors = [PALETTE[n % len(PALETTE)] for n in range(len(curves))]
            axes.stackplot(times, layers, colors=colors, alpha=0.45, linewidth=0.9)
        else:
            for number, curve in enumerate(curves):
                mark = "." if len(curve.points) < 12 else ""
                color = PALETTE[number % len(PALETTE)]
                axes.plot(*zip(*curve.points, strict=True), color=color, lw=1.2, marker=mark)
        self._scale(axes, defaults, log=how["scaleDistribution"]["type"] == "log")
        low, high = axes.get_ylim()
        for step in defaults["thresholds"]["steps"]:
            if step["value"] is not None and low <= step["value"] <= high:
                color = COLORS[step["color"]]
                axes.axhline(step["value"], color=color, linewidth=1, linestyle=(0, (6, 4)))

    def _scale(self, axes: Axes, defaults: Json, *, log: bool) -> None:
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_xlim(self._began, self._ended)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda t, _: f"{datetime.fromtimestamp(t):%H:%M:%S}")
        )
        if log:
            axes.set_yscale("log")
            low, high = axes.get_ylim()
            narrow = high < 100 * low
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=6))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.tick_params(which="minor", length=0)
        else:
            axes.set_ylim(0, defaults.get("max") or max(axes.get_ylim()[1], 1e-9))
            high = axes.get_ylim()[1]
            scale = 1024 ** int(math.log(high, 1024)) if defaults["unit"] == "bytes" else 1.0
            ticks = MaxNLocator(4).tick_values(0, high / scale)
            axes.set_yticks([tick * scale for tick in ticks if tick * scale <= high])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: written(v, defaults["unit"])))

    def _legend(self, curves: list[Curve], x: float, bottom: float, width: float) -> int:
        """Write the names below the panel, as many as there is room for; returns the lines."""
        lines: list[list[tuple[float, int]]] = [[]]
        at, shown = 12.0, 0
        for number, curve in enumerate(curves):
            needs = 30 + _width_px(curve.name, LEGEND_SIZE)
            if at + needs > width - 50 and lines[-1]:
                if len(lines) == LEGEND_LINES:
                    break
                lines.append([])
                at = 12.0
            lines[-1].append((at, number))
            at, shown = at + needs, shown + 1
        for row, line in enumerate(lines):
            y = bottom - 8 - 15 * (len(lines) - 1 - row)
            for left, number in line:
                color = PALETTE[number % len(PALETTE)]
                self._write(x + left, y, "▬", 9, color=color)
                self._write(x + left + 15, y, curves[number].name, LEGEND_SIZE)
        if shown < len(curves):
            more = f"+{len(curves) - shown}"
            self._write(x + width - 10, bottom - 8, more, LEGEND_SIZE, color=DIM, ha="right")
        return len(lines)


def _width_px(text: str, size: float) -> float:
    return float(TextPath((0, 0), text, size=size).get_extents().width * DPI / 72)


def color_of(value: float, defaults: Json) -> str:
    """Of the last threshold that the value reaches."""
    reached = [
        step["color"]
        for step in defaults["thresholds"]["steps"]
        if step["value"] is None or value >= step["value"]
    ]
    return COLORS[reached[-1]]
