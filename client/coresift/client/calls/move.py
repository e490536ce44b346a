"""Move a session to another pool: new embeddings of the same items."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

from coresift.client.calls.configure import CREATE
from coresift.client.calls.labels import ADD, LIST, MOST_LABELS
from coresift.client.calls.pools import get_items
from coresift.client.calls.session import GET, Session, get_session, id_of
from coresift.client.errors import ItemsMissing
from coresift.client.flow import Flow, call, gather, mapped, stream
from coresift.v1 import selection_pb2 as pb


def move_session(
    session: str | Session,
    pool: str,
    *,
    session_id: str = "",
    pool_version: str = "",
    skip_missing: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Flow[Session]:
    """Make a session on another pool with the configuration and the labels of this one.

    The labels are copied in the order of the log, with corrections, retractions and unsure ones,
    each in its annotator's name. Leases, skips, items that cannot be labelled, the prior head and
    the times of the labels stay behind. The session itself is not changed.

    Called again with the same arguments within 24 hours, after a failure, it goes on where it
    stopped: its writes have request_ids made of what they write. Labels that came to the session
    meanwhile are copied then too.

    Args:
        session: what to move.
        pool: name of a served pool that has the labelled items.
        session_id: of the new session; empty: the server makes one.
        pool_version: None given: the newest that is served.
        skip_missing: leave out the labels of items that the pool lacks.
        on_progress: called with the labels copied so far and all of them.

    Raises:
        ItemsMissing: the pool lacks labelled items; nothing was copied.
        AlreadyExists: SESSION_EXISTS: ``session_id`` is taken by something else. NotFound,
            InvalidInput: the configuration does not fit the pool (its columns, its signals).
    """
    request = pb.GetSessionRequest(session_id=id_of(session))
    source = (yield from call(GET, request, request.session_id)).session
    listing = stream(LIST, pb.ListLabelsRequest(session_id=source.session_id), source.session_id)
    records = yield from gather(mapped(listing, lambda message: message.labels))
    item_ids = list(dict.fromkeys(record.label.item_id for record in records))
    missing = (yield from get_items(pool, item_ids, pool_version=pool_version)).missing
    if missing and not skip_missing:
        raise ItemsMissing(pool, missing, len(item_ids))
    left_out = frozenset(missing)
    records = [record for record in records if record.label.item_id not in left_out]
    origin = f"{source.session_id} {source.create_time.ToNanoseconds()}"
    creation = pb.CreateSessionRequest(session_id=session_id, config=source.config)
    creation.config.pool, creation.config.pool_version = pool, pool_version
    creation.request_id = _content_id(origin, creation)
    target = (yield from call(CREATE, creation, session_id)).session.session_id
    copied = 0
    for part in cut(records):
        addition = pb.AddLabelsRequest(
            session_id=target,
            annotator=part[0].annotator,
            labels=[record.label for record in part],
        )
        revisions = f"[{part[0].revision}, {part[-1].revision + 1})"
        addition.request_id = _content_id(f"{origin} {revisions}", addition)
        yield from call(ADD, addition, target)
        copied += len(part)
        if on_progress is not None:
            on_progress(copied, len(records))
    return (yield from get_session(target))


def cut(records: Iterable[pb.LabelRecord]) -> Iterator[list[pb.LabelRecord]]:
    """Cut a log into calls: whole entries of one annotator, at most 1,000 labels, no item twice.

    Every call but the last is the same when the log has grown.
    """
    part: list[pb.LabelRecord] = []
    items: set[str] = set()
    for _, group in groupby(records, key=lambda record: record.revision):
        entry = list(group)
        own = {record.label.item_id for record in entry}
        if part and (
            entry[0].annotator != part[0].annotator
            or len(part) + len(entry) > MOST_LABELS
            or not items.isdisjoint(own)
        ):
            yield part
            part, items = [], set()
        part.extend(entry)
        items |= own
    if part:
        yield part


def _content_id(origin: str, request: pb.CreateSessionRequest | pb.AddLabelsRequest) -> str:
    """A request_id that is the same whenever the same is written from the same source."""
    body = request.SerializeToString(deterministic=True)
    return "move:" + hashlib.sha256(origin.encode() + b"\0" + body).hexdigest()[:48]
