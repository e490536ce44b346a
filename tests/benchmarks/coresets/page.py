"""The comparison of core-sets as a page and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tests.benchmarks.coresets.cases import BASELINE, CASES, LEFT_OUT, SHARES
from tests.benchmarks.coresets.quality import Outcome

from coresift.client.simulation.dataset import Dataset

MEASURES: dict[str, tuple[str, str]] = {
    "accuracy": ("Accuracy of a model trained on the core-set", "accuracy.png"),
    "mean_max_similarity": ("Mean largest cosine to the core-set", "similarity.png"),
    "covering_radius": ("Covering radius", "radius.png"),
}
ACROSS = 4


def write_page(
    data: Dataset, items: int, outcomes: Sequence[Outcome], out: Path, command: str
) -> None:
    """``RESULTS.md`` and its pictures into ``out``."""
    draws = sorted({own.draw for own in outcomes})
    left_out = "; ".join(f"`{name}` {why}" for name, why in LEFT_OUT.items())
    lines = [
        f"# Core-sets of {data.name}",
        "",
        f"{len(data.labels):,} items in {len(set(data.labels.tolist()))} classes, of which "
        f"{len(draws)} random draws of {items:,} are the pools; mean over the draws and "
        "(in brackets) their standard deviation. Accuracy is that of a softmax regression on the "
        f"same embeddings, on the fixed test split of {len(data.test_labels):,}. Scores come from "
        f"the built-in proxy. Not here: {left_out}. Written by `{command}`.",
    ]
    for measure, (title, picture) in MEASURES.items():
        lines += ["", f"## {title}", "", *_table(outcomes, measure), "", f"![{title}]({picture})"]
        _draw(outcomes, measure, title, out / picture)
    lines += ["", "## Seconds", "", "Beside other work on two cores: an order of magnitude.", ""]
    lines += _table(outcomes, "seconds")
    (out / "RESULTS.md").write_text("\n".join(lines) + "\n")


def _values(
    outcomes: Sequence[Outcome], measure: str, case: str, share: float
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    values = [getattr(own, measure) for own in outcomes if (own.case, own.share) == (case, share)]
    return np.array([value for value in values if value is not None])


def _table(outcomes: Sequence[Outcome], measure: str) -> list[str]:
    show: Callable[[float], str] = "{:.1f}".format if measure == "seconds" else "{:.3f}".format
    lines = ["| | " + " | ".join(f"{share:.0%}" for share in SHARES) + " |"]
    lines.append("|---" * (len(SHARES) + 1) + "|")
    for case in CASES:
        cells = []
        for share in SHARES:
            values = _values(outcomes, measure, case, share)
            spread = f" ({show(float(values.std(ddof=1)))})" if len(values) > 1 else ""
            cells.append(show(float(values.mean())) + spread if len(values) else "-")
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return lines


def _draw(outcomes: Sequence[Outcome], measure: str, title: str, path: Path) -> None:
    from matplotlib.figure import Figure

    fields: dict[str, list[str]] = {}
    for case in CASES:
        if case != BASELINE:
            fields.setdefault(case.split(",")[0], []).append(case)
    down = -(-len(fields) // ACROSS)
    figure = Figure(figsize=(3.2 * ACROSS, 2.5 * down), layout="constrained")
    every = figure.subplots(down, ACROSS, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for axes, (name, cases) in zip(every, fields.items(), strict=False):
        for case in (BASELINE, *cases):
            values = [_values(outcomes, measure, case, share) for share in SHARES]
            there = [(share, own) for share, own in zip(SHARES, values, strict=True) if len(own)]
            axes.errorbar(
                [share for share, _ in there],
                [own.mean() for _, own in there],
                [own.std(ddof=1) if len(own) > 1 else 0 for _, own in there],
                label=case.partition(", ")[2] or case,
                color="#999999" if case == BASELINE else None,
                marker=".",
            )
        axes.set_xscale("log")
        axes.set_title(name, fontsize="medium")
        axes.grid(alpha=0.25)
        axes.legend(fontsize="x-small")
    for axes in every[len(fields) :]:
        axes.remove()
    figure.supxlabel("share of the items kept")
    figure.supylabel(title)
    figure.savefig(path, dpi=100)
