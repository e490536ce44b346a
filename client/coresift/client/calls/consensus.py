"""What the annotators say together."""

from __future__ import annotations

from dataclasses import dataclass

from coresift.client.calls.labels import Classes
from coresift.client.calls.session import Session, id_of
from coresift.client.flow import Flow, Iteration, Rpc, call, pages
from coresift.v1 import selection_pb2 as pb

LIST = Rpc("ListConsensus", pb.ListConsensusRequest, pb.ListConsensusResponse)


@dataclass(frozen=True)
class ItemConsensus:
    """What the votes on an item say together."""

    item_id: str
    votes: int
    """Unsure ones among them."""
    unsure_votes: int
    value: str | Classes | None
    """The class with most votes; multilabel: the classes with a majority for present, for absent.
    None: a tie, or all are unsure."""
    agreement: float
    """Largest share of votes for one class, 0..1; multilabel: the least over the classes named.
    0: all are unsure."""
    is_conflict: bool
    """There are votes for different classes."""


@dataclass(frozen=True)
class AnnotatorAgreement:
    """How an annotator's labels compare with what the others say together."""

    annotator: str
    votes: int
    """Items labelled, unsure ones among them."""
    unsure_votes: int
    compared: int
    """Votes on items for which the others have a consensus."""
    agreed: int
    """Those of them that say the same."""


def list_consensus(
    session: str | Session, *, only_conflicts: bool = False, page_size: int = 0
) -> Iteration[ItemConsensus]:
    """Items with a vote, in pool order; with ``only_conflicts`` those whose votes disagree."""

    def page(token: str) -> Flow[tuple[list[ItemConsensus], str]]:
        request = pb.ListConsensusRequest(
            session_id=id_of(session),
            only_conflicts=only_conflicts,
            page_size=page_size,
            page_token=token,
        )
        reply = yield from call(LIST, request, request.session_id)
        return [_item(item) for item in reply.items], reply.next_page_token

    yield from pages(page)


def annotator_agreement(session: str | Session) -> Flow[list[AnnotatorAgreement]]:
    """All annotators of a session, by name."""
    # They come with every page of items; the smallest page is enough.
    request = pb.ListConsensusRequest(session_id=id_of(session), only_conflicts=True, page_size=1)
    reply = yield from call(LIST, request, request.session_id)
    return [
        AnnotatorAgreement(a.annotator, a.votes, a.unsure_votes, a.compared, a.agreed)
        for a in reply.annotators
    ]


def _item(item: pb.ItemConsensus) -> ItemConsensus:
    sets = item.classes
    value: str | Classes | None = item.class_name or None
    if sets.present or sets.absent:
        value = Classes(tuple(sets.present), tuple(sets.absent))
    return ItemConsensus(
        item_id=item.item_id,
        votes=item.votes,
        unsure_votes=item.unsure_votes,
        value=value,
        agreement=item.agreement,
        is_conflict=item.is_conflict,
    )
