"""Choices, pages, revisions and uploads that make no sense: refused, nothing has changed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from tests.fixtures.nearly_right import Make, World, assert_refused, rows

from coresift.v1 import selection_pb2 as pb

LONG = 2**64 - 1
INVALID, PRECONDITION = "INVALID_ARGUMENT", "FAILED_PRECONDITION"
FIELD, SIGNAL = "INVALID_FIELD", "INVALID_SIGNAL"


PAGED: list[tuple[str, Callable[[str], Make]]] = [
    (
        "sessions",
        lambda t: lambda w: lambda: w.stub.ListSessions(pb.ListSessionsRequest(page_token=t)),
    ),
    (
        "leases",
        lambda t: (
            lambda w: (
                lambda: w.stub.ListLeases(pb.ListLeasesRequest(session_id=w.binary, page_token=t))
            )
        ),
    ),
    (
        "signals",
        lambda t: (
            lambda w: lambda: w.stub.ListSignals(pb.ListSignalsRequest(pool="things", page_token=t))
        ),
    ),
    (
        "pools",
        lambda t: lambda w: lambda: w.stub.ListPools(pb.ListPoolsRequest(page_token=t)),
    ),
]
"""Lists and what asks for the page of a token."""


@rows(
    *(
        (f"choice: {name}", make, INVALID, FIELD, field)
        for name, make, field in (
            ("no release reason", lambda w: w.release(reason=0), "reason"),
            ("release reason 9", lambda w: w.release(reason=9), "reason"),
            ("signal kind 9", lambda w: w.put(kind=9), "header.kind"),
            ("no signal kind", lambda w: w.put(kind=0), "header.kind"),
            ("no target", lambda w: w.predict(), "target"),
            ("no query", lambda w: w.search(), "query"),
            ("no source", lambda w: w.coreset(pool=None), "source"),
            (
                "start items at random",
                lambda w: w.coreset(start_item_ids=["item-1"]),
                "start_item_ids",
            ),
            ("a head without session", lambda w: w.coreset(method="max_entropy"), "session_id"),
        )
    ),
    (
        "core-set method",
        lambda w: w.coreset(method="sea"),
        INVALID,
        "UNKNOWN_METHOD",
        "method",
    ),
    *(
        (f"top of {name}", make, INVALID, "UNKNOWN_CLASS", "top.class_name")
        for name, make in (
            ("unknown", lambda w: w.predict(top=pb.PoolTop(count=1, class_name="sea"))),
            ("unnamed", lambda w: w.predict(session_id=w.multiclass, top=pb.PoolTop(count=1))),
        )
    ),
    *(
        (f"page token of {name}: {token}", make(token), INVALID, "INVALID_PAGE_TOKEN", "page_token")
        for name, make in PAGED
        # Not base64; base64 of nothing we made; "1sea" and "1²:ann", which an earlier form took.
        for token in ("sea!", "c2Vh", "MXNlYQ==", "McKyOmFubg==")
    ),
    *(
        (f"revision: {name}", make, PRECONDITION, "REVISION_NOT_REACHED", field)
        for name, make, field in (
            ("next", lambda w: w.next(min_revision=LONG), "min_revision"),
            (
                "start",
                lambda w: (
                    lambda: w.stub.ListLabels(
                        pb.ListLabelsRequest(session_id=w.binary, start_revision=LONG)
                    )
                ),
                "start_revision",
            ),
            (
                "end",
                lambda w: (
                    lambda: w.stub.ListLabels(
                        pb.ListLabelsRequest(session_id=w.binary, end_revision=LONG)
                    )
                ),
                "end_revision",
            ),
        )
    ),
    (
        "revisions backwards",
        lambda w: (
            lambda: w.stub.ListLabels(
                pb.ListLabelsRequest(session_id=w.binary, start_revision=2, end_revision=1)
            )
        ),
        INVALID,
        FIELD,
        "end_revision",
    ),
    *(
        (f"{name} without head", make, PRECONDITION, "HEAD_NOT_FITTED", None)
        for name, make in (
            ("predict", lambda w: w.predict(session_id=w.unfitted, top=pb.PoolTop(count=1))),
            (
                "head",
                lambda w: lambda: w.stub.GetHead(pb.GetHeadRequest(session_id=w.unfitted)),
            ),
            ("core-set", lambda w: w.coreset(method="max_entropy", session_id=w.unfitted)),
        )
    ),
)
def test_choices_pages_and_revisions(
    world: World, make: Make, code: str, reason: str, field: str | None
) -> None:
    assert_refused(world, make, code, reason, field)


@rows(
    *(
        (f"upload: {name}", make, INVALID, SIGNAL, field)
        for name, make, field in (
            ("count", lambda w: w.put(count=239), "header.count"),
            ("huge count", lambda w: w.put(count=LONG), "header.count"),
            ("hash", lambda w: w.put(sha256=b"x" * 32), "header.sha256"),
            (
                "two columns of classes",
                lambda w: w.put(kind=pb.SIGNAL_KIND_CLASS, columns=["a", "b"]),
                "header.columns",
            ),
            ("NaN", lambda w: w.put(w.numbers(n3=math.nan)), "chunk.values"),
            ("minus infinity", lambda w: w.put(w.numbers(n3=-math.inf)), "chunk.values"),
            ("nothing more", lambda w: w.put([]), "header.count"),
            (
                "one missing",
                lambda w: w.put([w.chunk(w.pools.grown.item_ids[:-1])]),
                "header.count",
            ),
            (
                "unknown id",
                lambda w: w.put([w.chunk([*w.pools.grown.item_ids[:-1], "sea"])]),
                "chunk.item_ids",
            ),
            (
                "an id twice",
                lambda w: w.put([w.chunk([*w.pools.grown.item_ids[:-1], "item-0"])]),
                "chunk.item_ids",
            ),
            ("a chunk twice", lambda w: w.put([w.chunk(["item-0"])] * 2), "chunk.item_ids"),
            (
                "too few numbers",
                lambda w: w.put([w.chunk(values=np.zeros(7, "<f4"))]),
                "chunk.values",
            ),
            (
                "a negative class",
                lambda w: w.put(
                    [w.chunk(values=np.full(240, -1, "<i4"))], kind=pb.SIGNAL_KIND_CLASS
                ),
                "chunk.values",
            ),
            (
                "probabilities",
                lambda w: w.put(
                    [w.chunk(values=np.full((240, 2), 0.6, "<f4"))],
                    kind=pb.SIGNAL_KIND_PROBABILITIES,
                    columns=["a", "b"],
                ),
                "chunk.values",
            ),
            (
                "no header",
                lambda w: lambda: w.stub.PutSignals(iter([pb.PutSignalsRequest(chunk=w.chunk())])),
                "header",
            ),
            ("nothing", lambda w: lambda: w.stub.PutSignals(iter([])), "header"),
            (
                "no part",
                lambda w: lambda: w.stub.PutSignals(iter([pb.PutSignalsRequest()])),
                "header",
            ),
        )
    ),
    *(
        (f"upload: {name}", make, INVALID, FIELD, field)
        for name, make, field in (
            ("no columns", lambda w: w.put(columns=[]), "header.columns"),
            ("a column twice", lambda w: w.put(columns=["a", "a"]), "header.columns"),
            (
                "1001 columns",
                lambda w: w.put(columns=list(map(str, range(1001)))),
                "header.columns",
            ),
            ("short hash", lambda w: w.put(sha256=b"x"), "header.sha256"),
            (
                "offsets",
                lambda w: w.put(
                    [pb.SignalChunk(item_ids=pb.StringColumn(data=b"item-0", offsets=b"1234567"))]
                ),
                "chunk.item_ids.offsets",
            ),
            (
                "falling offsets",
                lambda w: w.put(
                    [
                        pb.SignalChunk(
                            item_ids=pb.StringColumn(
                                data=b"item-0", offsets=np.array([0, 9, 6], "<i4").tobytes()
                            ),
                            values=bytes(8),
                        )
                    ]
                ),
                "chunk.item_ids.offsets",
            ),
            (
                "no UTF-8",
                lambda w: w.put(
                    [
                        pb.SignalChunk(
                            item_ids=pb.StringColumn(
                                data=b"\xff", offsets=np.array([0, 1], "<i4").tobytes()
                            ),
                            values=bytes(4),
                        )
                    ]
                ),
                "chunk.item_ids.data",
            ),
        )
    ),
)
def test_uploads(world: World, make: Make, code: str, reason: str, field: str | None) -> None:
    assert_refused(world, make, code, reason, field)
