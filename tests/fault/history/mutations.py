"""Defects to plant: each is one that the checker must find in a run.

A mutation changes the loaded product within one process (`served`). Each names what it replaces:
where that is gone from the product, planting fails instead of passing silently.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from coresift.server.errors import CoresiftError, Reason
from coresift.server.rpc import label_messages
from coresift.server.session.batches import Batches
from coresift.server.session.view.view import View
from coresift.server.state import scripts
from coresift.server.state.entries import Entry
from coresift.server.state.label_operations import LabelOperations
from coresift.server.state.scripts import Script
from coresift.server.state.values import (
    Labelled,
    LabelWrite,
    Outcome,
    Request,
)


def _in_script(name: str, old: str, new: str) -> Callable[[], None]:
    """Another text within a script, everywhere it stands."""

    def plant() -> None:
        script: Script = getattr(scripts, name)
        if old not in script.source:
            raise LookupError(f"{name} has no {old!r}")
        source = script.source.replace(old, new)
        sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        setattr(scripts, name, Script(source, sha))

    return plant


def _in_every_writer(old: str, new: str) -> Callable[[], None]:
    def plant() -> None:
        for name in ("CLAIM", "LABELS", "RENEW", "RELEASE"):
            _in_script(name, old, new)()

    return plant


def _acknowledge_what_is_not_known() -> None:
    """The service answers an AddLabels as done when Redis does not answer."""
    honest = LabelOperations.add_labels

    async def add_labels(
        self: LabelOperations,
        uid: str,
        request: Request,
        annotator: str,
        labels: Sequence[LabelWrite],
        config_version: int | None = None,
    ) -> Labelled:
        try:
            return await honest(self, uid, request, annotator, labels, config_version)
        except CoresiftError as error:
            if error.reason is not Reason.STATE_UNAVAILABLE:
                raise
            outcomes = tuple(Outcome.NEW for _ in labels)
            return Labelled(outcomes, 1, b"", config_version or 1, replayed=False)

    LabelOperations.add_labels = add_labels  # type: ignore[method-assign]


def _rank_by_old_labels() -> None:
    """NextBatch takes whatever ranking a replica has, however old its labels."""
    honest = Batches._claim

    async def claim(self: Batches, live: Any, ask: Any, *more: Any) -> Any:
        return replace(await honest(self, live, ask, *more), min_revision=0)

    Batches._claim = claim  # type: ignore[method-assign]


def _grant_the_second_best_first() -> None:
    """Batches have the right items in an order that the scores do not give."""
    honest = Batches._claim

    async def claim(self: Batches, live: Any, ask: Any, *more: Any) -> Any:
        claim = await honest(self, live, ask, *more)
        best, rest = claim.proposals[:2], claim.proposals[2:]
        return replace(claim, proposals=(*reversed(best), *rest))

    Batches._claim = claim  # type: ignore[method-assign]


def _trust_every_token() -> None:
    """Lease tokens of others are taken for good."""
    if not hasattr(label_messages, "is_lease_token"):
        raise LookupError("label_messages has no is_lease_token")
    label_messages.is_lease_token = lambda *_: True


def _forget_skips() -> None:
    """Neither the script nor the views know what was skipped."""
    _in_script("CLAIM", "local skipped = hidden and", "local skipped = false and")()
    honest = View.apply

    def apply(self: View, entries: Iterable[Entry]) -> None:
        honest(self, entries)
        self.skips.clear()

    View.apply = apply  # type: ignore[method-assign]


MUTATIONS: dict[str, Callable[[], None]] = {
    "claim ignores votes": _in_script(
        "CLAIM", "if votes then\n    if quota", "if false then\n    if quota"
    ),
    "claim ignores leases": _in_script(
        "CLAIM",
        "local function filled(row, votes, held, quota)\n",
        "local function filled(row, votes, held, quota)\n  held = 0\n",
    ),
    "claim ignores the budget": _in_script("CLAIM", "if s.budget >= 0 then", "if false then"),
    "skips are forgotten": _forget_skips,
    "labels forget their answer": _in_script(
        "LABELS", "return {'done', keep_answer(", "return {'done', cmsgpack.pack("
    ),
    "bodies are not compared": _in_every_writer(
        "kept.o ~= operation or kept.d ~= digest", "kept.o ~= operation"
    ),
    "leases end early": _in_every_writer("'-inf', s.now, 'LIMIT'", "'-inf', s.now + 400, 'LIMIT'"),
    "leases never end": _in_every_writer("if #due > 0 then", "if false then"),
    "labels without votes": _in_script(
        "LABELS",
        "in_batches('HSET', KEYS[VOTES], kept)",
        "if s.pos % 7 > 0 then\nin_batches('HSET', KEYS[VOTES], kept)\nend",
    ),
    "labels not written": _in_script(
        "LABELS",
        "append(s, {t = 'L',",
        "local function write(s, entry)\n"
        "  if #rows > 1 or s.pos < 4 then\n    append(s, entry)\n  end\nend\n"
        "write(s, {t = 'L',",
    ),
    "unknown is acknowledged": _acknowledge_what_is_not_known,
    "old labels rank": _rank_by_old_labels,
    "second best first": _grant_the_second_best_first,
    "tokens are not checked": _trust_every_token,
}
"""Name to what plants it."""
