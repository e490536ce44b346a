"""Names that do not exist, are too long or not there: refused, and nothing has changed."""

from __future__ import annotations

from google.protobuf.field_mask_pb2 import FieldMask
from tests.fixtures.nearly_right import Make, World, assert_refused, new_id, rows

from coresift.v1 import selection_pb2 as pb

INVALID, NOT_FOUND, PRECONDITION = "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"
FIELD = "INVALID_FIELD"


@rows(
    (
        "get unknown session",
        lambda w: lambda: w.stub.GetSession(pb.GetSessionRequest(session_id="nobody")),
        NOT_FOUND,
        "SESSION_NOT_FOUND",
        None,
    ),
    (
        "progress of unknown session",
        lambda w: (
            lambda: w.stub.GetSessionProgress(pb.GetSessionProgressRequest(session_id="nobody"))
        ),
        NOT_FOUND,
        "SESSION_NOT_FOUND",
        None,
    ),
    (
        "delete unknown session",
        lambda w: (
            lambda: w.stub.DeleteSession(
                pb.DeleteSessionRequest(request_id=new_id(), session_id="nobody")
            )
        ),
        NOT_FOUND,
        "SESSION_NOT_FOUND",
        None,
    ),
    (
        "update unknown session",
        lambda w: (
            lambda: w.stub.UpdateSession(
                pb.UpdateSessionRequest(
                    request_id=new_id(),
                    session_id="nobody",
                    update_mask=FieldMask(paths=["head"]),
                )
            )
        ),
        NOT_FOUND,
        "SESSION_NOT_FOUND",
        None,
    ),
    *(
        (f"{name} in unknown session", make, NOT_FOUND, "SESSION_NOT_FOUND", None)
        for name, make in {
            "next": lambda w: w.next(session_id="nobody"),
            "add": lambda w: w.add(w.label(), session_id="nobody"),
            "renew": lambda w: w.renew(session_id="nobody"),
            "release": lambda w: w.release(session_id="nobody"),
            "leases": lambda w: (
                lambda: w.stub.ListLeases(pb.ListLeasesRequest(session_id="nobody"))
            ),
            "labels": lambda w: (
                lambda: w.stub.ListLabels(pb.ListLabelsRequest(session_id="nobody"))
            ),
            "predict": lambda w: w.predict(session_id="nobody", top=pb.PoolTop(count=1)),
            "score": lambda w: (
                lambda: w.stub.ScoreVectors(
                    pb.ScoreVectorsRequest(session_id="nobody", vectors=w.vectors([1.0] * 16))
                )
            ),
            "head": lambda w: lambda: w.stub.GetHead(pb.GetHeadRequest(session_id="nobody")),
            "coreset": lambda w: w.coreset(session_id="nobody"),
        }.items()
    ),
    *(
        (f"{name} of unknown pool", make, NOT_FOUND, "POOL_NOT_FOUND", field)
        for name, make, field in (
            ("create", lambda w: w.create(pool="sea"), "config.pool"),
            ("create version", lambda w: w.create(pool_version="ff"), "config.pool_version"),
            ("search", lambda w: w.search(pool="sea", item_id="item-1"), "pool"),
            (
                "search version",
                lambda w: w.search(pool_version="ff", item_id="item-1"),
                "pool_version",
            ),
            ("coreset", lambda w: w.coreset(pool="sea"), "pool"),
            ("put", lambda w: w.put(pool="sea"), "header.pool"),
            ("put version", lambda w: w.put(pool_version="ff"), "header.pool_version"),
            (
                "get",
                lambda w: lambda: w.stub.GetPool(pb.GetPoolRequest(name="sea")),
                "name",
            ),
            (
                "get version",
                lambda w: lambda: w.stub.GetPool(pb.GetPoolRequest(name="things", version="ff")),
                "version",
            ),
            (
                "signals",
                lambda w: lambda: w.stub.ListSignals(pb.ListSignalsRequest(pool="sea")),
                "pool",
            ),
            (
                "delete signals",
                lambda w: (
                    lambda: w.stub.DeleteSignals(
                        pb.DeleteSignalsRequest(request_id=new_id(), pool="sea", name="loss")
                    )
                ),
                "pool",
            ),
            (
                "update version",
                lambda w: w.update("pool_version", pool_version="ff"),
                "config.pool_version",
            ),
        )
    ),
    *(
        (f"{name} unknown item", make, NOT_FOUND, "ITEM_NOT_FOUND", field)
        for name, make, field in (
            ("label", lambda w: w.add(w.label(), w.label("sea")), "labels[1].item_id"),
            ("renew", lambda w: w.renew(item_ids=[w.leased, "sea"]), "item_ids[1]"),
            ("release", lambda w: w.release(item_ids=[w.leased, "sea"]), "item_ids[1]"),
            (
                "predict",
                lambda w: w.predict(items=pb.ItemList(item_ids=["item-1", "sea"])),
                "items.item_ids[1]",
            ),
            ("search", lambda w: w.search(item_id="sea"), "item_id"),
            (
                "start at",
                lambda w: w.coreset(method="k_center", start_item_ids=["item-1", "sea"]),
                "start_item_ids[1]",
            ),
        )
    ),
    (
        "delete unknown signal",
        lambda w: (
            lambda: w.stub.DeleteSignals(
                pb.DeleteSignalsRequest(request_id=new_id(), pool="things", name="sea")
            )
        ),
        NOT_FOUND,
        "SIGNAL_NOT_FOUND",
        "name",
    ),
    (
        "cancel unknown job",
        lambda w: (
            lambda: w.stub.CancelCoreset(pb.CancelCoresetRequest(request_id=new_id(), job_id="sea"))
        ),
        NOT_FOUND,
        "JOB_NOT_FOUND",
        "job_id",
    ),
)
def test_what_does_not_exist(
    world: World, make: Make, code: str, reason: str, field: str | None
) -> None:
    assert_refused(world, make, code, reason, field)


