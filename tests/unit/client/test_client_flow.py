"""Flows driven by hand: retry, splitting, streams. No I/O, no waiting."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.client.driver import Driver, failing, unavailable

from coresift.client import (
    RETRACT,
    UNSURE,
    Classes,
    CoresetMethod,
    Label,
    Outcome,
    Sampler,
    Targets,
)
from coresift.client.calls import configure, coreset, labels, leases, model, session, signals
from coresift.client.convert import StringColumn
from coresift.client.errors import CoresiftError, ResourceExhausted, Unavailable
from coresift.client.flow import parts
from coresift.client.retry import Retry
from coresift.client.steps import Send, Settings
from coresift.v1 import selection_pb2 as pb


def test_retry_sends_the_same_request() -> None:
    driver = Driver(failing([unavailable(), unavailable()], pb.DeleteSessionResponse()))
    driver.run(session.delete_session("s"))
    first, *others = driver.sent
    assert len(others) == 2
    assert all(other.request == first.request for other in others)
    assert first.request.request_id  # type: ignore[union-attr]
    assert driver.slept == [0.05, 0.1]
    timeouts = [send.timeout_s for send in driver.sent if isinstance(send, Send)]
    assert timeouts == pytest.approx([30, 29.95, 29.85])


def test_session_calls_name_their_session() -> None:
    driver = Driver(failing([], pb.DeleteSessionResponse()))
    driver.run(session.delete_session("s-1"))
    assert driver.sent[0].metadata == (("x-coresift-session", "s-1"),)


def test_retry_info_is_honoured() -> None:
    error = ResourceExhausted(
        None, "busy", retry_after=timedelta(seconds=2), code=grpc.StatusCode.RESOURCE_EXHAUSTED
    )
    driver = Driver(failing([error], pb.DeleteSessionResponse()))
    driver.run(session.delete_session("s"))
    assert driver.slept == [2.05]


@pytest.mark.parametrize(
    "code",
    [code for code in grpc.StatusCode if code.name not in ("OK", "UNAVAILABLE")],
)
def test_other_failures_are_final(code: grpc.StatusCode) -> None:
    driver = Driver(failing([CoresiftError(None, "no", code=code)], pb.DeleteSessionResponse()))
    with pytest.raises(CoresiftError):
        driver.run(session.delete_session("s"))
    assert len(driver.sent) == 1


def test_attempts_and_deadline_bound_the_retries() -> None:
    driver = Driver(failing([unavailable() for _ in range(99)], pb.DeleteSessionResponse()))
    with pytest.raises(Unavailable):
        driver.run(session.delete_session("s"))
    assert len(driver.sent) == driver.settings.max_attempts

    driver = Driver(failing([unavailable(40)], pb.DeleteSessionResponse()))
    with pytest.raises(Unavailable):  # the deadline comes before the server wants us back
        driver.run(session.delete_session("s"))
    assert driver.slept == []


@given(st.integers(1, 12), st.floats(0, 0.999))
def test_backoff_is_full_jitter_of_a_doubling(failures: int, jitter: float) -> None:
    settings = Settings(clock=lambda: 0.0, jitter=lambda: jitter, max_attempts=99)
    retry = Retry(settings, timed=False)
    pauses = [retry.pause(unavailable()).seconds for _ in range(failures)]
    assert pauses == pytest.approx([jitter * min(0.1 * 2**i, 5.0) for i in range(failures)])


@given(st.integers(0, 50), st.integers(1, 7))
def test_parts_cover_everything_once(total: int, most: int) -> None:
    cuts = parts(total, most)
    assert [i for cut in cuts for i in range(cut.start, cut.stop)] == list(range(total))
    assert all(0 < cut.stop - cut.start <= most for cut in cuts)


def add_all(name: str, request: Any) -> Message:
    assert name == "AddLabels"
    outcomes = [pb.LABEL_OUTCOME_NEW] * len(request.labels)
    return pb.AddLabelsResponse(outcomes=outcomes, basis=pb.Basis(revision=len(request.labels)))


def test_many_labels_are_split() -> None:
    driver = Driver(add_all)
    values = {f"i{n}": "positive" for n in range(2_001)}
    result = driver.run(labels.add_labels("s", values, "ann", request_id="r"))
    requests: list[Any] = [send.request for send in driver.sent]
    assert [len(request.labels) for request in requests] == [1000, 1000, 1]
    assert [request.request_id for request in requests] == ["r/0", "r/1", "r/2"]
    assert result.item_ids == tuple(values)
    assert result.counts == {Outcome.NEW: 2_001}
    assert result.revision == 1


def test_a_failed_part_says_what_was_recorded() -> None:
    def answer(name: str, request: Any) -> Message:
        if request.request_id == "r/1":
            raise CoresiftError(None, "bad", code=grpc.StatusCode.INVALID_ARGUMENT)
        return add_all(name, request)

    values = {f"i{n}": "positive" for n in range(1_500)}
    with pytest.raises(CoresiftError) as caught:
        Driver(answer).run(labels.add_labels("s", values, "ann", request_id="r"))
    assert caught.value.__notes__ == ["the first 1000 labels of this call are recorded"]


def test_an_import_reads_labels_as_it_sends_them() -> None:
    read: list[int] = []

    def pairs() -> Iterator[tuple[str, str]]:
        for n in range(2_500):
            read.append(n)
            yield f"i{n}", "positive"

    done: list[tuple[int, int]] = []
    driver = Driver(add_all)
    result = driver.run(
        labels.import_labels(
            "s",
            pairs(),
            "ann",
            request_id="r",
            on_progress=lambda count: done.append((count, len(read))),
        )
    )
    requests: list[Any] = [send.request for send in driver.sent]
    assert [request.request_id for request in requests] == ["r/0", "r/1", "r/2"]
    assert done == [(1000, 1000), (2000, 2000), (2500, 2500)]
    assert len(result.item_ids) == len(result.outcomes) == 2_500
    assert result.revision == 500


def test_an_import_of_nothing_is_the_servers_to_refuse() -> None:
    driver = Driver(add_all)
    driver.run(labels.import_labels("s", {}, "ann"))
    assert [len(send.request.labels) for send in driver.sent] == [0]  # type: ignore[union-attr]


def test_a_failed_import_says_what_was_recorded() -> None:
    def answer(name: str, request: Any) -> Message:
        if request.request_id == "r/2":
            raise CoresiftError(None, "bad", code=grpc.StatusCode.INVALID_ARGUMENT)
        return add_all(name, request)

    values = {f"i{n}": "positive" for n in range(2_500)}
    with pytest.raises(CoresiftError) as caught:
        Driver(answer).run(labels.import_labels("s", values, "ann", request_id="r"))
    assert caught.value.__notes__ == ["the first 2000 labels of this import are recorded"]


def test_label_values_on_the_wire() -> None:
    driver = Driver(add_all)
    given_labels = [
        Label("a", "cat"),
        Label("b", Classes(["cat"], ["dog"])),
        Label("c", UNSURE, lease_token=b"own"),
        Label("d", RETRACT),
    ]
    batch = [pb.Pick(item_id=item_id, lease_token=b"batch") for item_id in "ac"]
    driver.run(labels.add_labels("s", given_labels, "ann", batch=batch))  # type: ignore[arg-type]
    sent: Any = driver.sent[0].request
    kinds = [label.WhichOneof("value") for label in sent.labels]
    assert kinds == ["class_name", "classes", "unsure", "retraction"]
    assert [label.lease_token for label in sent.labels] == [b"batch", b"", b"own", b""]
    assert labels._value(sent.labels[1]) == Classes(("cat",), ("dog",))
    with pytest.raises(TypeError, match="for item 'x'"):
        driver.run(labels.add_labels("s", [Label("x", 3)], "ann"))  # type: ignore[arg-type]


def test_renew_without_items_is_one_call_for_all() -> None:
    driver = Driver(failing([], pb.RenewLeasesResponse(renewed=["a"])))
    assert driver.run(leases.renew_leases("s", "ann")).renewed == ("a",)
    assert len(driver.sent) == 1


def test_predict_splits_vectors_and_joins_chunks() -> None:
    def answer(_name: str, request: Any) -> Iterator[Message]:
        X = np.frombuffer(request.vectors.data, "<f4").reshape(-1, 2)
        for rows in np.array_split(X[:, 0], 3):
            yield pb.PredictResponse(
                classes=["positive"], count=len(rows), probabilities=rows.tobytes()
            )

    driver = Driver(answer)
    X = np.random.default_rng(0).random((20_001, 2), dtype=np.float32)
    found = driver.run(model.predict("s", vectors=X))
    assert [len(s.request.vectors.data) // 8 for s in driver.sent] == [10_000, 10_000, 1]  # type: ignore[union-attr]
    np.testing.assert_array_equal(found.probabilities[:, 0], X[:, 0])
    assert len(found.item_ids) == 0


def test_predict_wants_one_target() -> None:
    for targets in ({}, {"items": ["a"], "top": 3}):
        with pytest.raises(ValueError, match="exactly one"):
            Driver(add_all).run(model.predict("s", **targets))  # type: ignore[arg-type]


def record(revision: int) -> pb.LabelRecord:
    return pb.LabelRecord(revision=revision, label=pb.Label(item_id=f"i{revision}", class_name="c"))


def test_a_stream_is_retried_only_before_its_first_message() -> None:
    streams: list[list[Any]] = [
        [unavailable()],
        [pb.ListLabelsResponse(labels=[record(1), record(2)]), unavailable()],
    ]
    driver = Driver(lambda _name, _request: streams.pop(0))  # type: ignore[arg-type,return-value]
    with pytest.raises(Unavailable):
        driver.run(labels.list_labels("s"))
    assert [entry.item_id for entry in driver.emitted] == ["i1", "i2"]
    assert len(driver.sent) == 2


def coreset_stream(ids: list[str]) -> list[Any]:
    column = StringColumn.of(ids).part(0, len(ids))
    ranks = np.arange(len(ids), dtype="<u4").tobytes()
    scores = np.arange(len(ids), dtype="<f8").tobytes()
    return [
        pb.ScoreCoresetResponse(plan=pb.CoresetPlan(job_id="j")),
        pb.ScoreCoresetResponse(progress=pb.CoresetProgress(phase="select", share=0.5)),
        pb.ScoreCoresetResponse(chunk=pb.CoresetChunk(item_ids=column, ranks=ranks, scores=scores)),
        pb.ScoreCoresetResponse(summary=pb.CoresetSummary(count=len(ids))),
    ]


def at(share: float) -> Any:
    return pb.ScoreCoresetResponse(progress=pb.CoresetProgress(phase="select", share=share))


def test_a_coreset_attaches_again_and_starts_its_result_over() -> None:
    whole = coreset_stream(["a", "bc"])
    # More failures than the attempt limit allows: getting further forgives them.
    streams = [[whole[0], at(0.01 * n), unavailable()] for n in range(20)] + [whole]
    driver = Driver(lambda _name, _request: streams.pop(0))  # type: ignore[arg-type,return-value]
    heard: list[float] = []
    flow = coreset.score_coreset(
        "random", 2, pool="p", on_progress=lambda progress: heard.append(progress.share)
    )
    result = driver.run(flow)
    assert list(result.item_ids) == ["a", "bc"]
    assert result.ranks.tolist() == [0, 1]
    assert result.weights is None
    assert result.summary.covering_radius is None
    assert len(heard) == 21
    assert len({send.request.request_id for send in driver.sent}) == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("shown", [1, 2])
def test_a_job_that_never_gets_further_is_given_up(shown: int) -> None:
    begun = coreset_stream(["a"])[:shown]
    driver = Driver(lambda _name, _request: iter([*begun, unavailable()]))  # type: ignore[arg-type,return-value,list-item]
    with pytest.raises(Unavailable):
        driver.run(coreset.score_coreset("random", 1, pool="p"))
    assert 1 < len(driver.sent) < 20


def coreset_request(*args: Any, **kwargs: Any) -> Any:
    driver = Driver(lambda _name, _request: iter(coreset_stream(["a"])))
    driver.run(coreset.score_coreset(*args, **kwargs))
    return driver.sent[0].request


def test_a_coreset_request_with_everything() -> None:
    sent = coreset_request(
        CoresetMethod("query", neighbours=32, weight=0.5),
        40,
        session="s",
        sampler=Sampler("ccs", beta=0.2),
        class_signal="truth",
        class_budgets={3: 30, 1: 10},
        start_item_ids=["x"],
        start_from_labels=True,
        query=Targets(["a"], np.eye(2)),
        avoid=iter(["b", "c"]),
        pacing_buckets=4,
        seed=5,
        grace_period=9,
        request_id="r",
    )
    assert (sent.method, sent.budget, sent.seed, sent.request_id) == ("query", 40, 5, "r")
    assert dict(sent.params) == {"neighbours": 32, "weight": 0.5}
    assert (sent.sampler, dict(sent.sampler_params)) == ("ccs", {"beta": 0.2})
    assert (sent.WhichOneof("source"), sent.session_id) == ("session_id", "s")
    assert (sent.WhichOneof("classes"), sent.class_signal) == ("class_signal", "truth")
    assert dict(sent.class_budgets.counts.counts) == {3: 30, 1: 10}
    assert (list(sent.start_item_ids), sent.start_from_labels) == (["x"], True)
    assert list(sent.query.item_ids) == ["a"]
    assert sent.query.vectors.dimension == 2
    assert np.frombuffer(sent.query.vectors.data, "<f4").tolist() == [1, 0, 0, 1]
    assert (list(sent.avoid.item_ids), sent.avoid.HasField("vectors")) == (["b", "c"], False)
    assert (sent.pacing_buckets, sent.grace_period.seconds) == (4, 9)


def test_a_coreset_request_with_little() -> None:
    sent = coreset_request("semdedup", pool="p", predicted_classes=True, sampler="top")
    assert (sent.method, sent.pool, sent.sampler) == ("semdedup", "p", "top")
    assert sent.predicted_classes
    assert not sent.params.fields
    absent = ("budget", "class_budgets", "query", "avoid", "grace_period")
    assert not any(sent.HasField(name) for name in absent)
    for rule in ("balanced", "proportional"):
        sent = coreset_request("random", 1, pool="p", class_budgets=rule)
        assert sent.class_budgets.WhichOneof("rule") == rule
    sent = coreset_request("random", 1, pool="p", class_budgets={})
    assert sent.class_budgets.WhichOneof("rule") == "counts"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "exactly one of pool, session"),
        ({"pool": "p", "session": "s"}, ValueError, "exactly one of pool, session"),
        (
            {"pool": "p", "class_signal": "c", "predicted_classes": True},
            ValueError,
            "at most one of class_signal, predicted_classes",
        ),
        ({"pool": "p", "class_budgets": "even"}, ValueError, "class_budgets must be 'balanced'"),
        ({"pool": "p", "query": "a"}, TypeError, "Targets or a sequence of item ids"),
        ({"pool": "p", "avoid": Targets(vectors=[])}, ValueError, "vectors must be a non-empty"),
        ({"pool": "p", "query": Targets("item-1")}, TypeError, "item_ids must be several ids"),
        ({"pool": "p", "start_item_ids": "item-1"}, TypeError, "start_item_ids must be several"),
    ],
)
def test_coreset_requests_that_contradict_themselves(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        coreset_request("random", 1, **arguments)
    with pytest.raises(TypeError, match="parameter neighbours must be a number"):
        CoresetMethod("query", neighbours=[1])  # type: ignore[arg-type]


def test_methods_and_samplers_are_values() -> None:
    method = CoresetMethod("facility_location", neighbours=32)
    assert repr(method) == "CoresetMethod('facility_location', neighbours=32)"
    assert str(method) == "facility_location(neighbours=32)"
    assert str(Sampler("top")) == "top"
    assert method == CoresetMethod("facility_location", neighbours=32)
    assert len({method, CoresetMethod("facility_location", neighbours=32)}) == 1
    named: set[object] = {CoresetMethod("top"), Sampler("top")}
    assert len(named) == 2


@given(st.lists(st.integers(1, 256), min_size=1, max_size=40), st.integers(1, 1000))
def test_signal_chunks(lengths: list[int], columns: int) -> None:
    ids = StringColumn.of([f"{n}".ljust(length, "x") for n, length in enumerate(lengths)])
    values = np.random.default_rng(0).random((len(ids), columns), dtype=np.float32)
    upload = signals.Upload(pb.SignalHeader(), ids, values)
    header, *chunks = list(upload)
    digest = hashlib.sha256()
    for message in chunks:
        chunk = message.chunk
        digest.update(chunk.item_ids.data + chunk.item_ids.offsets + chunk.values)
    assert header.header.sha256 == digest.digest()
    assert StringColumn.joined(message.chunk.item_ids for message in chunks) == ids
    assert b"".join(message.chunk.values for message in chunks) == values.tobytes()
    sizes = [message.ByteSize() for message in chunks]
    assert max(sizes) <= 1 << 20
    assert all(size >= 256 << 10 for size in sizes[:-1])
    assert [m.SerializeToString() for m in upload] == [
        m.SerializeToString() for m in (header, *chunks)
    ]


def test_signals_must_fit_their_ids() -> None:
    with pytest.raises(ValueError, match="for 2 items, got shape"):
        Driver(add_all).run(signals.put_signals("p", "n", ["a", "b"], np.zeros(3)))


@pytest.mark.parametrize("wrong", [0.5, -1, np.nan, np.inf, 2**31, "cat"])
def test_classes_are_whole_numbers(wrong: float | str) -> None:
    values: Any = [0, wrong]
    put = signals.put_signals("p", "n", ["a", "b"], values, kind="class")
    with pytest.raises(ValueError, match="classes must be whole numbers"):
        Driver(add_all).run(put)


def test_whole_numbers_of_any_type_are_classes() -> None:
    driver = Driver(lambda _name, _request: pb.PutSignalsResponse())
    for values in ([2, 0], np.array([2.0, 0.0]), np.array([2, 0], np.uint8)):
        driver.run(signals.put_signals("p", "n", ["a", "b"], values, kind="class"))
    for send in driver.sent:
        _, message = list(send.request)  # type: ignore[call-overload]
        assert np.frombuffer(message.chunk.values, "<i4").tolist() == [2, 0]


def test_update_masks_what_is_given() -> None:
    driver = Driver(failing([], pb.UpdateSessionResponse()))
    driver.run(configure.update_session("s", strategy="margin", label_budget=None))
    request: Any = driver.sent[0].request
    assert list(request.update_mask.paths) == ["strategy", "label_budget"]
    assert not request.config.HasField("label_budget")


def test_pages_are_followed() -> None:
    def answer(_name: str, request: Any) -> Message:
        number = int(request.page_token or 0)
        following = str(number + 1) if number < 2 else ""
        return pb.ListSessionsResponse(
            sessions=[pb.Session(session_id=f"s{number}")], next_page_token=following
        )

    driver = Driver(answer)
    driver.run(session.list_sessions())
    assert [found.session_id for found in driver.emitted] == ["s0", "s1", "s2"]


def test_numbers_that_a_float32_cannot_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="too large for a float32"):
        Driver(lambda _name, _request: iter([])).run(signals.put_signals("p", "s", ["a"], [1e39]))
    with pytest.raises(TypeError, match="expected several strings"):
        Driver(lambda _name, _request: iter([])).run(signals.put_signals("p", "s", "ab", [1, 2]))
