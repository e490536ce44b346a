"""A comparison as a page of Markdown: tables, pictures, and a sentence for what does not win."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from coresift.client.simulation.comparison import MEASURES, Comparison
from coresift.client.simulation.paired import Difference, by_pair, difference, spread
from coresift.client.simulation.report import percentiles
from coresift.client.simulation.studies import (
    BASELINE,
    FAMILIAR,
    LEFT_OUT,
    NEAR,
    SEARCH_BATCH,
    SEARCH_BUDGETS,
    SEARCHERS,
    SEEDED,
)

MAP_PICTURE, RECALL_PICTURE, DIFFERENCES_PICTURE = "map.png", "recall.png", "differences.png"
SEARCH_PICTURE = "search.png"


def page(found: Comparison, command: str, against: dict[str, Any] | None) -> str:
    """The whole page.

    Args:
        command: what writes it again.
        against: the comparison with reference curves, as `report.agreement` gives it.
    """
    sections = [
        _head(found, command),
        _levels(found),
        _pictures(),
        "" if against is None else _against(against),
        _differences(found, BASELINE),
        _differences(found, FAMILIAR),
        _beaten(found),
        _narrowings(found),
        _search(found) if found.search else "",
        _cold(found) if found.cold else "",
        _times(found),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(found: Comparison, command: str) -> str:
    data, plan = found.data, found.study.main[0]
    positives = ", ".join(
        f"{concept.name} ({int((data.labels == concept.label).sum())})"
        for concept in found.concepts
    )
    seeds = len({plan.seed for plan in found.study.main})
    title = data.name if data.use is None else f"{data.name}, {data.use}"
    left_out = "; ".join(f"`{name}`: {why}" for name, why in LEFT_OUT.items())
    full = ""
    if found.full:
        mean = sum(found.full.values()) / len(found.full)
        full = f" The head that is fitted on the labels of the whole pool has mAP {mean:.4f}."
    return f"""# Strategies on {title}

Written by `{command}`; changes by hand are lost with the next run.

Pool of {len(data.labels):,} items, test split of {len(data.test_labels):,}. Concepts, with their
items in the pool: {positives}. Every campaign searches for one of them: 5 positives and 95
negatives to begin with, the same for all methods, seed sets 0 to {seeds - 1}, then batches of
{plan.batch} up to {plan.budget:,} labels, all over gRPC. mAP is the mean over the concepts of the
head's average precision on the test split, recall the share of the pool's positives that is
labelled, ± the standard deviation between the seeds of the mean over the concepts.{full}
Random is the mean of five draws.

