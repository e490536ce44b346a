"""What stands in Redis follows from the log, and the log from itself."""

from __future__ import annotations

from collections import Counter

from tests.fault.history.evidence import Evidence, Finding
from tests.fault.history.model import whole

from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.view.view import View
from coresift.server.state.entries import ConfigEntry
from coresift.server.state.values import Settings


def state_follows_the_log(evidence: Evidence, finding: Finding) -> None:
    """Votes, leases, counts and settings in Redis are those of the log, by the server's view."""
    remains, first = evidence.remains, evidence.log[0]
    assert isinstance(first, ConfigEntry)
    view = View(SessionConfig.from_settings(Settings(0, None, first.config)), 1)
    view.apply(evidence.log)
    leases = {f"{row}:{name}" for row, names in view.leases.items() for name in names}
    held = Counter(int(lease.split(":")[0]) for lease in remains.leases)
    skips = {f"{row}:{name}" for row, name in view.skips} | {str(row) for row in view.hidden}
    budget = view.config.label_budget
    meta = {
        "pos": view.offset,
        "rev": view.revision,
        "cv": view.config_version,
        "votes": view.vote_count,
        "quota": view.config.votes_per_item,
        "budget": -1 if budget is None else budget,
    }
    told = {name: int(remains.meta[name]) for name in meta}
    in_hands = all(
        int(lease.partition(":")[0]) in remains.hands.get(lease.partition(":")[2], ())
        for lease in remains.leases
    )
    finding.check(told == meta, f"meta {told}, by the log {meta}")
    finding.check(remains.meta["nonce"] == view.nonce, "the nonce is not the last entry's")
    finding.check(remains.votes == view.votes, "votes differ")
    finding.check(remains.leases.keys() == leases, "leases differ")
    finding.check(remains.held == held, "counts of leases differ")
    finding.check(remains.skips == skips, "skips differ")
    finding.check(remains.extra == view.extra, "raised quotas differ")
    finding.check(in_hands, "a lease is in nobody's hands")


def model_agrees_with_the_view(evidence: Evidence, finding: Finding) -> None:
    """The checker's own reading of the log ends in the same state."""
    model = whole(evidence.log)
    remains = evidence.remains
    leases = {f"{row}:{name}" for row, names in model.holders.items() for name in names}
    finding.check(model.votes == remains.votes, "votes differ from the model's")
    finding.check(leases == remains.leases.keys(), "leases differ from the model's")
    finding.check(model.extra == remains.extra, "raised quotas differ from the model's")


def replay_picks_the_same(evidence: Evidence, finding: Finding) -> None:
    """Every NextBatch of the log, repeated, picks the same items."""
    report = evidence.replayed
    if report is None:
        return
    finding.facts += report.batches
    for difference in report.differences:
        finding.check(
            False,
            f"replay picks {difference.replayed} where {difference.granted} were granted",
            entries=[evidence.log[difference.offset - 1]],
        )
