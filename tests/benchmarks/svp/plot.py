"""The learning curves as a picture."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from tests.benchmarks.svp.curves import Curve, Figures
from tests.benchmarks.svp.study import EVERYTHING

from coresift.client.simulation.plots import COLOURS

MARGIN = 0.01
"""Of accuracy, above the best and below the worst at the end."""


def draw(curves: list[Curve], figures: Figures, path: Path) -> None:
    """Draw accuracy over processor seconds, same epochs and same steps beside each other.

    Means over the seeds, the band from the lowest to the highest. A curve begins when its proxy
    is trained and its core-set selected.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, same in zip(panels, ("epochs", "steps"), strict=True):
        for place, subset in enumerate(dict.fromkeys(curve.subset for curve in curves)):
            runs = [c for c in curves if c.subset == subset and c.same in (same, "both")]
            looks = list(zip(*(run.points for run in runs), strict=True))
            before = fmean(run.before.cpu_s for run in runs)
            x = [before + fmean(point.spent.cpu_s for point in look) for look in looks]
            levels = [[point.accuracy for point in look] for look in looks]
            colour = COLOURS[place % len(COLOURS)]
            label = "everything" if subset == EVERYTHING else subset
            axes.plot(x, [fmean(level) for level in levels], color=colour, label=label)
            axes.fill_between(
                x, *zip(*((min(a), max(a)) for a in levels), strict=True), color=colour, alpha=0.15
            )
        axes.axhline(figures.named, color="black", linestyle="--", linewidth=1)
        axes.set_title(f"same {same} as on everything")
        axes.set_xlabel("processor seconds, proxy and selection included")
        axes.grid(alpha=0.25)
    ends = [figures.named, *(curve.accuracy for curve in curves)]
    panels[0].set_ylim(min(ends) - MARGIN, max(ends) + MARGIN)
    panels[0].set_ylabel("accuracy on the test split")
    panels[0].legend(loc="lower right", fontsize="small")
    figure.savefig(path, dpi=130)
