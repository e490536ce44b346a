"""Recorded histories of many frontends on several servers, under faults, checked against a model.

Each run prints the command that makes its calls and faults again. Their timing against each other
is the machine's: a seed repeats what is done, not the moment.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from tests.fault.history.mutations import MUTATIONS
from tests.fault.history.nemesis import KINDS
from tests.fault.history.report import as_json, as_text
from tests.fault.history.run import Run, make_run

CALLS = 15_500
"""Of each fault; 200,000 in all."""
MUTANT_CALLS = 1_500
MUTANT_SEEDS = (2, 3, 4)
CATCHES = {
    "claim ignores votes": {"quota, by the log"},
    "claim ignores leases": {"quota, by the log"},
    "claim ignores the budget": {"budget"},
    "skips are forgotten": {"quota, by the log"},
    "labels forget their answer": {"no strangers in the log"},
    "bodies are not compared": {"other body refused"},
    "leases end early": {"deadlines"},
    "leases never end": {"deadlines"},
    "labels without votes": {"state follows the log"},
    "labels not written": {"labels kept"},
    "unknown is acknowledged": {"labels kept"},
    "old labels rank": {"revisions monotone"},
    "second best first": {"replay"},
    "tokens are not checked": {"refusals fit"},
}
"""Planted defect to laws that must find it, among others."""
FAULT_OF = {"unknown is acknowledged": "redis-kill"}
"""Defects that show only when something fails."""


def run_and_report(folder: Path, fault: str, *, seed: int, calls: int) -> Run:
    """A run, told on stdout, and as JSON where CORESIFT_HISTORY_OUT names a folder.

    What it wrote is kept only if a law was broken.
    """
    run = make_run(folder, fault, seed=seed, calls=calls)
    print(as_text(run))
    if not run.verdict.violations:
        shutil.rmtree(folder)
    if out := os.environ.get("CORESIFT_HISTORY_OUT"):
        Path(out).mkdir(parents=True, exist_ok=True)
        (Path(out) / f"history-{fault}.json").write_text(json.dumps(as_json(run), indent=1))
    return run


@pytest.mark.timeout(60)
def test_a_short_history_under_every_fault(tmp_path: Path) -> None:
    run = run_and_report(tmp_path, "everything", seed=1, calls=700)
    assert run.verdict.violations == []
    assert run.history.injected


@pytest.mark.fault
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", KINDS)
def test_a_history_under_a_fault_breaks_no_law(tmp_path: Path, fault: str) -> None:
    run = run_and_report(tmp_path, fault, seed=5, calls=CALLS)
    assert run.verdict.violations == []
    assert len(run.history.attempts) >= CALLS
    assert set(run.history.injected) == set(KINDS[fault].faults)


@pytest.mark.fault
@pytest.mark.timeout(120)
@pytest.mark.parametrize("fault", ["none", *sorted(set(FAULT_OF.values()))])
def test_what_catches_mutations_passes_without_one(tmp_path: Path, fault: str) -> None:
    run = make_run(tmp_path, fault, seed=2, calls=MUTANT_CALLS)
    assert run.verdict.violations == []


@pytest.mark.fault
@pytest.mark.timeout(120)
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_planted_defect_is_caught(tmp_path: Path, mutation: str) -> None:
    """In one of a few histories: what goes wrong is a matter of timing."""
    found: set[str] = set()
    for seed in MUTANT_SEEDS:
        run = make_run(
            tmp_path / str(seed),
            FAULT_OF.get(mutation, "none"),
            seed=seed,
            calls=MUTANT_CALLS,
            mutation=mutation,
            with_replay="replay" in CATCHES[mutation],
        )
        print(as_text(run))
        found |= {violation.law for violation in run.verdict.violations}
        if CATCHES[mutation] <= found:
            return
    raise AssertionError(f"{sorted(CATCHES[mutation] - found)} found nothing")
