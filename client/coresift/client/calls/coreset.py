"""Core-sets: run a job and read its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from coresift.client.calls.coreset_messages import (
    ClassBudgets,
    class_budgets_message,
    coreset_of,
    plan_of,
    progress_of,
    targets_message,
)
from coresift.client.calls.coreset_values import (
    Coreset,
    CoresetMethod,
    CoresetPlan,
    CoresetProgress,
    Sampler,
    Targets,
)
from coresift.client.calls.named import struct
from coresift.client.calls.session import Session, id_of
from coresift.client.convert import Seconds, duration, new_request_id
from coresift.client.errors import CoresiftError
from coresift.client.flow import Flow, Rpc, call
from coresift.client.retry import Retry, affinity_key
from coresift.client.steps import Ask, Receive, Stream
from coresift.v1 import selection_pb2 as pb

SCORE = Rpc("ScoreCoreset", pb.ScoreCoresetRequest, pb.ScoreCoresetResponse)
CANCEL = Rpc("CancelCoreset", pb.CancelCoresetRequest, pb.CancelCoresetResponse)


def score_coreset(
    method: CoresetMethod | str,
    budget: int | None = None,
    *,
    pool: str | None = None,
    session: str | Session | None = None,
    sampler: Sampler | str | None = None,
    class_signal: str | None = None,
    predicted_classes: bool = False,
    class_budgets: ClassBudgets | None = None,
    start_item_ids: Sequence[str] = (),
    start_from_labels: bool = False,
    query: Targets | Iterable[str] | None = None,
    avoid: Targets | Iterable[str] | None = None,
    pacing_buckets: int = 0,
    seed: int = 0,
    grace_period: Seconds | None = None,
    on_progress: Callable[[CoresetProgress], None] | None = None,
    request_id: str | None = None,
) -> Flow[Coreset]:
    """Select a core-set of ``budget`` items from a pool, or from a session's pool.

    A lost connection is made again and finds the job where it was. The job is named by
    ``request_id``: given again within its time, the call attaches to it.

    Args:
        method: a name, or a `CoresetMethod` with parameters. By geometry: "k_center",
            "facility_location", "query", "herding", "k_means_medoids", "semdedup", "moderate". By
            a score of each item: "max_entropy", "margin", "least_confidence", "forgetting",
            "el2n", "grand", "aum". And "random". What each does, needs and takes stands in
            coreset/METHODS.md of the server.
        budget: items to select; None where the method's parameters decide ("semdedup" with a
            threshold).
        session: its head is the proxy model of methods that need one.
        sampler: of methods by a score: how items are taken; None: "top", the hardest first.
        class_signal: name of a "class" signal: the classes of the pool's items.
        predicted_classes: take the classes that the session's head predicts instead.
        class_budgets: "balanced", "proportional", or class number to number of items (together
            the budget); needs classes. The method runs on each class by itself.
        start_item_ids: "k_center": covered already, not counted in the budget; at most 100,000.
        start_from_labels: "k_center": the session's labelled items are covered already too.
        query: "query": items (ids, or `Targets` with vectors) to select more like.
        avoid: "query": items to select less like.
        pacing_buckets: 2..10,000: number equal parts of the order, for curricula; 0: none.
        seed: of random choices.
        grace_period: how long the job goes on without us, seconds or a timedelta; None: 60 s.
        on_progress: called at least once a second, in the caller's thread or event loop.

    Raises:
        InvalidInput: UNKNOWN_METHOD, INVALID_FIELD, INVALID_SIGNAL, INVALID_VECTOR.
        NotFound: POOL_NOT_FOUND, SESSION_NOT_FOUND, ITEM_NOT_FOUND, SIGNAL_NOT_FOUND.
        PreconditionFailed: HEAD_NOT_FITTED, JOB_CANCELLED. ResourceExhausted: TOO_LARGE.
        ValueError: ``pool`` and ``session``, or ``class_signal`` and ``predicted_classes``,
            contradict each other.
    """
    if (pool is None) == (session is None):
        raise ValueError("give exactly one of pool, session")
    if class_signal is not None and predicted_classes:
        raise ValueError("give at most one of class_signal, predicted_classes")
    method = CoresetMethod(method) if isinstance(method, str) else method
    if isinstance(start_item_ids, str):
        raise TypeError(f"start_item_ids must be several ids, got one: {start_item_ids!r}")
    request = pb.ScoreCoresetRequest(
        request_id=request_id or new_request_id(),
        method=method.name,
        params=struct(method.params),
        budget=budget,
        seed=seed,
        start_item_ids=start_item_ids,
        start_from_labels=start_from_labels,
        pacing_buckets=pacing_buckets,
        grace_period=duration(grace_period),
        class_budgets=None if class_budgets is None else class_budgets_message(class_budgets),
        query=None if query is None else targets_message(query),
        avoid=None if avoid is None else targets_message(avoid),
    )
    if pool is not None:
        request.pool = pool
    if session is not None:
        request.session_id = id_of(session)
    if class_signal is not None:
        request.class_signal = class_signal
    if predicted_classes:
        request.predicted_classes = True
    if sampler is not None:
        sampler = Sampler(sampler) if isinstance(sampler, str) else sampler
        request.sampler = sampler.name
        request.sampler_params.CopyFrom(struct(sampler.params))
    return (yield from _attach(request, on_progress))


def cancel_coreset(job_id: str, *, request_id: str | None = None) -> Flow[bool]:
    """Stop a job; False: it had ended already. NotFound: JOB_NOT_FOUND."""
    request = pb.CancelCoresetRequest(request_id=request_id or new_request_id(), job_id=job_id)
    return (yield from call(CANCEL, request)).cancelled


def _attach(
    request: pb.ScoreCoresetRequest, on_progress: Callable[[CoresetProgress], None] | None
) -> Flow[Coreset]:
    """Read a job's stream to its end, from the beginning again after a lost connection."""
    key = affinity_key(request, request.session_id)
    retry = Retry((yield Ask()), timed=False, key=key)
    farthest: dict[str, float] = {}
    while True:
        parts = _Parts(on_progress, farthest)
        opened: Stream | None = None
        try:
            opened = yield retry.open(SCORE.name, request, request.session_id)
            while (message := (yield Receive(opened))) is not None:
                if parts.gets_further(message):
                    retry.reset()
                parts.take(message)
        except CoresiftError as error:
            yield retry.pause(error)
        else:
            return parts.coreset()
        finally:
            if opened is not None:
                opened.cancel()


