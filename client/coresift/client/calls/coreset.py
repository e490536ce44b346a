"""Core-sets: run a job and read its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from coresift.client.calls.basis import Basis, basis
from coresift.client.calls.session import Session, id_of
from coresift.client.convert import (
    Float64,
    Seconds,
    StringColumn,
    array,
    duration,
    new_request_id,
)
from coresift.client.errors import CoresiftError
from coresift.client.flow import Ask, Flow, Open, Receive, Retry, Rpc, Stream, call, metadata
from coresift.v1 import selection_pb2 as pb

SCORE = Rpc("ScoreCoreset", pb.ScoreCoresetRequest, pb.ScoreCoresetResponse)
CANCEL = Rpc("CancelCoreset", pb.CancelCoresetRequest, pb.CancelCoresetResponse)


@dataclass(frozen=True)
class CoresetPlan:
    """What a job is going to do, with estimates for the server's machine."""

    job_id: str
    basis: Basis
    method: str
    pool_items: int
    budget: int
    expected_time: timedelta
    expected_bytes: int


@dataclass(frozen=True)
class CoresetProgress:
    """Where a job is: its phase ("queued", "select", "store") and the share done, 0..1."""

    phase: str
    share: float
    plan: CoresetPlan


@dataclass(frozen=True)
class CoresetSummary:
    """What a finished job says about its result."""

    count: int
    covering_radius: float | None
    """Largest distance of an item to its nearest centre; None: not defined for the method."""
    durations: Mapping[str, timedelta]
    """Phase to time spent."""
    uri: str
    """The result as a Parquet file at the server."""
    content_hash: str


@dataclass(frozen=True)
class Coreset:
    """A selected subset, in order of selection."""

    item_ids: StringColumn
    """A lazy sequence of strings; ``list(coreset.item_ids)`` decodes all."""
    ranks: npt.NDArray[np.uint32]
    """uint32 [n], from 0."""
    scores: Float64
    """float64 [n]; what they are is the method's affair."""
    weights: Float64 | None
    """float64 [n]; None: the method gives none."""
    plan: CoresetPlan
    summary: CoresetSummary

    def __len__(self) -> int:
        return len(self.item_ids)


def score_coreset(
    method: str,
    budget: int,
    *,
    pool: str | None = None,
    session: str | Session | None = None,
    seed: int = 0,
    start_item_ids: Sequence[str] = (),
    grace_period: Seconds | None = None,
    on_progress: Callable[[CoresetProgress], None] | None = None,
    request_id: str | None = None,
) -> Flow[Coreset]:
    """Select a core-set of ``budget`` items from a pool, or from a session's pool.

    A lost connection is made again and finds the job where it was. The job is named by
    ``request_id``: given again within its time, the call attaches to it.

    Args:
        method: "random", "k_center", or "max_entropy" (which needs ``session``: its head is
            the proxy model).
        start_item_ids: k_center: covered already, not counted in the budget.
        grace_period: how long the job goes on without us, seconds or a timedelta; None: 60 s.
        on_progress: called at least once a second, in the caller's thread or event loop.

    Raises:
        InvalidInput: UNKNOWN_METHOD, INVALID_FIELD. NotFound: POOL_NOT_FOUND,
            SESSION_NOT_FOUND, ITEM_NOT_FOUND. PreconditionFailed: HEAD_NOT_FITTED,
            JOB_CANCELLED. ResourceExhausted: TOO_LARGE.
    """
    if (pool is None) == (session is None):
        raise ValueError("give exactly one of pool, session")
    request = pb.ScoreCoresetRequest(
        request_id=request_id or new_request_id(),
        method=method,
        budget=budget,
        seed=seed,
        start_item_ids=start_item_ids,
        grace_period=duration(grace_period),
    )
    if pool is not None:
        request.pool = pool
    if session is not None:
        request.session_id = id_of(session)
    retry = Retry((yield Ask()), timed=False)
    while True:
        parts = _Parts(on_progress)
        opened: Stream | None = None
        try:
            opened = yield Open(SCORE.name, request, metadata(request.session_id))
            while (message := (yield Receive(opened))) is not None:
                retry.reset()
                parts.take(message)
        except CoresiftError as error:
            yield retry.pause(error)
        else:
            return parts.coreset()
        finally:
            if opened is not None:
                opened.cancel()


def cancel_coreset(job_id: str, *, request_id: str | None = None) -> Flow[bool]:
    """Stop a job; False: it had ended already. NotFound: JOB_NOT_FOUND."""
    request = pb.CancelCoresetRequest(request_id=request_id or new_request_id(), job_id=job_id)
    return (yield from call(CANCEL, request)).cancelled


class _Parts:
    """The messages of a job's stream, put together."""

    def __init__(self, on_progress: Callable[[CoresetProgress], None] | None) -> None:
        self._on_progress = on_progress
        self._plan: CoresetPlan | None = None
        self._chunks: list[pb.CoresetChunk] = []
        self._summary: pb.CoresetSummary | None = None

    def take(self, message: pb.ScoreCoresetResponse) -> None:
        match message.WhichOneof("part"):
            case "plan":
                self._plan = _plan(message.plan)
            case "progress" if self._on_progress and self._plan:
                progress = message.progress
                self._on_progress(CoresetProgress(progress.phase, progress.share, self._plan))
            case "chunk":
                self._chunks.append(message.chunk)
            case "summary":
                self._summary = message.summary

    def coreset(self) -> Coreset:
        summary, plan = self._summary, self._plan
        if summary is None or plan is None:
            raise RuntimeError("the server ended ScoreCoreset without a summary")
        weights = [chunk.weights for chunk in self._chunks]
        ranks = _column([chunk.ranks for chunk in self._chunks], "u4")
        return Coreset(
            item_ids=StringColumn.joined(chunk.item_ids for chunk in self._chunks),
            ranks=ranks,
            scores=_column([chunk.scores for chunk in self._chunks], "f8"),
            weights=_column(weights, "f8") if any(weights) else None,
            plan=plan,
            summary=CoresetSummary(
                count=summary.count,
                covering_radius=(
                    summary.covering_radius if summary.HasField("covering_radius") else None
                ),
                durations={k: v.ToTimedelta() for k, v in summary.durations.items()},
                uri=summary.uri,
                content_hash=summary.content_hash,
            ),
        )


def _column(pieces: list[bytes], dtype: str) -> npt.NDArray[Any]:
    return array(b"".join(pieces), dtype, -1)


def _plan(plan: pb.CoresetPlan) -> CoresetPlan:
    return CoresetPlan(
        job_id=plan.job_id,
        basis=basis(plan.basis),
        method=plan.method,
        pool_items=plan.pool_items,
        budget=plan.budget,
        expected_time=plan.expected_time.ToTimedelta(),
        expected_bytes=plan.expected_bytes,
    )
