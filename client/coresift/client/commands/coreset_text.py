"""Core-sets on the command line: what is written there, and what is shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from coresift.client.calls.coreset_messages import ClassBudgets
from coresift.client.calls.coreset_values import Coreset, CoresetPlan, Targets
from coresift.client.commands.shared import wrong

CLASSES_SHOWN = 12


def read_item_ids(file: Path) -> list[str]:
    """Item ids, one a line; blank lines are nothing."""
    try:
        return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise wrong(f"cannot read {file}: {error}") from error


def read_targets(file: Path | None) -> Targets | None:
    """Item ids of a text file, or vectors of a .npy file; None without a file."""
    if file is None:
        return None
    if file.suffix != ".npy":
        return Targets(read_item_ids(file))
    try:
        with file.open("rb") as opened:
            vectors = np.lib.format.read_array(opened, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise wrong(f"cannot read {file}: {error}") from error
    return Targets(vectors=vectors)


def parse_class_budgets(text: str) -> ClassBudgets:
    """``balanced``, ``proportional``, or ``CLASS=ITEMS,...`` with class numbers."""
    if text == "balanced":
        return "balanced"
    if text == "proportional":
        return "proportional"
    counts: dict[int, int] = {}
    for part in text.split(","):
        number, equals, count = (word.strip() for word in part.partition("="))
        if not (equals and number.isdecimal() and count.isdecimal()):
            raise wrong(
                "--class-budgets must be balanced, proportional or CLASS=ITEMS,... with class "
                f"numbers, got {text!r}"
            )
        if int(number) in counts:
            raise wrong(f"--class-budgets names class {number} twice")
        counts[int(number)] = int(count)
    return counts


def plan_line(plan: CoresetPlan) -> str:
    """What a job is going to take, before it has."""
    size = "as many as the method decides" if plan.budget is None else str(plan.budget)
    spent = f"about {plan.expected_time.total_seconds():.2g} s and {_bytes(plan.expected_bytes)}"
    of = f"{size} of {plan.pool_items} items by {plan.method.name}"
    return "; ".join([f"{of}: {spent} at the server", *plan.notes])


def result_facts(result: Coreset) -> dict[str, object]:
    """What a core-set is; what was not measured is left out."""
    plan, summary = result.plan, result.summary
    facts: dict[str, object] = {"core-set": f"{summary.count} of {plan.pool_items} items"}
    facts["method"] = plan.method
    if plan.sampler is not None:
        facts["sampler"] = plan.sampler
    if plan.notes:
        facts["notes"] = "; ".join(plan.notes)
    if summary.covering_radius is not None:
        facts["covering radius"] = f"{summary.covering_radius:.4f}"
    if summary.mean_max_similarity is not None:
        share = "all" if summary.measured_items == plan.pool_items else "a sample of"
        facts["mean max similarity"] = (
            f"{summary.mean_max_similarity:.4f} (over {share} {summary.measured_items} items)"
        )
    if summary.objective is not None:
        facts["objective"] = f"{summary.objective:.6g}"
    if summary.class_counts:
        facts["items by class"] = _counts(summary.class_counts)
    facts |= {name.replace("_", " "): f"{value:.6g}" for name, value in summary.details.items()}
    longest = sorted(summary.durations.items(), key=lambda pair: -pair[1])
    times = (f"{phase} {spent.total_seconds():.2f} s" for phase, spent in longest)
    return facts | {"time": ", ".join(times)}


def _bytes(count: float) -> str:
    """In the largest unit of which there is one."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _counts(counts: Mapping[int, int]) -> str:
    """The classes with most items first."""
    largest = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ", ".join(f"{number}: {count}" for number, count in largest[:CLASSES_SHOWN])
    rest = largest[CLASSES_SHOWN:]
    if not rest:
        return shown
    return f"{shown} and {len(rest)} more with {rest[-1][1]} to {rest[0][1]}"