class _Parts:
    """The messages of a job's stream, put together."""

    def __init__(
        self,
        on_progress: Callable[[CoresetProgress], None] | None,
        farthest: dict[str, float],
    ) -> None:
        """``farthest``: the largest share of each phase that any stream of the job has shown."""
        self._on_progress, self._farthest = on_progress, farthest
        self._plan: CoresetPlan | None = None
        self._chunks: list[pb.CoresetChunk] = []
        self._summary: pb.CoresetSummary | None = None

    def gets_further(self, message: pb.ScoreCoresetResponse) -> bool:
        """Whether the job is farther than ever: a job that only begins again and again, and
        takes its replica with it, is not tried for ever."""
        match message.WhichOneof("part"):
            case "chunk" | "summary":
                return True
            case "progress" if message.progress.phase != "queued":
                phase, share = message.progress.phase, message.progress.share
                is_new = share > self._farthest.get(phase, -1.0)
                self._farthest[phase] = max(share, self._farthest.get(phase, -1.0))
                return is_new
        return False

    def take(self, message: pb.ScoreCoresetResponse) -> None:
        match message.WhichOneof("part"):
            case "plan":
                self._plan = plan_of(message.plan)
            case "progress" if self._on_progress and self._plan:
                self._on_progress(progress_of(message.progress, self._plan))
            case "chunk":
                self._chunks.append(message.chunk)
            case "summary":
                self._summary = message.summary

    def coreset(self) -> Coreset:
        if self._summary is None or self._plan is None:
            raise RuntimeError("the server ended ScoreCoreset without a summary")
        return coreset_of(self._plan, self._chunks, self._summary)
