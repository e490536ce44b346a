"""The log of a server: who did what to which session in which trace, and no names if so wished."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from tests.fixtures.access import METHODS, As
from tests.fixtures.pools import write_inputs
from tests.fixtures.servers import ServerProcess, clustered
from tests.unit.rpc.test_call_facts import filled

from coresift.client import Client, InvalidInput, NotFound
from coresift.server.pool.builder import BuildOptions, build_pool
from coresift.v1 import selection_pb2 as pb

KEY = "a-key-that-all-replicas-share"
ITEM, ANNOTATOR, REQUEST = "secretitem", "secretannotator", "secretrequest"
ITEMS = 60
DEFECT = f"{ITEM}-7"
"""Whoever labels it meets a defect."""
DEFECTS = f"""
import asyncio, logging, threading, warnings
import structlog
from coresift.server.session.labeling import Labeling

real = Labeling.add_labels

def fail(names):
    raise LookupError(names) from KeyError(names)

async def fail_later(names):
    fail(names)

async def add_labels(self, live, identity, annotator, labels):
    if labels[0].item_id == {DEFECT!r}:
        names = f"{{annotator}} {{labels[0].item_id}}"
        asyncio.get_running_loop().call_soon(fail, names)
        asyncio.create_task(fail_later(names), name=names)
        await asyncio.sleep(0.01)  # both have failed, nobody has looked
        thread = threading.Thread(target=fail, args=(names,))
        thread.start()
        thread.join()
        logging.getLogger("library").error("lost %r", names)
        structlog.get_logger().warning("purge postponed", error=repr(KeyError(names)))
        fail(names)
    return await real(self, live, identity, annotator, labels)

