"""A comparison as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coresift.client.simulation.campaign import Run
from coresift.client.simulation.comparison import MEASURES, Comparison
from coresift.client.simulation.paired import spread
from coresift.client.simulation.plots import COLOURS
from coresift.client.simulation.studies import BASELINE, FAMILIAR, SEARCHERS, SEEDED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100
ACROSS = 4
GREYS = {BASELINE: ("#999999", ":"), FAMILIAR: ("#999999", "--")}
VERDICTS = {"better": "#009E73", "worse": "#D55E00", "not told apart": "#555555"}


def draw_curves(found: Comparison, measure: str, path: Path) -> None:
    """A field a strategy: its candidate and batch policies, random and max_entropy in grey."""
    fields: dict[str, list[str]] = {}
    for name in found.main:
        if name not in GREYS:
            fields.setdefault(_field(name), []).append(name)
    down = -(-len(fields) // ACROSS)
    figure = _figure(3.4 * ACROSS, 2.7 * down)
    every = figure.subplots(down, ACROSS, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for axes, (strategy, names) in zip(every, fields.items(), strict=False):
        for name, (colour, style) in GREYS.items():
            label = name if axes is every[0] else ""
            _line(axes, found.main[name], measure, colour, style, label)
        for place, name in enumerate(names):
            label = name.removeprefix(strategy.removesuffix("..."))
            _line(axes, found.main[name], measure, COLOURS[1 + place % 6], "-", label)
        axes.set_title(strategy, fontsize="medium")
        axes.grid(alpha=0.25)
        axes.legend(fontsize="x-small", loc="best")
    for axes in every[len(fields) :]:
        axes.remove()
    figure.supxlabel("labels")
    figure.supylabel(MEASURES[measure])
    figure.savefig(path, dpi=DPI)


def draw_differences(found: Comparison, path: Path) -> None:
    """Paired differences to random at the last mark, with their intervals."""
    names = [name for name in found.main if name != BASELINE]
    figure = _figure(11, 1.2 + 0.24 * len(names))
    every = figure.subplots(1, len(MEASURES), sharey=True)
    for axes, (measure, title) in zip(every, MEASURES.items(), strict=True):
        for place, name in enumerate(names):
            own = found.against(name, BASELINE, measure, found.last)
            colour = VERDICTS[own.verdict]
            axes.plot([own.low, own.high], [place, place], color=colour, linewidth=1.5)
            axes.plot([own.mean], [place], marker="o", markersize=4, color=colour)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_title(f"{title} less random's, {found.last:,} labels", fontsize="medium")
        axes.grid(axis="x", alpha=0.25)
    every[0].set_yticks(range(len(names)), names, fontsize="x-small")
    every[0].set_ylim(len(names) - 0.5, -0.5)
    figure.savefig(path, dpi=DPI)


def draw_search(found: Comparison, path: Path) -> None:
    """Recall in small batches; ens by its budget."""
    figure = _figure(6.4, 4)
    axes = figure.subplots()
    for (name, beyond), runs in found.search.items():
        label, style = name, "-"
        if name == SEARCHERS[0]:
            label, style = f"{name}, {beyond} labels", ("-", "--", ":")[beyond // 100 % 3]
        _line(axes, runs, "recall", COLOURS[1 + SEARCHERS.index(name)], style, label)
    axes.set_xlabel(f"labels, {SEEDED} of them the seed set")
    axes.set_ylabel("recall")
    axes.grid(alpha=0.25)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=DPI)


def _field(name: str) -> str:
    """The strategy of a method's name; batch policies have a field of their own."""
    strategy, slash, _ = name.rpartition("@")[0].partition("/")
    return f"{strategy}{slash}{'...' if slash else ''}"


def _line(
    axes: Axes, runs: Sequence[Run], measure: str, colour: str, style: str, label: str
) -> None:
    points = [n for n in runs[0].n if all(n in run.n for run in runs)]
    values = [spread(runs, measure, n) for n in points]
    low, high = [m - s for m, s in values], [m + s for m, s in values]
    means = [mean for mean, _ in values]
    axes.plot(points, means, color=colour, linestyle=style, linewidth=1.3, label=label)
    if style == "-":
        axes.fill_between(points, low, high, color=colour, alpha=0.15, linewidth=0)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
