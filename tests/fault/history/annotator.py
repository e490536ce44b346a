"""An annotator: random calls on a few sessions at a time, right ones mostly."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from tests.fault.history.desk import Desk, Session
from tests.fault.history.frontend import Frontend
from tests.fault.history.plant import ITEMS

from coresift.v1 import selection_pb2 as pb


@dataclass(slots=True)
class Hand:
    """What an annotator has on one frontend, of one session."""

    leases: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    """Item to its token, and when it ends."""
    stale: dict[str, bytes] = field(default_factory=dict)
    """Items with a token that should have ended."""
    labelled: list[str] = field(default_factory=list)


class Annotator:
    """Someone who labels on one frontend, among all sessions."""

    def __init__(self, name: str, frontend: Frontend, desk: Desk) -> None:
        self._name, self._frontend, self._desk = name, frontend, desk
        self._rng = random.Random(f"{frontend.history.seed}-{frontend.number}-{name}")
        self._hands: dict[str, Hand] = {}

    async def work(self) -> None:
        """Call until the run's attempts are spent."""
        actions, weights = zip(*_ACTIONS, strict=True)
        while not self._frontend.budget.is_spent:
            session = await self._desk.session(self._frontend, self._rng)
            if session is not None:
                hand = self._hands.setdefault(session.session_id, Hand())
                self._notice_ended(hand)
                [action] = self._rng.choices(actions, weights)
                await action(self, session, hand)

    async def _call(self, kind: str, session: Session, request: Any, intent: str = "") -> Any:
        return await self._frontend.call(kind, session.session_id, request, intent)

    def _write(self, session: Session) -> dict[str, Any]:
        """Fields of every write."""
        return {
            "request_id": self._frontend.new_id(),
            "session_id": session.session_id,
            "annotator": self._name,
        }

    def _notice_ended(self, hand: Hand) -> None:
        """By the clock of the frontend, right or wrong."""
        now = self._frontend.clock_ms()
        for item_id, (token, ends_ms) in list(hand.leases.items()):
            if ends_ms < now:
                del hand.leases[item_id]
                hand.stale[item_id] = token

    async def next_batch(self, session: Session, hand: Hand) -> None:
        request = pb.NextBatchRequest(**self._write(session), size=self._rng.randint(1, 4))
        intent = ""
        if self._rng.random() < 0.5:
            request.lease_duration.FromMilliseconds(self._rng.choice([1_000, 1_200, 2_500, 30_000]))
        if self._rng.random() < 0.15:
            request.min_revision = self._rng.randint(0, session.revision)
        elif self._rng.random() < 0.02:
            request.min_revision, intent = session.revision + 1_000_000, "ahead"
        if self._rng.random() < 0.12:
            request.purpose = pb.PURPOSE_REVIEW
        answer = await self._call("NextBatch", session, request, intent)
        if answer is not None:
            ends_ms = float(answer.lease_deadline.ToMilliseconds())
            for pick in answer.picks:
                hand.leases[pick.item_id] = (pick.lease_token, ends_ms)

    async def label(self, session: Session, hand: Hand) -> None:
        """Label what is held; rarely something else, or wrongly."""
        chosen = self._rng.sample(
            sorted(hand.leases), min(len(hand.leases), self._rng.randint(1, 3))
        )
        tokens = {item_id: hand.leases[item_id][0] for item_id in chosen}
        if not chosen and hand.stale:
            item_id = self._rng.choice(sorted(hand.stale))
            tokens = {item_id: hand.stale.pop(item_id)}
        if not tokens or self._rng.random() < 0.05:
            tokens[f"item-{self._rng.randrange(ITEMS)}"] = b""
        await self._add(session, hand, tokens)

    async def _add(self, session: Session, hand: Hand, tokens: dict[str, bytes]) -> None:
        labels = [self._label(session, item_id, token) for item_id, token in tokens.items()]
        intent = ""
        if self._rng.random() < 0.05:
            labels.append(labels[0])
        elif self._rng.random() < 0.03:
            labels[0].lease_token, intent = self._rng.randbytes(24), "foreign token"
        elif self._rng.random() < 0.02:
            labels[0].class_name, intent = "no such class", "unknown class"
        elif self._rng.random() < 0.02:
            other = pb.Label(item_id=labels[0].item_id, class_name=session.classes[0])
            labels[0].class_name, intent = session.classes[1], "conflict"
            labels.append(other)
        request = pb.AddLabelsRequest(**self._write(session), labels=labels)
        answer = await self._call("AddLabels", session, request, intent)
        if answer is not None:
            session.revision = max(session.revision, answer.basis.revision)
            for label in labels:
                hand.leases.pop(label.item_id, None)
                hand.labelled.append(label.item_id)

    def _label(self, session: Session, item_id: str, token: bytes) -> pb.Label:
        label = pb.Label(item_id=item_id, lease_token=token)
        if self._rng.random() < 0.06:
            label.unsure.SetInParent()
        else:
            label.class_name = self._rng.choice(session.classes)
        return label

    async def correct(self, session: Session, hand: Hand) -> None:
        """Label again, or take a label back."""
        if not hand.labelled:
            return await self.label(session, hand)
        item_id = self._rng.choice(hand.labelled)
        if self._rng.random() < 0.4:
            label = pb.Label(item_id=item_id)
            label.retraction.SetInParent()
            request = pb.AddLabelsRequest(**self._write(session), labels=[label])
            answer = await self._call("AddLabels", session, request)
            if answer is not None:
                session.revision = max(session.revision, answer.basis.revision)
            return None
        return await self._add(session, hand, {item_id: b""})

    async def renew(self, session: Session, hand: Hand) -> None:
        request = pb.RenewLeasesRequest(**self._write(session))
        if self._rng.random() < 0.7:
            named = sorted({*hand.leases, *hand.stale})
            request.item_ids.extend(self._rng.sample(named, min(len(named), 4)))
        request.lease_duration.FromMilliseconds(self._rng.choice([1_000, 1_500, 3_000]))
        answer = await self._call("RenewLeases", session, request)
        if answer is not None:
            ends_ms = float(answer.lease_deadline.ToMilliseconds())
            for item_id in answer.renewed:
                token = hand.leases.get(item_id, (hand.stale.get(item_id, b""), 0.0))[0]
                hand.leases[item_id] = (token, ends_ms)
            for item_id in answer.lost:
                hand.leases.pop(item_id, None)

    async def release(self, session: Session, hand: Hand) -> None:
        named = sorted({*hand.leases, *hand.stale}) or [f"item-{self._rng.randrange(ITEMS)}"]
        [reason] = self._rng.choices(
            [
                pb.RELEASE_REASON_RETURN,
                pb.RELEASE_REASON_SKIP,
                pb.RELEASE_REASON_CANNOT_LABEL,
            ],
            [6, 3, 1],
        )
        request = pb.ReleaseLeasesRequest(
            **self._write(session), item_ids=self._rng.sample(named, 1), reason=reason
        )
        answer = await self._call("ReleaseLeases", session, request)
        if answer is not None:
            for item_id in request.item_ids:
                hand.leases.pop(item_id, None)
                hand.stale.pop(item_id, None)

    async def list_leases(self, session: Session, hand: Hand) -> None:
        request = pb.ListLeasesRequest(session_id=session.session_id, page_size=1_000)
        if self._rng.random() < 0.7:
            request.annotator = self._name
        answer = await self._call("ListLeases", session, request)
        if answer is not None and request.annotator:  # a page that is loaded again
            for lease in answer.leases:
                ends_ms = float(lease.deadline.ToMilliseconds())
                hand.leases[lease.item_id] = (lease.lease_token, ends_ms)

    async def list_labels(self, session: Session, hand: Hand) -> None:
        request = pb.ListLabelsRequest(session_id=session.session_id)
        if self._rng.random() < 0.5:
            request.start_revision = self._rng.randint(0, session.revision)
            if self._rng.random() < 0.5:
                request.end_revision = self._rng.randint(request.start_revision, session.revision)
        await self._call("ListLabels", session, request)

    async def get_session(self, session: Session, hand: Hand) -> None:
        request = pb.GetSessionRequest(session_id=session.session_id)
        answer = await self._call("GetSession", session, request)
        if answer is not None:
            version = answer.session.basis.config_version
            session.config_version = max(session.config_version, version)

    async def progress(self, session: Session, hand: Hand) -> None:
        request = pb.GetSessionProgressRequest(session_id=session.session_id)
        await self._call("GetSessionProgress", session, request)

    async def update(self, session: Session, hand: Hand) -> None:
        """Change a setting; at times on a version that may have passed."""
        config, paths, intent = pb.SessionConfig(), [], ""
        if session.config.HasField("label_budget"):
            config.label_budget = self._rng.randint(30, 70)
            paths.append("label_budget")
        elif self._rng.random() < 0.5:
            config.head.c = self._rng.choice([1.0, 10.0, 100.0])
            paths.append("head")
        else:
            config.lease_duration.FromMilliseconds(self._rng.choice([1_000, 1_500, 2_000]))
            paths.append("lease_duration")
        request = pb.UpdateSessionRequest(
            request_id=self._frontend.new_id(), session_id=session.session_id, config=config
        )
        request.update_mask.paths.extend(paths)
        if self._rng.random() < 0.5:
            request.expected_config_version, intent = session.config_version, "stale"
        answer = await self._call("UpdateSession", session, request, intent)
        if answer is not None:
            version = answer.session.basis.config_version
            session.config_version = max(session.config_version, version)

    async def send_again(self, session: Session, hand: Hand) -> None:
        await self._frontend.send_again()

    async def reuse_an_id(self, session: Session, hand: Hand) -> None:
        await self._frontend.reuse_an_id()


_ACTIONS = [
    (Annotator.next_batch, 26),
    (Annotator.label, 30),
    (Annotator.correct, 5),
    (Annotator.renew, 7),
    (Annotator.release, 6),
    (Annotator.list_leases, 4),
    (Annotator.list_labels, 2),
    (Annotator.get_session, 5),
    (Annotator.progress, 1),
    (Annotator.update, 1),
    (Annotator.send_again, 8),
    (Annotator.reuse_an_id, 4),
]
"""What an annotator does, and how often."""
