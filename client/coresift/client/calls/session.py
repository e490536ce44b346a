"""Sessions: create, read, list, update, delete, progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from google.protobuf.field_mask_pb2 import FieldMask

from coresift.client.calls.basis import Basis, basis
from coresift.client.convert import Seconds, duration, moment, new_request_id
from coresift.client.enums import ClassWeight, StopAdvice, Task, member, number
from coresift.client.flow import Flow, Iteration, Rpc, call, pages
from coresift.v1 import selection_pb2 as pb

CREATE = Rpc("CreateSession", pb.CreateSessionRequest, pb.CreateSessionResponse)
GET = Rpc("GetSession", pb.GetSessionRequest, pb.GetSessionResponse)
LIST = Rpc("ListSessions", pb.ListSessionsRequest, pb.ListSessionsResponse)
UPDATE = Rpc("UpdateSession", pb.UpdateSessionRequest, pb.UpdateSessionResponse)
DELETE = Rpc("DeleteSession", pb.DeleteSessionRequest, pb.DeleteSessionResponse)
PROGRESS = Rpc("GetSessionProgress", pb.GetSessionProgressRequest, pb.GetSessionProgressResponse)


class Keep(Enum):
    """Stands for "leave it as it is" where None has a meaning of its own."""

    KEEP = "keep"


KEEP = Keep.KEEP


@dataclass(frozen=True)
class All:
    """Candidates: every item that may be labelled."""


@dataclass(frozen=True)
class Seals:
    """Candidates: the k nearest neighbours of every item that ever had a label (SEALS, Coleman
    et al., 2022)."""

    k: int = 100


Candidates = All | Seals


@dataclass(frozen=True)
class HeadConfig:
    """L2-regularised logistic regression: minimises 0.5 |w|^2 + c * sum of log-losses."""

    c: float = 100.0
    class_weight: ClassWeight = ClassWeight.NONE


@dataclass(frozen=True)
class Session:
    """A session as it was when it was read."""

    session_id: str
    pool: str
    pool_version: str
    task: Task
    classes: tuple[str, ...]
    """Binary: the negative one first."""
    strategy: str
    candidates: Candidates
    head: HeadConfig
    seed: int
    votes_per_item: int
    label_budget: int | None
    lease_duration: timedelta
    create_time: datetime
    basis: Basis


@dataclass(frozen=True)
class ClassCount:
    """Votes for a class, and (multilabel) votes that it is absent."""

    class_name: str
    positive: int
    negative: int


@dataclass(frozen=True)
class Progress:
    """How far a session is."""

    basis: Basis
    pool_items: int
    labelled_items: int
    votes: int
    unsure_votes: int
    live_leases: int
    candidates: int
    """Items that a strategy may choose from now."""
    considered_share: float
    """Share of the pool, 0..1, that is labelled or a candidate."""
    classes: tuple[ClassCount, ...]
    unfitted_classes: tuple[str, ...]
    hidden_items: int
    stop_advice: StopAdvice


def create_session(
    pool: str,
    task: Task | str = Task.BINARY,
    classes: Sequence[str] = (),
    *,
    strategy: str = "max_entropy",
    candidates: Candidates | None = None,
    head: HeadConfig | None = None,
    seed: int = 0,
    votes_per_item: int = 1,
    label_budget: int | None = None,
    lease_duration: Seconds | None = None,
    pool_version: str = "",
    session_id: str = "",
    request_id: str | None = None,
) -> Flow[Session]:
    """Start a labeling effort on a pool.

    Args:
        pool: name of a served pool.
        task: "binary", "multiclass" or "multilabel".
        classes: names. Binary: none ("negative", "positive") or two, the negative one first.
        strategy: "max_entropy", "margin", "least_confidence", "most_likely_positive", "random".
        candidates: `Seals` (100 neighbours by default) or `All`.
        head: the model's configuration; None: `HeadConfig()`.
        seed: fixes every random choice.
        votes_per_item: how many annotators label an item.
        label_budget: stop when labels and live leases reach it; None: no limit.
        lease_duration: seconds or a timedelta; None: 15 minutes.
        pool_version: None given: the newest that is served.
        session_id: empty: the server makes one.

    Raises:
        NotFound: POOL_NOT_FOUND. AlreadyExists: SESSION_EXISTS. InvalidInput: anything else.
    """
    config = pb.SessionConfig(
        pool=pool,
        pool_version=pool_version,
        task=number(pb.Task, Task, task),
        classes=classes,
        strategy=pb.Strategy(name=strategy),
        candidates=None if candidates is None else _policy(candidates),
        head=None if head is None else _head(head),
        seed=seed,
        votes_per_item=votes_per_item,
        label_budget=label_budget,
        lease_duration=duration(lease_duration),
    )
    request = pb.CreateSessionRequest(
        request_id=request_id or new_request_id(), session_id=session_id, config=config
    )
    return _session((yield from call(CREATE, request, session_id)).session)


def get_session(session: str | Session) -> Flow[Session]:
    """Read a session's configuration. NotFound: SESSION_NOT_FOUND."""
    request = pb.GetSessionRequest(session_id=id_of(session))
    return _session((yield from call(GET, request, request.session_id)).session)


