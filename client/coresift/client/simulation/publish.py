"""What a comparison leaves behind: RESULTS.md, its pictures, curves.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from coresift.client.simulation import comparison_plots as plots
from coresift.client.simulation import report
from coresift.client.simulation.agreement import TOLERANCES, mean_curve
from coresift.client.simulation.comparison import Comparison
from coresift.client.simulation.page import (
    DIFFERENCES_PICTURE,
    MAP_PICTURE,
    RECALL_PICTURE,
    SEARCH_PICTURE,
    page,
)


def publish(found: Comparison, out: Path, command: str, against: dict[str, Any] | None) -> None:
    """Write all of it into a folder.

    Args:
        command: what makes it again.
        against: the comparison with reference curves, as `report.agreement` gives it.
    """
    plots.draw_curves(found, "ap", out / MAP_PICTURE)
    plots.draw_curves(found, "recall", out / RECALL_PICTURE)
    plots.draw_differences(found, out / DIFFERENCES_PICTURE)
    if found.search:
        plots.draw_search(found, out / SEARCH_PICTURE)
    result = curves(found)
    if against is not None:
        result["agreement"] = against
    report.write(out / "curves.json", json.dumps(result, separators=(",", ":")) + "\n")
    report.write(out / "RESULTS.md", page(found, command, against))


def curves(found: Comparison) -> dict[str, Any]:
    """The content of curves.json, with the means of the questions beside the main one; single
    campaigns at the marks only, for there are more than a thousand."""
    runs = [run for runs in found.main.values() for run in runs]
    result = report.curves(found.data, found.concepts, runs, found.full)
    for run in result["runs"]:
        places = [run["n"].index(n) for n in found.marks]
        run |= {name: [run[name][place] for place in places] for name in ("n", *TOLERANCES)}
    result["search"] = {
        f"{name}, {beyond} labels after the seed set": mean_curve([run.as_json() for run in runs])
        for (name, beyond), runs in found.search.items()
    }
    result["cold"] = {
        name: mean_curve([run.as_json() for run in runs]) for name, runs in found.cold.items()
    }
    return result
