"""What a run did and what was checked, as a table and as JSON."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from tests.fault.history.record import Outcome
from tests.fault.history.run import Run

SHOWN = 12
"""Violations that are printed."""


def as_json(run: Run) -> dict[str, Any]:
    """Counts of a run."""
    history, verdict = run.history, run.verdict
    outcomes = Counter(attempt.outcome for attempt in history.attempts)
    reasons: dict[str, Counter[str]] = {"refused": Counter(), "unknown": Counter()}
    for attempt in history.attempts:
        if attempt.outcome is not Outcome.OK:
            reasons[attempt.outcome.value][attempt.reason] += 1
    return {
        "command": run.command,
        "fault": history.fault,
        "seed": history.seed,
        "seconds": round(history.seconds, 1),
        "check_seconds": round(run.check_s, 1),
        "calls": len(history.attempts),
        "sessions": len(history.sessions),
        "entries": sum(len(remains.entries) for remains in history.sessions.values()),
        "acknowledged": outcomes[Outcome.OK],
        "refused": dict(reasons["refused"].most_common()),
        "unknown": dict(reasons["unknown"].most_common()),
        "by_rpc": dict(Counter(attempt.kind for attempt in history.attempts).most_common()),
        "faults": dict(history.injected),
        "facts": dict(verdict.facts),
        "limits": {law: count for law, count in verdict.limits.items() if count},
        "violations": [str(violation) for violation in verdict.violations],
    }


def as_text(run: Run, width: int = 100) -> str:
    """The same for people."""
    console = Console(width=width, record=True, quiet=True)
    with console.capture() as captured:
        console.quiet = False
        console.print(_tables(run))
    return captured.get()


def _tables(run: Run) -> RenderableType:
    counts = as_json(run)
    table = Table(title=f"{counts['fault']}, seed {counts['seed']}", show_header=False)
    rate = counts["calls"] / max(counts["seconds"], 1e-9)
    table.add_row("calls", f"{counts['calls']} in {counts['seconds']} s ({rate:.0f}/s)")
    table.add_row("acknowledged", str(counts["acknowledged"]))
    for name in ("refused", "unknown", "by_rpc", "faults", "limits"):
        table.add_row(name, ", ".join(f"{key} {n}" for key, n in counts[name].items()))
    table.add_row("log entries", f"{counts['entries']} in {counts['sessions']} sessions")
    laws = Table("law", "facts", "violations", title=f"checked in {counts['check_seconds']} s")
    broken = Counter(violation.law for violation in run.verdict.violations)
    for law, facts in run.verdict.facts.items():
        laws.add_row(law, str(facts), str(broken[law]))
    shown = [str(violation) for violation in run.verdict.violations[:SHOWN]]
    return Group(table, laws, *shown, f"again (calls and faults; not their timing): {run.command}")
