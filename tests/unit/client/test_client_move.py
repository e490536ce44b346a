"""Moving a session, against a small twin of the service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.client.driver import Driver

from coresift.client import ItemsMissing, NotFound, Reason, Unavailable
from coresift.client.calls.move import cut, move_session
from coresift.client.errors import CoresiftError
from coresift.v1 import selection_pb2 as pb


class Twin:
    """Sessions with logs, writes remembered by request_id, pools as sets of items."""

    def __init__(self, pools: dict[str, set[str]]) -> None:
        self.pools = pools
        self.sessions: dict[str, pb.Session] = {}
        self.logs: dict[str, list[pb.LabelRecord]] = {}
        self.answers: dict[str, tuple[bytes, Message]] = {}
        self.writes: list[str] = []
        self.fail_after: int | None = None

    def __call__(self, name: str, request: Any) -> Any:
        if name in ("GetSession", "ListLabels", "GetItems"):
            return getattr(self, name)(request)
        if self.fail_after is not None and len(self.writes) >= self.fail_after:
            raise CoresiftError(None, "crash", code=grpc.StatusCode.INTERNAL)
        body = request.SerializeToString(deterministic=True)
        if request.request_id in self.answers:
            known, reply = self.answers[request.request_id]
            assert known == body, "REQUEST_ID_REUSED"
            return reply
        self.writes.append(name)
        reply = getattr(self, name)(request)
        self.answers[request.request_id] = (body, reply)
        return reply

    def GetSession(self, request: Any) -> Message:  # noqa: N802 - gRPC's names
        return pb.GetSessionResponse(session=self.sessions[request.session_id])

    def ListLabels(self, request: Any) -> Iterator[Message]:  # noqa: N802
        yield pb.ListLabelsResponse(labels=self.logs[request.session_id])

    def CreateSession(self, request: Any) -> Message:  # noqa: N802
        name = request.session_id or f"made-{len(self.sessions)}"
        assert name not in self.sessions, "SESSION_EXISTS"
        session = pb.Session(session_id=name, config=request.config)
        session.create_time.FromSeconds(1_000 + len(self.sessions))
        self.sessions[name], self.logs[name] = session, []
        return pb.CreateSessionResponse(session=session)

    def GetItems(self, request: Any) -> Message:  # noqa: N802
        assert len(request.item_ids) <= 10_000
        pool = self.pools[request.pool]
        return pb.GetItemsResponse(
            items=[pb.Item(item_id=name) for name in request.item_ids if name in pool],
            missing=[name for name in request.item_ids if name not in pool],
        )

    def AddLabels(self, request: Any) -> Message:  # noqa: N802
        self._check(request.session_id, [label.item_id for label in request.labels])
        log = self.logs[request.session_id]
        revision = log[-1].revision + 1 if log else 1
        log.extend(
            pb.LabelRecord(revision=revision, annotator=request.annotator, label=label)
            for label in request.labels
        )
        return pb.AddLabelsResponse(outcomes=[pb.LABEL_OUTCOME_NEW] * len(request.labels))

    def _check(self, session_id: str, item_ids: list[str]) -> None:
        assert len(item_ids) <= 1_000
        pool = self.pools[self.sessions[session_id].config.pool]
        for item_id in item_ids:
            if item_id not in pool:
                raise NotFound(
                    Reason.ITEM_NOT_FOUND,
                    f"no item {item_id!r}",
                    metadata={"item_id": item_id},
                    code=grpc.StatusCode.NOT_FOUND,
                )


def labelled(log: list[pb.LabelRecord]) -> list[tuple[str, bytes]]:
    return [(r.annotator, r.label.SerializeToString(deterministic=True)) for r in log]


def entry(revision: int, annotator: str, **values: str) -> list[pb.LabelRecord]:
    out = []
    for item_id, value in values.items():
        label = pb.Label(item_id=item_id)
        if value == "unsure":
            label.unsure.SetInParent()
        elif value == "retract":
            label.retraction.SetInParent()
        elif value.startswith("+"):
            label.classes.CopyFrom(pb.MultilabelValue(present=[value[1:]], absent=["z"]))
        else:
            label.class_name = value
        out.append(pb.LabelRecord(revision=revision, annotator=annotator, label=label))
    return out


@pytest.fixture
def twin() -> Twin:
    twin = Twin({"old": set("abcdef"), "new": set("abcdef"), "less": set("abd")})
    config = pb.SessionConfig(
        pool="old",
        pool_version="v1",
        task=pb.TASK_MULTICLASS,
        classes=["x", "y"],
        strategy=pb.Strategy(name="bald"),
        seed=9,
        label_budget=0,
        validation_size=3,
    )
    config.strategy.params.update({"samples": 8, "deep": True})
    twin.sessions["s"] = pb.Session(session_id="s", config=config)
    twin.sessions["s"].create_time.FromSeconds(5)
    twin.logs["s"] = [
        *entry(1, "ann", a="x", b="y"),
        *entry(4, "ann", c="unsure"),
        *entry(5, "bob", a="y", d="+x"),
        *entry(9, "ann", a="y"),
        *entry(10, "ann", a="retract"),
        *entry(12, "ann", b="retract", e="x"),
    ]
    return twin


def test_a_move_copies_configuration_and_log(twin: Twin) -> None:
    heard: list[tuple[int, int]] = []
    driver = Driver(twin)
    session = driver.run(
        move_session("s", "new", on_progress=lambda done, of: heard.append((done, of)))
    )
    expected = pb.SessionConfig()
    expected.CopyFrom(twin.sessions["s"].config)
    expected.pool, expected.pool_version = "new", ""
    assert twin.sessions[session.session_id].config == expected
    assert labelled(twin.logs[session.session_id]) == labelled(twin.logs["s"])
    assert heard == [(3, 9), (5, 9), (6, 9), (9, 9)]
    assert twin.sessions.keys() == {"s", session.session_id}


@pytest.mark.parametrize("writes", range(5))
@pytest.mark.parametrize("target", ["", "mine"])
def test_a_move_goes_on_where_it_stopped(twin: Twin, writes: int, target: str) -> None:
    twin.fail_after = writes
    with pytest.raises(CoresiftError, match="crash"):
        Driver(twin).run(move_session("s", "new", session_id=target))
    twin.fail_after = None
    twin.logs["s"] += [*entry(13, "ann", f="x"), *entry(14, "bob", e="y")]
    session = Driver(twin).run(move_session("s", "new", session_id=target))
    log = labelled(twin.logs[session.session_id])
    assert list(dict.fromkeys(log)) == list(dict.fromkeys(labelled(twin.logs["s"])))
    before = list(twin.writes)
    again = Driver(twin).run(move_session("s", "new", session_id=target))
    assert again == session
    assert labelled(twin.logs[session.session_id]) == log
    assert "AddLabels" not in twin.writes[len(before) :]


def test_other_targets_and_sources_are_other_moves(twin: Twin) -> None:
    first = Driver(twin).run(move_session("s", "new"))
    second = Driver(twin).run(move_session("s", "new", session_id="mine"))
    assert first.session_id != second.session_id
    twin.sessions["s"].create_time.FromSeconds(6)  # another session of the same name
    third = Driver(twin).run(move_session("s", "new"))
    assert third.session_id not in (first.session_id, second.session_id)
    for session in (first, second, third):
        assert labelled(twin.logs[session.session_id]) == labelled(twin.logs["s"])


def test_missing_items_are_named_before_anything_is_written(twin: Twin) -> None:
    with pytest.raises(ItemsMissing, match=r"'less' lacks 2 of 5 .*: c, e") as caught:
        Driver(twin).run(move_session("s", "less", session_id="mine"))
    assert caught.value.item_ids == ("c", "e")
    assert caught.value.reason is Reason.ITEM_NOT_FOUND
    assert twin.sessions.keys() == {"s"}
    assert "AddLabels" not in twin.writes
    twin.pools["less"] |= {"c", "e"}
    session = Driver(twin).run(move_session("s", "less", session_id="mine"))
    assert labelled(twin.logs["mine"]) == labelled(twin.logs["s"])
    assert session.session_id == "mine"


def test_missing_items_can_be_left_out(twin: Twin) -> None:
    Driver(twin).run(move_session("s", "less", session_id="mine", skip_missing=True))
    kept = [r for r in twin.logs["s"] if r.label.item_id in "abd"]
    assert labelled(twin.logs["mine"]) == labelled(kept)


def test_a_pool_of_other_items_is_refused_early(twin: Twin) -> None:
    twin.logs["s"] = [
        record
        for n in range(30)
        for record in entry(n + 1, "ann", **{f"i{n}_{k}": "x" for k in range(100)})
    ]
    with pytest.raises(ItemsMissing) as caught:
        Driver(twin).run(move_session("s", "new"))
    assert len(caught.value.item_ids) == 3_000
    assert "lacks 3000 of 3000" in str(caught.value)
    assert str(caught.value).endswith("i0_4 and 2995 more")


def test_an_empty_session_moves_too(twin: Twin) -> None:
    twin.logs["s"] = []
    Driver(twin).run(move_session("s", "less", session_id="mine"))
    assert twin.writes == ["CreateSession"]


def test_other_refusals_are_passed_on(twin: Twin) -> None:
    def answer(name: str, request: Any) -> Any:
        if name == "GetItems":
            raise NotFound(Reason.POOL_NOT_FOUND, "gone", code=grpc.StatusCode.NOT_FOUND)
        return twin(name, request)

    with pytest.raises(NotFound) as caught:
        Driver(answer).run(move_session("s", "new"))
    assert caught.value.reason is Reason.POOL_NOT_FOUND
    assert not isinstance(caught.value, Unavailable | ItemsMissing)


logs = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob"]),
        st.sets(st.integers(0, 1_500).map(str), min_size=1, max_size=30),
        st.sampled_from([1, 40]),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(logs, st.integers(0, 40))
def test_calls_are_whole_entries_in_order(
    entries: list[tuple[str, set[str], int]], shorter: int
) -> None:
    log = [
        pb.LabelRecord(revision=n, annotator=who, label=pb.Label(item_id=f"{item}-{copy}"))
        for n, (who, items, copies) in enumerate(entries)
        for item in sorted(items)[:25]
        for copy in range(copies)
    ]
    calls = list(cut(log))
    assert [record for call in calls for record in call] == log
    for call in calls:
        items = [record.label.item_id for record in call]
        assert len({record.annotator for record in call}) == 1
        assert len(items) == len(set(items)) <= 1_000
    revisions = [{record.revision for record in call} for call in calls]
    assert sum(map(len, revisions)) == len(set().union(*revisions)), "an entry was split"
    before = list(cut(record for record in log if record.revision < shorter))
    assert before[:-1] == calls[: max(len(before) - 1, 0)], "old calls changed as the log grew"