Labeling.add_labels = add_labels
"""


@dataclass(frozen=True)
class Site:
    """What a server of these tests is started with."""

    pool: Path
    redis_url: str
    folder: Path

    def server(self, *options: str) -> ServerProcess:
        artifacts: list[str | Path] = ["--artifacts", self.folder]
        return ServerProcess("--pool", self.pool, "--state", self.redis_url, *artifacts, *options)


@pytest.fixture(scope="module")
def site(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("logs")
    X = clustered(ITEMS, 3)
    files = write_inputs(folder, X, [f"{ITEM}-{n}" for n in range(len(X))])
    build_pool(BuildOptions(files, folder / "pool", name="named"))
    return Site(folder / "pool", redis_url, folder / "artifacts")


def digest(name: str) -> str:
    return hmac.new(KEY.encode(), name.encode(), hashlib.sha256).hexdigest()[:16]


def calls_of(server: ServerProcess, session: str) -> list[dict[str, Any]]:
    return [
        event
        for event in server.events
        if event.get("session_id") == session and event["event"] == "call"
    ]


def drive(client: Client, session: str) -> None:
    """Good calls and bad ones, with names in every place where one may stand."""
    client.create_session("named", session_id=session, request_id=f"{REQUEST}/{session}/1")
    batch = client.next_batch(session, ANNOTATOR, size=4, include_metadata=True)
    sides = ("positive", "negative", "positive", "negative")
    labels = dict(zip(batch.item_ids, sides, strict=True))
    labels.pop(DEFECT, None)
    client.add_labels(session, labels, ANNOTATOR, batch=batch, request_id=f"{REQUEST}/{session}/2")
    second = client.next_batch(session, ANNOTATOR, size=2)
    client.renew_leases(session, ANNOTATOR, second.item_ids)
    client.release_leases(session, ANNOTATOR, second.item_ids)
    list(client.list_leases(session, ANNOTATOR))
    list(client.list_labels(session))
    list(client.list_consensus(session))
    client.predict(session, items=[f"{ITEM}-1", f"{ITEM}-2"])
    client.search_pool("named", item_id=f"{ITEM}-1", count=3)
    client.get_items("named", [f"{ITEM}-1"])
    client.score_coreset("k_center", 5, pool="named", start_item_ids=[f"{ITEM}-1"])
    ids = [f"{ITEM}-{n}" for n in range(ITEMS)]
    client.put_signals("named", f"s{uuid4().hex}", ids, np.ones(ITEMS, np.float32))
    client.erase_annotator(session, ANNOTATOR)
    with pytest.raises(NotFound):
        client.add_labels(session, {f"{ITEM}-none": "positive"}, ANNOTATOR)
    with pytest.raises(NotFound):
        client.search_pool("named", item_id=f"{ITEM}-none", count=3)
    with pytest.raises(NotFound):
        client.add_labels(f"none-{session}", {f"{ITEM}-1": "positive"}, ANNOTATOR)
    with pytest.raises(InvalidInput):
        client.add_labels(session, {f"{ITEM}-1": f"{ITEM}-as-a-class"}, ANNOTATOR)
    with pytest.raises(InvalidInput):
        client.next_batch(session, ANNOTATOR, size=5_000)


def fill_in(session: str) -> Iterator[tuple[str, list[Message]]]:
    """Every RPC with names in all its fields, which none of them can do anything with."""
    for method, kind in METHODS.items():
        for variant in range(3):
            message = filled(kind.input_type, f"{ANNOTATOR}/{ITEM}", variant)
            for part in ("", "header", "config"):
                inner = getattr(message, part, None) if part else message
                for field, value in (("session_id", session), ("pool", "named")):
                    if inner is not None and field in inner.DESCRIPTOR.fields_by_name:
                        setattr(inner, field, value)
            yield method, [message]


@pytest.fixture
def defects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that a test starts fail in every way when an item is labelled."""
    (tmp_path / "sitecustomize.py").write_text(DEFECTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.usefixtures("defects")
def test_with_hashes_no_name_is_in_the_log(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORESIFT_LOG_HASH_KEY", KEY)
    session = f"s-{uuid4()}"
    with site.server("--log-hash") as server:
        with Client(server.listen, max_attempts=1) as client:
            drive(client, session)
            with pytest.raises(Exception, match="a defect of the server, incident"):
                client.add_labels(session, {DEFECT: "positive"}, ANNOTATOR)
        with grpc.insecure_channel(server.listen) as channel:
            anyone = As(channel, None)
            for method, requests in fill_in(session):
                try:
                    anyone(method, *requests)
                except grpc.RpcError:
                    continue
        server.terminate()
        assert server.wait() == 0
    everything = "\n".join([*map(json.dumps, server.events), *server.other_lines])
    for name in (ITEM, ANNOTATOR, REQUEST):
        assert name not in everything
    assert server.other_lines == []
    events = {event["event"] for event in server.events}
    assert {"incident", "a thread crashed", "Task exception was never retrieved..."} <= events
    assert any(event.startswith("Exception in callback") for event in events)
    [incident] = [event for event in server.events if event["event"] == "incident"]
    assert incident["exception"][0]["exc_type"] == "LookupError"
    calls = calls_of(server, session)
    assert {call["annotator"] for call in calls if "annotator" in call} >= {digest(ANNOTATOR)}
    assert {call.get("item_id") for call in calls} == {None, digest(f"{ITEM}-none")}
    assert digest(f"{REQUEST}/{session}/2") in {call.get("request_id") for call in calls}
    [failed] = [call for call in calls if call["code"] == "INTERNAL"]
    assert failed["incident"] == incident["incident"]


def test_who_did_what_and_when(site: Site) -> None:
    session, hidden = f"s-{uuid4()}", f"p-{uuid4()}"
    trace, span = uuid4().hex, uuid4().hex[:16]
    headers = (("traceparent", f"00-{trace}-{span}-01"), ("x-request-id", "req-1"))
    with site.server() as server:
        with Client(server.listen, max_attempts=1) as client:
            drive(client, session)
            client.create_session("named", session_id=hidden, pseudonymous=True)
            client.next_batch(hidden, f"{ANNOTATOR}-hidden", size=1)
        with grpc.insecure_channel(server.listen) as channel:
            method = channel.unary_unary("/coresift.v1.SelectionService/GetSession")
            request = pb.GetSessionRequest(session_id=session)
            method(request.SerializeToString(), metadata=headers, timeout=20)
            with pytest.raises(grpc.RpcError):
                method(b"\xff", metadata=headers, timeout=20)
    calls = calls_of(server, session)
    added, missing, foreign = [call for call in calls if call["method"] == "AddLabels"]
    assert (added["annotator"], added["items"], added["revision"]) == (ANNOTATOR, 4, 3)
    assert (added["request_id"], added["code"], added["level"]) == (
        f"{REQUEST}/{session}/2",
        "OK",
        "info",
    )
    assert (missing["code"], missing["reason"]) == ("NOT_FOUND", "ITEM_NOT_FOUND")
    assert (missing["field"], missing["item_id"]) == ("labels[0].item_id", f"{ITEM}-none")
    assert (foreign["reason"], foreign["field"]) == ("UNKNOWN_CLASS", "labels[0].class_name")
    batches = [call for call in calls if call["method"] == "NextBatch"]
    assert [call.get("phase") for call in batches] == ["COLD_START", "SELECTING", None]
    assert [(call["size"], call.get("items")) for call in batches] == [(4, 4), (2, 2), (5000, None)]
    [read] = [call for call in calls if call.get("trace_id") == trace and call["code"] == "OK"]
    assert (read["span_id"], read["x_request_id"], read["method"]) == (span, "req-1", "GetSession")
    wrong = [event for event in server.events if event.get("trace_id") == trace]
    assert [event["code"] for event in wrong] == ["OK", "INVALID_ARGUMENT"]
    log = "\n".join(map(json.dumps, server.events))
    assert f"{ANNOTATOR}-hidden" not in log  # its session keeps pseudonyms
    assert f"{ITEM}-as-a-class" not in log
    [erased] = [call for call in calls if call["method"] == "EraseAnnotator"]
    assert "annotator" not in erased


def test_failed_calls_alone_and_a_warning_without_a_key(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CORESIFT_LOG_HASH_KEY", raising=False)
    session = f"s-{uuid4()}"
    with (
        site.server("--log-hash", "--log-calls", "failed") as server,
        Client(server.listen) as client,
    ):
        drive(client, session)
    assert {call["code"] for call in calls_of(server, session)} == {"NOT_FOUND", "INVALID_ARGUMENT"}
    assert server.events[0]["level"] == "warning"
    assert "CORESIFT_LOG_HASH_KEY" in server.events[0]["event"]


def test_a_short_key_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORESIFT_LOG_HASH_KEY", "short")
    server = site.server("--log-hash").launch()
    assert server.wait() == 1
    [line] = server.other_lines
    assert "CORESIFT_LOG_HASH_KEY must have at least 16 bytes, got 5" in line
    assert "short" not in line
