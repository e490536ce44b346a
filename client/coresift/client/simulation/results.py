"""Campaigns that are done, a line each: a simulation that was stopped goes on from there."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from coresift.client.simulation.campaign import Plan, Run
from coresift.client.simulation.dataset import Dataset

LISTS = ("n", "ap", "recall", "considered", "next_batch_s", "add_labels_s")
DIGITS = 6


class ResultsError(Exception):
    """The file holds something else; the message says what to do."""


class Results:
    """The file ``runs.jsonl`` of a simulation: what it was run on, then a line a campaign.

    Threads may share it. A campaign is known by all that its plan says; what the service was is
    not in the file: after a change of the server begin anew.
    """

    def __init__(self, path: Path, data: Dataset, *, resume: bool) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[str, dict[str, Any]] = {}
        head = {
            "dataset": data.name,
            "use": data.use,
            "pool": len(data.labels),
            "test": len(data.test_labels),
        }
        if resume and path.exists():
            self._read(head)
        else:
            path.write_text(_line(head))

    def run(self, plan: Plan) -> Run | None:
        """The run of a plan, if it is done."""
        found = self._known.get(_key(plan))
        return None if found is None else Run(plan, *(found[name] for name in LISTS))

    def add(self, run: Run) -> None:
        """Keep a run."""
        values = {name: [round(v, DIGITS) for v in getattr(run, name)] for name in LISTS}
        self._add({"key": _key(run.plan), **values})

    def full(self, concept: str) -> float | None:
        """Average precision of full supervision, if it is known."""
        found = self._known.get(f"full {concept}")
        return None if found is None else float(found["ap"])

    def add_full(self, concept: str, ap: float) -> None:
        """Keep the average precision of full supervision."""
        self._add({"key": f"full {concept}", "ap": ap})

    def _add(self, entry: dict[str, Any]) -> None:
        with self._lock, self._path.open("a") as file:
            file.write(_line(entry))
            self._known[entry["key"]] = entry

    def _read(self, head: dict[str, Any]) -> None:
        whole = self._path.read_text()
        kept = whole[: whole.rfind("\n") + 1]  # a stop may have cut the last line
        if kept != whole:
            self._path.write_text(kept)
        try:
            first, *entries = map(json.loads, kept.splitlines())
            self._known = {entry["key"]: entry for entry in entries}
        except (ValueError, KeyError, TypeError) as error:
            raise ResultsError(f"{self._path} cannot be read: {error!r}; remove it") from error
        if first != head:
            raise ResultsError(
                f"{self._path} holds runs of {first}, not of {head}: name another --out"
            )


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, separators=(",", ":")) + "\n"


def _key(plan: Plan) -> str:
    words = (plan.concept.name, plan.method.name, plan.seed, plan.draw, plan.budget, plan.batch)
    return json.dumps([*words, plan.cold])
