"""The results as a page of Markdown and a plot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests.benchmarks.svp.curves import Curve, Figures, curves_of, figures_of
from tests.benchmarks.svp.plot import draw
from tests.benchmarks.svp.study import SHARE, StudyError
from tests.benchmarks.svp.training import (
    LEARNING_RATE,
    MOMENTUM,
    WARM_UP,
    WEIGHT_DECAY,
    steps_of,
)

PAGE, PLOT = "RESULTS.md", "accuracy.png"


def write_report(source: Path, to: Path) -> Path:
    """Write page and plot of ``source/results.json`` into ``to``, with a copy of it; the page.

    Raises `StudyError` where there are no results, or of no seed all.
    """
    path = source / "results.json"
    try:
        results = json.loads(path.read_text())
    except OSError as error:
        raise StudyError(f"there are no results to report on: {error}") from error
    curves = curves_of(results)
    if not curves:
        raise StudyError(f"{path} has no seed with all its trainings yet: go on with run --resume")
    to.mkdir(parents=True, exist_ok=True)
    if to.resolve() != source.resolve():
        shutil.copyfile(path, to / path.name)
    figures = figures_of(curves)
    draw(curves, figures, to / PLOT)
    (to / PAGE).write_text(_page(results, curves, figures))
    return to / PAGE


def _page(results: dict[str, Any], curves: list[Curve], figures: Figures) -> str:
    sections = [
        _head(results, curves),
        "## Accuracy and time\n\n" + _accuracies(figures),
        f"## Time to {figures.named:.2%}\n\n" + _times(figures),
        f"![Accuracy over processor time]({PLOT})",
        "## The proxies\n\n" + _proxies(results),
    ]
    return "\n\n".join(sections) + "\n"


def _head(results: dict[str, Any], curves: list[Curve]) -> str:
    data, settings, machine = results["data"], results["settings"], results["machine"]
    macs = results["multiply_adds"]
    seeds = len({curve.seed for curve in curves})
    batch, n, budget = settings["batch"], data["items"], data["budget"]
    epochs, proxy_epochs = settings["epochs"], settings["proxy_epochs"]
    everything, half = steps_of(n, epochs, batch), steps_of(budget, epochs, batch)
    proxy_steps = steps_of(n, proxy_epochs, batch)
    return f"""# Selection via proxy on {data["name"]}

Written by `python -m tests.benchmarks.svp`; changes by hand are lost with the next run.

A proxy of {macs["proxy"]:,} multiply-adds an image is trained on all {n:,} images of the pool for
{proxy_epochs} epochs ({proxy_steps:,} steps) while `TrainingDynamics` records. The recording is
uploaded, and `ScoreCoreset` keeps {SHARE:.0%} of the pool, {budget:,} images: at random, those with
the most forgetting events, those of the highest entropy. The target, {macs["target"]:,}
multiply-adds an image ({macs["target"] / macs["proxy"]:.1f} times), is then trained

- on everything: {epochs} epochs, {everything:,} steps;
- on a half for the **same epochs**: {epochs}, so {half:,} steps;
- on a half for the **same steps**: {everything:,}, so {everything / half * epochs:.1f} epochs.

Accuracy is on {data["test_items"]:,} test images that nothing was trained on; ± is the standard
deviation between {seeds} seeds, each with a proxy and core-sets of its own. All trainings: SGD with
Nesterov momentum {MOMENTUM}, weight decay {WEIGHT_DECAY:g}, {batch} images a step, a learning rate
that rises to {LEARNING_RATE} over {WARM_UP:.0%} of the steps and falls to 0, bfloat16 products,
shifts and mirroring. Times are of {settings["threads"]} threads
({machine["cores"]} cores, torch {machine["torch"]}), without looking at the test split; processor
time is the steadier one where the machine has other work. A half's time includes its proxy's
training and recording, the upload and the selection; at random there is only the selection."""


def _accuracies(figures: Figures) -> str:
    everything = figures.rows[0].total
    rows = [
        [
            row.title,
            f"{row.items:,}",
            f"{row.steps:,}",
            f"{row.accuracy:.2%} ± {row.accuracy_sd:.2%}",
            _points(row.less_all),
            _points(row.less_random),
            f"{row.total.wall_s:.1f}",
            f"{row.total.cpu_s:.1f}",
            f"{everything.cpu_s / row.total.cpu_s:.2f}",
        ]
        for row in figures.rows
    ]
    headings = ["trained on", "images", "steps", "accuracy", "less everything", "less random"]
    headings += ["seconds", "processor seconds", "speed-up (processor)"]
    return (
        _table(headings, rows)
        + "\n\nDifferences are paired by seed, in percentage points. The speed-up is that of the\n"
        "whole way to a trained target, proxy included."
    )


def _times(figures: Figures) -> str:
    everything = figures.rows[0].spent_to_reach()
    rows = []
    for row in figures.rows:
        reached, cells = len(row.reached), [""] * 4
        if row.reached:
            spent = row.spent_to_reach()
            cells = [f"{row.step_of_reached():,.0f}", f"{spent.wall_s:.1f}", f"{spent.cpu_s:.1f}"]
            # A mean over the lucky seeds alone is not to be compared.
            cells += [f"{everything.cpu_s / spent.cpu_s:.2f}" if reached == row.runs else ""]
        rows.append([row.title, f"{reached} of {row.runs}", *cells])
    headings = ["trained on", "seeds that reach it", "steps", "seconds", "processor seconds"]
    headings += ["speed-up (processor)"]
    return (
        "The mean final accuracy of training on everything, less half a point: the first look at\n"
        "the test split that finds it, means over the seeds that reach it. On a schedule of fewer\n"
        "steps the learning rate falls sooner, which is a part of the gain: the random half shows\n"
        "how much.\n\n" + _table(headings, rows)
    )


def _proxies(results: dict[str, Any]) -> str:
    rows = []
    for seed, proxy in results["proxies"].items():
        selection = proxy["selection"]
        rows.append(
            [
                seed,
                f"{proxy['accuracy']:.2%}",
                f"{proxy['training']['wall_s']:.1f}",
                f"{proxy['training']['cpu_s']:.1f}",
                f"{proxy['upload']['wall_s']:.2f}",
                *(f"{selection[name]['wall_s']:.2f}" for name in selection),
                f"{proxy['in_common'] / results['data']['budget']:.0%}",
            ]
        )
    names = list(next(iter(results["proxies"].values()))["selection"])
    headings = ["seed", "accuracy", "training s", "processor s", "upload s"]
    headings += [f"select {name} s" for name in names] + ["forgetting in entropy's half"]
    text = _table(headings, rows)
    counts = _class_counts(results, names)
    classes = results["data"]["classes"]
    return text + "\n\nImages of each class in a half, means:\n\n" + _table(["", *classes], counts)


def _class_counts(results: dict[str, Any], names: list[str]) -> list[list[str]]:
    rows = []
    for name in names:
        by_seed = [proxy["class_counts"][name] for proxy in results["proxies"].values()]
        means = [sum(own) / len(own) for own in zip(*by_seed, strict=True)]
        rows.append([name, *(f"{mean:,.0f}" for mean in means)])
    return rows


def _points(difference: tuple[float, float] | None) -> str:
    if difference is None:
        return ""
    return f"{100 * difference[0]:+.2f} ± {100 * difference[1]:.2f}"


def _table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
