"""What operators see: health names, reflection, metrics, one line of log a call."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.fixtures.servers import Pools, ServerProcess, is_spam, serve_options

from coresift.client import Client, InvalidInput, NotFound
from coresift.server.state.embedded import EmbeddedRedis
from coresift.v1 import selection_pb2 as pb

SERVICE = "coresift.v1.SelectionService"
SERVING = health_pb2.HealthCheckResponse.SERVING


def test_health_names(channel: grpc.Channel, client: Client) -> None:
    assert list(client.list_pools())
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", SERVICE, "readiness", "liveness", "state"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == SERVING, name
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="sea"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_state_is_its_own_health_and_readiness_stays(pools: Pools, tmp_path: Path) -> None:
    """Redis goes away: ``state`` says so, readiness does not, and calls are refused at once."""
    redis = EmbeddedRedis(tmp_path / "redis")
    asyncio.run(redis.start())
    try:
        options = serve_options(pools, tmp_path / "artifacts", "--state", redis.url)
        with ServerProcess(*options) as server, grpc.insecure_channel(server.listen) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(service="state"))
            assert next(watch).status == SERVING
            with Client(server.listen, max_attempts=1) as client:
                os.kill(redis.pid, signal.SIGSTOP)
                try:
                    with pytest.raises(Exception, match="does not answer") as caught:
                        client.get_session("any")
                    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
                finally:
                    os.kill(redis.pid, signal.SIGCONT)
                assert caught.value.reason == "STATE_UNAVAILABLE"  # type: ignore[attr-defined]
                assert caught.value.retry_after is not None  # type: ignore[attr-defined]
                assert len(list(client.list_pools())) == 4
            ready = health.Check(health_pb2.HealthCheckRequest(service="readiness"))
            assert ready.status == SERVING
            assert next(watch).status == SERVING
            watch.cancel()
    finally:
        asyncio.run(redis.stop())


def services(channel: grpc.Channel) -> set[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    [answer] = stub.ServerReflectionInfo(iter([request]))
    return {service.name for service in answer.list_services_response.service}


def test_reflection_by_flag(channel: grpc.Channel, pools: Pools, tmp_path: Path) -> None:
    assert SERVICE in services(channel)
    options: list[str | Path] = ["--pool", pools.things.directory, "--data-dir", tmp_path]
    with ServerProcess(*options) as server, grpc.insecure_channel(server.listen) as silent:
        with pytest.raises(grpc.RpcError) as caught:
            services(silent)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def use_everything(client: Client, pools: Pools, secret: str) -> list[str]:
    """A session, a batch, labels, a head, a search, a core-set, a refusal; with telling names.

    Returns the labelled items.
    """
    session = client.create_session("things", session_id=f"session-{secret}")
    batch = client.next_batch(session, f"annotator-{secret}", 20)
    truth = {i: is_spam(i) for i in batch.item_ids}
    client.add_labels(session, truth, f"annotator-{secret}", batch=batch)
    client.next_batch(session, f"annotator-{secret}", 3)
    client.renew_leases(session, f"annotator-{secret}")
    client.predict(session, top=3)
    client.search_pool("things", item_id="item-7")
    client.score_coreset("random", 3, pool="things", request_id=f"job-{secret}")
    client.put_signals("growing", f"signal-{secret}", pools.grown.item_ids, [0.0] * 240)
    with pytest.raises(NotFound):
        client.add_labels(session, {f"item-{secret}": "positive"}, f"annotator-{secret}")
    with pytest.raises(InvalidInput):
        client.next_batch(session, f"annotator-{secret}", 5_000)
    return list(truth)


def test_metrics(client: Client, service: ServerProcess, pools: Pools) -> None:
    secret = uuid4().hex
    before = service.samples()
    labelled = use_everything(client, pools, secret)
    after = service.samples()

    def grew(name: str, by: float = 1) -> None:
        assert after.get(name, 0) - before.get(name, 0) == pytest.approx(by), name

    unary = f'grpc_method="%s",grpc_service="{SERVICE}",grpc_type="unary_unary"'
    stream = f'grpc_method="%s",grpc_service="{SERVICE}",grpc_type="unary_stream"'
    upload = f'grpc_method="%s",grpc_service="{SERVICE}",grpc_type="stream_unary"'
    for kind, method, count in (
        (unary, "CreateSession", 1),
        (unary, "NextBatch", 3),
        (unary, "AddLabels", 2),
        (stream, "Predict", 1),
        (stream, "ScoreCoreset", 1),
        (upload, "PutSignals", 1),
    ):
        labels = kind % method
        grew(f"grpc_server_started_total{{{labels}}}", count)
        grew(f"grpc_server_handling_seconds_count{{{labels}}}", count)
    for code, method in (
        ("OK", "CreateSession"),
        ("NOT_FOUND", "AddLabels"),
        ("INVALID_ARGUMENT", "NextBatch"),
    ):
        grew(f'grpc_server_handled_total{{grpc_code="{code}",{unary % method}}}')
    grew('coresift_leases_total{event="granted",pool="things"}', 23)
    grew('coresift_leases_total{event="renewed",pool="things"}', 3)
    said = [is_spam(item_id) for item_id in labelled]
    for answer in ("positive", "negative"):
        name = f'coresift_labels_total{{answer="{answer}",outcome="new",pool="things"}}'
        grew(name, said.count(answer))
    grew('coresift_batches_total{phase="cold_start",pool="things"}')
    grew('coresift_batches_total{phase="selecting",pool="things"}')
    grew('coresift_head_age_seconds_count{pool="things"}', 2)
    for stage in ("fit", "score", "claim"):
        name = f'coresift_stage_seconds_count{{stage="{stage}"}}'
        assert after[name] > before.get(name, 0)
    name = 'coresift_candidates_items_count{pool="things"}'
    assert after[name] > before[name]
    assert any(name.startswith("coresift_redis_call_seconds_count") for name in after)
    assert any(name.startswith("coresift_build_info") for name in after)


def test_labels_of_metrics_are_few_and_tell_nobodys_name(
    client: Client, service: ServerProcess, pools: Pools
) -> None:
    secret = uuid4().hex
    use_everything(client, pools, secret)
    before = set(service.samples())
    use_everything(client, pools, uuid4().hex)
    after = set(service.samples())
    assert before == after
    assert secret not in "".join(after)
    values = set(re.findall(r'(\w+)="([^"]*)"', "".join(after)))
    assert not [value for _, value in values if value.startswith("item-")]
    methods = {m.name for m in pb.DESCRIPTOR.services_by_name["SelectionService"].methods}
    assert {value for key, value in values if key == "grpc_method"} <= methods


def test_one_line_of_log_a_call(service: ServerProcess, client: Client) -> None:
    session = client.create_session("things", session_id=f"log/{uuid4()}").session_id
    client.get_session(session)
    with pytest.raises(InvalidInput):
        client.next_batch(session, "ann", 5_000)
    list(client.list_labels(session))

    def is_last(event: dict[str, object]) -> bool:
        return event.get("session_id") == session and event.get("method") == "ListLabels"

    service.wait_for(is_last)
    calls = [event for event in service.events if event.get("session_id") == session]
    assert [(call["method"], call["code"]) for call in calls] == [
        ("CreateSession", "OK"),
        ("GetSession", "OK"),
        ("NextBatch", "INVALID_ARGUMENT"),
        ("ListLabels", "OK"),
    ]
    assert calls[2]["reason"] == "INVALID_FIELD"
    for call in calls:
        assert {"event", "level", "timestamp", "ms", "peer"} <= call.keys()
        assert call["event"] == "call"
    # gRPC says it of callers that compress, which other tests do.
    assert [line for line in service.other_lines if "Compression algorithm" not in line] == []