A method is a strategy, `/` a batch policy (`top` where none is named), `@` the candidates. Not
run: {left_out}."""


def _levels(found: Comparison) -> str:
    headings = [f"{name}, {n:,}" for name in MEASURES.values() for n in found.marks]
    rows = []
    for name in found.main:
        cells = [found.spread(name, measure, n) for measure in MEASURES for n in found.marks]
        rows.append([f"`{name}`", *(f"{mean:.3f} ± {sd:.3f}" for mean, sd in cells)])
    return "## mAP and recall\n\n" + _table(["method", *headings], rows)


def _pictures() -> str:
    return (
        f"![mAP over labels, a field a strategy]({MAP_PICTURE})\n\n"
        f"![Recall over labels, a field a strategy]({RECALL_PICTURE})"
    )


def _against(against: dict[str, Any]) -> str:
    known = dict.fromkeys(own["method"] for own in against["worst"])
    outside = [own for own in against["worst"] if not own["agrees"]]
    text = f"The curves of {_listed([f'`{name}`' for name in known])} in `{against['reference']}`, "
    text += "measured without this service, are "
    if not outside:
        return text + "the same within their tolerance at every point."
    places = [f"`{own['method']}` in {own['measure']} at {own['n']:,}" for own in outside]
    return text + f"not the same: {_listed(places)} {'is' if len(places) == 1 else 'are'} outside."


def _differences(found: Comparison, other: str) -> str:
    headings = [f"{name}, {n:,}" for name in MEASURES.values() for n in found.marks]
    rows = []
    for name in found.main:
        if name == other:
            continue
        cells = [found.against(name, other, m, n) for m in MEASURES for n in found.marks]
        rows.append([f"`{name}`", *map(_interval, cells)])
    text = f"## Against {other}\n\n"
    if other == BASELINE:
        pairs = found.against(FAMILIAR, BASELINE, "ap", found.last).pairs
        text += (
            f"Paired differences: the same concept and seed set, {pairs} pairs. In brackets the\n"
            "95 % interval of Student's t over the pairs, which takes them for independent: it\n"
            "speaks of these concepts. **Bold**: the interval lies above 0. *Italic*: below.\n\n"
        )
    text += _table(["method", *headings], rows)
    if other == BASELINE:
        text += f"\n\n![Paired differences to random]({DIFFERENCES_PICTURE})"
    return text


def _beaten(found: Comparison) -> str:
    """A sentence for each method that does not beat random everywhere."""
    sentences, better = [], []
    for name in found.main:
        if name == BASELINE:
            continue
        failed = found.not_better(name)
        if not failed:
            better.append(f"`{name}`")
            continue
        clauses = [
            f"in {title} at {_listed(places)} labels"
            for measure, title in MEASURES.items()
            if (
                places := [
                    f"{n:,} ({_signed(d)}, {d.verdict})" for m, n, d in failed if m == measure
                ]
            )
        ]
        sentences.append(f"- `{name}` does not beat random {' and '.join(clauses)}.")
    marks = _listed([f"{n:,}" for n in found.marks])
    text = "## What does not beat random\n\n"
    text += "\n".join(sentences) if sentences else "Every method beats random."
    if better:
        text += f"\n\nBetter than random in mAP and recall at {marks} labels: {', '.join(better)}."
    return text


def _narrowings(found: Comparison) -> str:
    rows = [
        [
            f"`{own.strategy}`",
            f"`{own.policy}`",
            f"{own.over_all:.4f}",
            f"{own.narrowed:.4f}",
            f"{own.narrowed - own.over_all:+.4f}",
            f"{own.tolerance:.4f}",
            "yes" if own.within else "**no**",
            f"{own.considered:.1%}",
            "required" if own.strategy in NEAR else "",
        ]
        for own in found.narrowings()
    ]
    if not rows:
        return ""
    headings = ["strategy", "candidates", "mAP over all", "mAP", "difference", "tolerance"]
    headings += ["within", "considered", "uncertainty, search, density"]
    return (
        f"## Neighbours against all candidates, {found.last:,} labels\n\n"
        "Tolerance: the larger of 0.01 and three standard deviations between the seeds, over all\n"
        "candidates.\n\n" + _table(headings, rows)
    )


def _search(found: Comparison) -> str:
    ens, *others = SEARCHERS
    rows = []
    for beyond in SEARCH_BUDGETS:
        for name in SEARCHERS:
            runs = found.search[name, beyond if name == ens else max(SEARCH_BUDGETS)]
            n = SEEDED + beyond
            (recall, recall_sd), (ap, _) = spread(runs, "recall", n), spread(runs, "ap", n)
            versus = ""
            if name != ens:
                versus = _interval(difference(found.search[ens, beyond], runs, "recall", n))
            row = [f"{beyond}", f"`{name}`", f"{recall:.3f} ± {recall_sd:.3f}", f"{ap:.3f}"]
            rows.append([*row, versus])
    verdicts = [
        difference(
            found.search[ens, beyond],
            found.search[others[0], max(SEARCH_BUDGETS)],
            "recall",
            SEEDED + beyond,
        ).verdict
        for beyond in SEARCH_BUDGETS
    ]
    budgets = _listed([f"{beyond}" for beyond in SEARCH_BUDGETS])
    return (
        "## Nonmyopic search\n\n"
        "`ens` with its budget known, its greedy form on the same nearest-neighbour model, and\n"
        f"the head's most likely positives: batches of {SEARCH_BATCH}, {budgets} labels after\n"
        "the seed set. In recall `ens` against its greedy form is "
        f"{_listed(verdicts)} at these budgets.\n\n"
        + _table(["labels", "method", "recall", "mAP", "`ens` less it, recall"], rows)
        + f"\n\n![Recall in small batches]({SEARCH_PICTURE})"
    )


def _cold(found: Comparison) -> str:
    points = found.cold[BASELINE][0].n
    headings = [f"{name}, {n:,}" for name in MEASURES.values() for n in points]
    rows = []
    for name, runs in found.cold.items():
        cells = [spread(runs, measure, n) for measure in MEASURES for n in points]
        rows.append([f"`{name}`", *(f"{mean:.3f}" for mean, _ in cells)])
    shares = {
        name: sum(share > 0 for share in by_pair(runs, "recall", points[0]).values())
        for name, runs in found.cold.items()
    }
    pairs = len(by_pair(found.cold[BASELINE], "recall", points[0]))
    hits = _listed([f"`{name}` {count}" for name, count in shares.items()])
    return (
        "## Without a seed set\n\n"
        f"The method chooses the first labels too. Campaigns of {pairs} with a positive among the\n"
        f"first {points[0]:,} labels (random: in any of its draws): {hits}.\n\n"
        + _table(["method", *headings], rows)
    )


def _times(found: Comparison) -> str:
    rows = []
    for name, runs in found.main.items():
        times = percentiles([s for run in runs for s in run.next_batch_s])
        rows.append([f"`{name}`", *(f"{times[key]:.0f}" for key in ("p50", "p95", "p99"))])
    return (
        "## Time of NextBatch in these campaigns, ms\n\n"
        "With the fit, while other campaigns run beside it.\n\n"
        + _table(["method", "p50", "p95", "p99"], rows)
    )


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _interval(found: Difference) -> str:
    text = _signed(found)
    mark = {"better": "**", "worse": "*"}.get(found.verdict, "")
    return f"{mark}{text}{mark}"


def _signed(found: Difference) -> str:
    if math.isnan(found.low):
        return f"{found.mean:+.3f}"
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
