"""Sessions: create, update."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.field_mask_pb2 import FieldMask

from coresift.client.calls import config_messages as messages
from coresift.client.calls.config import (
    KEEP,
    BatchPolicy,
    Candidates,
    Groups,
    HeadConfig,
    Keep,
    Mix,
    StopRule,
    Strategy,
)
from coresift.client.calls.head import PriorHead, prior_message
from coresift.client.calls.session import Session, id_of, session_of
from coresift.client.convert import Seconds, duration, new_request_id
from coresift.client.enums import Task, number
from coresift.client.flow import Flow, Rpc, call
from coresift.v1 import selection_pb2 as pb

CREATE = Rpc("CreateSession", pb.CreateSessionRequest, pb.CreateSessionResponse)
UPDATE = Rpc("UpdateSession", pb.UpdateSessionRequest, pb.UpdateSessionResponse)


def create_session(
    pool: str,
    task: Task | str = Task.BINARY,
    classes: Sequence[str] = (),
    *,
    strategy: Strategy | Mix | str = "max_entropy",
    candidates: Candidates | None = None,
    filter: str = "",
    batch: BatchPolicy | str = "top",
    groups: Groups | None = None,
    head: HeadConfig | None = None,
    prior_head: PriorHead | None = None,
    seed: int = 0,
    votes_per_item: int = 1,
    label_budget: int | None = None,
    lease_duration: Seconds | None = None,
    explore_fraction: float = 0.0,
    validation_size: int = 0,
    stop: StopRule | None = None,
    pseudonymous: bool = False,
    pool_version: str = "",
    session_id: str = "",
    request_id: str | None = None,
) -> Flow[Session]:
    """Start a labeling effort on a pool.

    Args:
        pool: name of a served pool.
        task: "binary", "multiclass" or "multilabel".
        classes: names. Binary: none ("negative", "positive") or two, the negative one first.
        strategy: a name, a `Strategy` with parameters, or a `Mix` of several.
        candidates: `Seals` (100 neighbours by default), `All`, `RandomSubset` or `Anchors`.
        filter: only items whose metadata fulfil it, e.g. ``split == "train" and camera == 3``.
        batch: how a batch is taken from the scores: a name or a `BatchPolicy`.
        groups: items that belong together; None: no groups.
        head: the model's configuration; None: `HeadConfig()`.
        prior_head: selects while the labels do not determine a head: a `Head`, or weights
            [classes, dimension] and bias [classes] (binary: one row).
        seed: fixes every random choice.
        votes_per_item: how many annotators label an item.
        label_budget: stop when labels and live leases reach it; None: no limit.
        lease_duration: seconds or a timedelta; None: 15 minutes.
        explore_fraction: share of each batch, 0..1, that is a random sample of the pool.
        validation_size: so many random items, 0..100,000, are labelled first, never train the
            head, and measure it.
        stop: when `progress` advises to stop, besides budget and exhaustion.
        pseudonymous: the log keeps pseudonyms instead of annotators' names, for ever; calls
            take names as ever.
        pool_version: None given: the newest that is served.
        session_id: empty: the server makes one.

    Raises:
        NotFound: POOL_NOT_FOUND, SIGNAL_NOT_FOUND. AlreadyExists: SESSION_EXISTS.
        PreconditionFailed: POOL_LACKS_NEIGHBOURS. InvalidInput: anything else.
    """
    config = pb.SessionConfig(
        pool=pool,
        pool_version=pool_version,
        task=number(pb.Task, Task, task),
        classes=classes,
        strategy=messages.strategy_message(strategy),
        candidates=messages.candidates_message(candidates, filter),
        batch=messages.batch_message(batch),
        groups=messages.given(messages.groups_message, groups),
        head=messages.given(messages.head_message, head),
        seed=seed,
        votes_per_item=votes_per_item,
        label_budget=label_budget,
        lease_duration=duration(lease_duration),
        explore_fraction=explore_fraction,
        validation_size=validation_size,
        stop=messages.given(messages.stop_message, stop),
        pseudonymous=pseudonymous,
    )
    prior = None if prior_head is None else prior_message(prior_head, tuple(classes))
    request = pb.CreateSessionRequest(
        request_id=request_id or new_request_id(),
        session_id=session_id,
        config=config,
        prior_head=prior,
    )
    return session_of((yield from call(CREATE, request, session_id)).session)


def update_session(
    session: str | Session,
    *,
    strategy: Strategy | Mix | str | None = None,
    candidates: Candidates | None = None,
    filter: str | None = None,
    batch: BatchPolicy | str | None = None,
    groups: Groups | Keep | None = KEEP,
    head: HeadConfig | None = None,
    votes_per_item: int | None = None,
    label_budget: int | Keep | None = KEEP,
    lease_duration: Seconds | None = None,
    explore_fraction: float | None = None,
    validation_size: int | None = None,
    stop: StopRule | Keep | None = KEEP,
    pool_version: str | None = None,
    expected_config_version: int | None = None,
    request_id: str | None = None,
) -> Flow[Session]:
    """Change what is given; the rest stays.

    ``label_budget``, ``groups`` and ``stop`` of None: no limit, no groups, no rule any more.
    ``candidates`` and ``filter`` change together and are given together, so that neither is
    lost: ``candidates=All(), filter=session.filter``.

    Raises:
        Conflict: CONFIG_VERSION_MISMATCH, unless ``expected_config_version`` is the current one.
        ValueError: only one of ``candidates`` and ``filter`` is given.
    """
    if (candidates is None) != (filter is None):
        raise ValueError(
            "candidates and filter change together: give both "
            "(for example candidates=All(), filter=session.filter)"
        )
    paths = {
        "strategy": strategy is not None,
        "candidates": candidates is not None,
        "batch": batch is not None,
        "groups": groups is not KEEP,
        "head": head is not None,
        "votes_per_item": votes_per_item is not None,
        "label_budget": label_budget is not KEEP,
        "lease_duration": lease_duration is not None,
        "explore_fraction": explore_fraction is not None,
        "validation_size": validation_size is not None,
        "stop": stop is not KEEP,
        "pool_version": pool_version is not None,
    }
    config = pb.SessionConfig(
        strategy=None if strategy is None else messages.strategy_message(strategy),
        candidates=messages.candidates_message(candidates, filter or ""),
        batch=None if batch is None else messages.batch_message(batch),
        groups=messages.given(messages.groups_message, groups),
        head=messages.given(messages.head_message, head),
        votes_per_item=votes_per_item or 0,
        label_budget=None if isinstance(label_budget, Keep) else label_budget,
        lease_duration=duration(lease_duration),
        explore_fraction=explore_fraction or 0.0,
        validation_size=validation_size or 0,
        stop=messages.given(messages.stop_message, stop),
        pool_version=pool_version or "",
    )
    request = pb.UpdateSessionRequest(
        request_id=request_id or new_request_id(),
        session_id=id_of(session),
        update_mask=FieldMask(paths=[path for path, changed in paths.items() if changed]),
        config=config,
        expected_config_version=expected_config_version,
    )
    return session_of((yield from call(UPDATE, request, request.session_id)).session)
