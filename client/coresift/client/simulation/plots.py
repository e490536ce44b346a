"""The learning curves as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Distinguishable with colour-blindness (Okabe and Ito).
COLOURS = ("#555555", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw curves.json: mAP over labels with full supervision as a line, and recall beside it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    precision, recall = figure.subplots(1, 2)
    for place, (method, mean) in enumerate(result["mean"].items()):
        colour = COLOURS[place % len(COLOURS)]
        for axes, measure in ((precision, "ap"), (recall, "recall")):
            low = [v - s for v, s in zip(mean[measure], mean[f"{measure}_sd"], strict=True)]
            high = [v + s for v, s in zip(mean[measure], mean[f"{measure}_sd"], strict=True)]
            axes.plot(mean["n"], mean[measure], color=colour, marker=".", label=method)
            axes.fill_between(mean["n"], low, high, color=colour, alpha=0.15, linewidth=0)
    full = result["full_supervision"].get("map_concepts")
    if full is not None:
        precision.axhline(full, color="black", linestyle="--", linewidth=1)
        pool = f"{result['pool']:,} labels"
        precision.plot([], [], "k--", linewidth=1, label=f"full supervision ({pool})")
    precision.set_ylabel("mean average precision on the test split")
    recall.set_ylabel("positives found, share of the pool's")
    recall.set_ylim(0, 1.02)
    for axes in (precision, recall):
        axes.set_xlabel("labels")
        axes.grid(alpha=0.25)
    precision.legend(loc="lower right", fontsize="small")
    count = len(result["concepts"])
    figure.suptitle(
        f"{result['dataset']}: {count} rare concept{'s' * (count > 1)}, "
        f"pool of {result['pool']:,} items"
    )
    figure.savefig(path, dpi=130)