def list_sessions(page_size: int = 0) -> Iteration[Session]:
    """All sessions by id; reads page by page of ``page_size`` (0: 50)."""

    def page(token: str) -> Flow[tuple[list[Session], str]]:
        request = pb.ListSessionsRequest(page_size=page_size, page_token=token)
        reply = yield from call(LIST, request)
        return [_session(session) for session in reply.sessions], reply.next_page_token

    yield from pages(page)


def update_session(
    session: str | Session,
    *,
    strategy: str | None = None,
    candidates: Candidates | None = None,
    head: HeadConfig | None = None,
    votes_per_item: int | None = None,
    label_budget: int | Keep | None = KEEP,
    lease_duration: Seconds | None = None,
    pool_version: str | None = None,
    expected_config_version: int | None = None,
    request_id: str | None = None,
) -> Flow[Session]:
    """Change what is given; the rest stays (a ``label_budget`` of None: no limit any more).

    Raises:
        Conflict: CONFIG_VERSION_MISMATCH, unless ``expected_config_version`` is the current one.
    """
    paths = {
        "strategy": strategy is not None,
        "candidates": candidates is not None,
        "head": head is not None,
        "votes_per_item": votes_per_item is not None,
        "label_budget": label_budget is not KEEP,
        "lease_duration": lease_duration is not None,
        "pool_version": pool_version is not None,
    }
    config = pb.SessionConfig(
        strategy=None if strategy is None else pb.Strategy(name=strategy),
        candidates=None if candidates is None else _policy(candidates),
        head=None if head is None else _head(head),
        votes_per_item=votes_per_item or 0,
        label_budget=None if isinstance(label_budget, Keep) else label_budget,
        lease_duration=duration(lease_duration),
        pool_version=pool_version or "",
    )
    request = pb.UpdateSessionRequest(
        request_id=request_id or new_request_id(),
        session_id=id_of(session),
        update_mask=FieldMask(paths=[path for path, changed in paths.items() if changed]),
        config=config,
        expected_config_version=expected_config_version,
    )
    return _session((yield from call(UPDATE, request, request.session_id)).session)


def delete_session(session: str | Session, *, request_id: str | None = None) -> Flow[datetime]:
    """Hide a session; returns when its data is removed for good (24 hours later)."""
    request = pb.DeleteSessionRequest(
        request_id=request_id or new_request_id(), session_id=id_of(session)
    )
    return moment((yield from call(DELETE, request, request.session_id)).purge_time)


def progress(session: str | Session) -> Flow[Progress]:
    """Count labels, leases and candidates, and say how far the effort is."""
    request = pb.GetSessionProgressRequest(session_id=id_of(session))
    reply = yield from call(PROGRESS, request, request.session_id)
    return Progress(
        basis=basis(reply.basis),
        pool_items=reply.pool_items,
        labelled_items=reply.labelled_items,
        votes=reply.votes,
        unsure_votes=reply.unsure_votes,
        live_leases=reply.live_leases,
        candidates=reply.candidates,
        considered_share=reply.considered_share,
        classes=tuple(ClassCount(c.class_name, c.positive, c.negative) for c in reply.classes),
        unfitted_classes=tuple(reply.unfitted_classes),
        hidden_items=reply.hidden_items,
        stop_advice=member(pb.StopAdvice, StopAdvice, reply.stop_advice),
    )


def id_of(session: str | Session) -> str:
    """The id of a session."""
    return session if isinstance(session, str) else session.session_id


def _policy(candidates: Candidates) -> pb.CandidatePolicy:
    if isinstance(candidates, All):
        return pb.CandidatePolicy(all=pb.CandidatePolicy.All())
    if candidates.k == 0:  # the wire's 0 means 100
        raise ValueError("Seals.k must be 1..1000, got 0")
    return pb.CandidatePolicy(seals=pb.CandidatePolicy.Seals(k=candidates.k))


def _head(head: HeadConfig) -> pb.HeadConfig:
    if head.c == 0:  # the wire's 0 means 100
        raise ValueError("HeadConfig.c must be greater than 0, got 0")
    weight = number(pb.ClassWeight, ClassWeight, head.class_weight)
    return pb.HeadConfig(c=head.c, class_weight=weight)


def _session(message: pb.Session) -> Session:
    config = message.config
    seals = config.candidates.seals
    weight = config.head.class_weight or pb.CLASS_WEIGHT_NONE
    return Session(
        session_id=message.session_id,
        pool=config.pool,
        pool_version=config.pool_version,
        task=member(pb.Task, Task, config.task),
        classes=tuple(config.classes),
        strategy=config.strategy.name,
        candidates=All() if config.candidates.HasField("all") else Seals(seals.k or 100),
        head=HeadConfig(config.head.c or 100.0, member(pb.ClassWeight, ClassWeight, weight)),
        seed=config.seed,
        votes_per_item=config.votes_per_item or 1,
        label_budget=config.label_budget if config.HasField("label_budget") else None,
        lease_duration=config.lease_duration.ToTimedelta(),
        create_time=moment(message.create_time),
        basis=basis(message.basis),
    )
