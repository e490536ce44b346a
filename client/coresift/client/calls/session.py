"""Sessions: read, list, delete."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from coresift.client.calls import config_messages as messages
from coresift.client.calls.basis import Basis, basis
from coresift.client.calls.config import (
    BatchPolicy,
    Candidates,
    Groups,
    HeadConfig,
    Mix,
    StopRule,
    Strategy,
)
from coresift.client.convert import moment, new_request_id
from coresift.client.enums import Task, member
from coresift.client.flow import Flow, Iteration, Rpc, call, pages
from coresift.v1 import selection_pb2 as pb

GET = Rpc("GetSession", pb.GetSessionRequest, pb.GetSessionResponse)
LIST = Rpc("ListSessions", pb.ListSessionsRequest, pb.ListSessionsResponse)
DELETE = Rpc("DeleteSession", pb.DeleteSessionRequest, pb.DeleteSessionResponse)


@dataclass(frozen=True)
class Session:
    """A session as it was when it was read."""

    session_id: str
    pool: str
    pool_version: str
    task: Task
    classes: tuple[str, ...]
    """Binary: the negative one first."""
    strategy: Strategy | Mix
    candidates: Candidates
    filter: str
    """Only items whose metadata fulfil it are offered; empty: all."""
    batch: BatchPolicy
    groups: Groups | None
    head: HeadConfig
    seed: int
    votes_per_item: int
    label_budget: int | None
    lease_duration: timedelta
    explore_fraction: float
    validation_size: int
    stop: StopRule | None
    pseudonymous: bool
    """The log keeps pseudonyms instead of annotators' names."""
    prior_head: str
    """Content hash of the head that the session started from; empty: none."""
    create_time: datetime
    basis: Basis


def get_session(session: str | Session) -> Flow[Session]:
    """Read a session's configuration. NotFound: SESSION_NOT_FOUND."""
    request = pb.GetSessionRequest(session_id=id_of(session))
    return session_of((yield from call(GET, request, request.session_id)).session)


def list_sessions(page_size: int = 0) -> Iteration[Session]:
    """All sessions by id; reads page by page of ``page_size`` (0: 50)."""

    def page(token: str) -> Flow[tuple[list[Session], str]]:
        request = pb.ListSessionsRequest(page_size=page_size, page_token=token)
        reply = yield from call(LIST, request)
        return [session_of(session) for session in reply.sessions], reply.next_page_token

    yield from pages(page)


def delete_session(session: str | Session, *, request_id: str | None = None) -> Flow[datetime]:
    """Hide a session; returns when its data is removed for good (24 hours later)."""
    request = pb.DeleteSessionRequest(
        request_id=request_id or new_request_id(), session_id=id_of(session)
    )
    return moment((yield from call(DELETE, request, request.session_id)).purge_time)


def id_of(session: str | Session) -> str:
    """The id of a session."""
    return session if isinstance(session, str) else session.session_id


def session_of(message: pb.Session) -> Session:
    """Decode a session."""
    config = message.config
    return Session(
        session_id=message.session_id,
        pool=config.pool,
        pool_version=config.pool_version,
        task=member(pb.Task, Task, config.task),
        classes=tuple(config.classes),
        strategy=messages.strategy_of(config.strategy),
        candidates=messages.candidates_of(config.candidates),
        filter=config.candidates.filter,
        batch=messages.batch_of(config.batch),
        groups=messages.groups_of(config.groups),
        head=messages.head_of(config.head),
        seed=config.seed,
        votes_per_item=config.votes_per_item or 1,
        label_budget=config.label_budget if config.HasField("label_budget") else None,
        lease_duration=config.lease_duration.ToTimedelta(),
        explore_fraction=config.explore_fraction,
        validation_size=config.validation_size,
        stop=messages.stop_of(config.stop),
        pseudonymous=config.pseudonymous,
        prior_head=message.prior_head,
        create_time=moment(message.create_time),
        basis=basis(message.basis),
    )