@rows(
    *(
        (f"id: {name}", make, INVALID, FIELD, field)
        for name, make, field in (
            ("no request_id", lambda w: w.next(request_id=""), "request_id"),
            ("request_id of 65", lambda w: w.next(request_id="x" * 65), "request_id"),
            ("request_id with blank", lambda w: w.add(w.label(), request_id="a b"), "request_id"),
            ("request_id of line", lambda w: w.renew(request_id="a\n"), "request_id"),
            ("release without request_id", lambda w: w.release(request_id=""), "request_id"),
            ("coreset without request_id", lambda w: w.coreset(request_id=""), "request_id"),
            ("put without request_id", lambda w: w.put(request_id=""), "header.request_id"),
            (
                "create without request_id",
                lambda w: (
                    lambda: w.stub.CreateSession(
                        pb.CreateSessionRequest(
                            config=pb.SessionConfig(pool="things", task=pb.TASK_BINARY)
                        )
                    )
                ),
                "request_id",
            ),
            (
                "update without request_id",
                lambda w: (
                    lambda: w.stub.UpdateSession(
                        pb.UpdateSessionRequest(
                            session_id=w.binary, update_mask=FieldMask(paths=["head"])
                        )
                    )
                ),
                "request_id",
            ),
            (
                "delete without request_id",
                lambda w: (
                    lambda: w.stub.DeleteSession(pb.DeleteSessionRequest(session_id=w.binary))
                ),
                "request_id",
            ),
            (
                "delete signal without request_id",
                lambda w: (
                    lambda: w.stub.DeleteSignals(
                        pb.DeleteSignalsRequest(pool="things", name="loss")
                    )
                ),
                "request_id",
            ),
            (
                "cancel without request_id",
                lambda w: lambda: w.stub.CancelCoreset(pb.CancelCoresetRequest(job_id="sea")),
                "request_id",
            ),
            (
                "session_id of 65",
                lambda w: (
                    lambda: w.stub.CreateSession(
                        pb.CreateSessionRequest(
                            request_id=new_id(),
                            session_id="x" * 65,
                            config=pb.SessionConfig(pool="things", task=pb.TASK_BINARY),
                        )
                    )
                ),
                "session_id",
            ),
            ("no session_id", lambda w: w.next(session_id=""), "session_id"),
            ("core-set of no session", lambda w: w.coreset(session_id=""), "session_id"),
            ("no annotator", lambda w: w.next(annotator=""), "annotator"),
            ("annotator of 129", lambda w: w.add(w.label(), annotator="é" * 65), "annotator"),
            ("renewer of 129", lambda w: w.renew(annotator="x" * 129), "annotator"),
            ("releaser of 129", lambda w: w.release(annotator="x" * 129), "annotator"),
            (
                "lister of 129",
                lambda w: (
                    lambda: w.stub.ListLeases(
                        pb.ListLeasesRequest(session_id=w.binary, annotator="x" * 129)
                    )
                ),
                "annotator",
            ),
            ("empty item_id", lambda w: w.add(w.label("")), "labels[0].item_id"),
            ("item_id of 257", lambda w: w.add(w.label("x" * 257)), "labels[0].item_id"),
            ("released item_id of 257", lambda w: w.release(item_ids=["x" * 257]), "item_ids[0]"),
            (
                "job_id of 65",
                lambda w: (
                    lambda: w.stub.CancelCoreset(
                        pb.CancelCoresetRequest(request_id=new_id(), job_id="x" * 65)
                    )
                ),
                "job_id",
            ),
            ("signal name", lambda w: w.put(name="a/b"), "header.name"),
        )
    ),
)
def test_malformed_ids(world: World, make: Make, code: str, reason: str, field: str | None) -> None:
    assert_refused(world, make, code, reason, field)


@rows(
    *(
        (f"long words: {name}", make, code, reason, field)
        for name, make, code, reason, field in (
            (
                "class",
                lambda w: w.add(w.label(class_name="é" * 100_000)),
                INVALID,
                "UNKNOWN_CLASS",
                "labels[0].class_name",
            ),
            (
                "strategy",
                lambda w: w.create(strategy=pb.Strategy(name="é" * 100_000)),
                INVALID,
                "UNKNOWN_METHOD",
                "config.strategy.name",
            ),
            (
                "pool",
                lambda w: w.search(pool="é" * 100_000, item_id="item-1"),
                NOT_FOUND,
                "POOL_NOT_FOUND",
                "pool",
            ),
            (
                "path",
                lambda w: w.update("é" * 100_000),
                INVALID,
                FIELD,
                "update_mask",
            ),
            (
                "start item",
                lambda w: w.coreset(method="k_center", start_item_ids=["é" * 100_000]),
                NOT_FOUND,
                "ITEM_NOT_FOUND",
                "start_item_ids[0]",
            ),
            (
                "classes",
                lambda w: w.predict(
                    session_id=w.multiclass, top=pb.PoolTop(count=1, class_name="é" * 100_000)
                ),
                INVALID,
                "UNKNOWN_CLASS",
                "top.class_name",
            ),
        )
    ),
)
def test_words_far_too_long_do_not_break_the_answer_that_quotes_them(
    world: World, make: Make, code: str, reason: str, field: str | None
) -> None:
    assert_refused(world, make, code, reason, field)
