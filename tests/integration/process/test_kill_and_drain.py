"""A server is killed, or told to stop, in the midst of work: nothing acknowledged is lost."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.fixtures.servers import Pools, ServerProcess, is_spam

from coresift.client import Client, Outcome, Phase, Unavailable

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def options(pools: Pools, folder: Path) -> list[str | Path]:
    """On the embedded default."""
    large = ("--pool", pools.large.directory)
    return ["--pool", pools.things.directory, *large, "--data-dir", folder]


def redis_of(server: ServerProcess) -> psutil.Process:
    [child] = [
        child
        for child in psutil.Process(server.process.pid).children(recursive=True)
        if "redis" in child.name()
    ]
    return child


def is_gone(process: psutil.Process) -> bool:
    """Ended, whether or not somebody asked how."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_kill_9_loses_nothing_that_was_acknowledged(pools: Pools, tmp_path: Path) -> None:
    server = ServerProcess(*options(pools, tmp_path)).start()
    redis = redis_of(server)
    acknowledged: list[dict[str, str]] = []
    enough = threading.Event()

    def label(session: str) -> None:
        """One label a call, until the server is gone."""
        with Client(server.listen, max_attempts=1) as client:
            for n in range(30_000):
                labels = {f"item-{n}": is_spam(f"item-{n}")}
                client.add_labels(session, labels, "ann")
                acknowledged.append(labels)
                if len(acknowledged) >= 60:
                    enough.set()

    try:
        with Client(server.listen) as client:
            session = client.create_session("large", session_id="survivor").session_id
            held = client.next_batch(session, "bob", 5)
        with ThreadPoolExecutor(1) as threads:
            work = threads.submit(label, session)
            assert enough.wait(60), work
            server.kill()
            with pytest.raises(Unavailable):
                work.result()
    finally:
        server.kill()
    with ServerProcess(*options(pools, tmp_path)) as second, Client(second.listen) as client:
        assert is_gone(redis)
        found = [(record.item_id, record.value) for record in client.list_labels(session)]
        told = [pair for labels in acknowledged for pair in labels.items()]
        # The one under way may have been recorded too.
        assert found[: len(told)] == told
        assert len(found) <= len(told) + 1
        assert {lease.item_id for lease in client.list_leases(session, "bob")} == set(held.item_ids)
        repeated = client.add_labels(session, acknowledged[0], "ann")
        assert repeated.outcomes == (Outcome.UNCHANGED,)
        assert client.next_batch(session, "ann", 9).phase is Phase.SELECTING


def test_a_second_server_on_the_directory_is_refused(pools: Pools, tmp_path: Path) -> None:
    with ServerProcess(*options(pools, tmp_path)) as first, Client(first.listen) as client:
        session = client.create_session("things")
        second = ServerProcess(*options(pools, tmp_path)).launch()
        assert second.wait() == 1
        [line] = second.other_lines
        assert f"in use by another server (pid {first.process.pid})" in line
        assert client.get_session(session) == session
        assert client.add_labels(session, {"item-1": "positive"}, "ann").outcomes
        redis = redis_of(first)
    assert first.process.returncode == 0
    assert is_gone(redis)


class Burst:
    """Callers that call without end; what became of their calls, and when."""

    def __init__(self, threads: ThreadPoolExecutor, calls: list[Callable[[], object]]) -> None:
        self.stop, self.done, self.warm = threading.Event(), 0, threading.Event()
        self.failures: list[tuple[float, Exception]] = []
        self._lock = threading.Lock()
        self._callers: list[Future[None]] = [threads.submit(self._call, call) for call in calls]

    def _call(self, call: Callable[[], object]) -> None:
        while not self.stop.is_set():
            began = time.monotonic()
            try:
                call()
            except Exception as error:
                self.failures.append((began, error))
                return
            with self._lock:
                self.done += 1
                if self.done >= 100:
                    self.warm.set()

    def wait(self) -> None:
        for caller in self._callers:
            caller.result()


def test_sigterm_loses_no_call(pools: Pools, tmp_path: Path) -> None:
    """Callers that do not retry call to the very end: only calls begun since are refused."""
    server = ServerProcess(*options(pools, tmp_path)).start()
    acknowledged: list[str] = []
    with (
        Client(server.listen, max_attempts=1) as client,
        grpc.insecure_channel(server.listen) as channel,
        ThreadPoolExecutor(8) as threads,
    ):
        session = client.create_session("large").session_id

        def label(offset: int) -> Callable[[], object]:
            items = iter(f"item-{n}" for n in range(offset, 30_000, 3))

            def call() -> None:
                item = next(items)
                client.add_labels(session, {item: is_spam(item)}, "ann")
                acknowledged.append(item)

            return call

        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service="readiness")
        )
        next(watch)
        reads = [lambda: list(client.list_labels(session)), lambda: client.get_session(session)]
        burst = Burst(threads, [*map(label, range(3)), *reads])
        assert burst.warm.wait(60)
        began = time.monotonic()
        server.terminate()
        assert next(watch).status == NOT_SERVING
        watch.cancel()  # a call like any other: the server would wait for its end
        code = server.wait()
        took = time.monotonic() - began
        burst.stop.set()
        burst.wait()
    assert code == 0
    assert took < 10
    for start, error in burst.failures:
        assert isinstance(error, Unavailable), error
        assert start >= began
    assert any(event.get("event") == "draining" for event in server.events)
    assert {event["level"] for event in server.events} == {"info"}
    assert server.other_lines == []
    with ServerProcess(*options(pools, tmp_path)) as again, Client(again.listen) as client:
        records = [record.item_id for record in client.list_labels(session)]
    assert sorted(records) == sorted(acknowledged)


def test_a_client_of_two_replicas_notices_nothing(
    pools: Pools, redis_url: str, tmp_path: Path
) -> None:
    """The client takes replicas in turn, but for a session, and leaves one that drains."""
    common: list[str | Path] = ["--pool", pools.things.directory, "--state", redis_url]
    common += ["--artifacts", tmp_path]
    with ServerProcess(*common) as staying:
        leaving = ServerProcess(*common).start()
        try:
            target = f"ipv4:{staying.listen},{leaving.listen}"
            with Client(target, max_attempts=1) as client, ThreadPoolExecutor(4) as threads:
                session = client.create_session("things").session_id
                reads = [lambda: client.get_session(session), lambda: client.get_pool("things")]
                burst = Burst(threads, reads * 2)
                assert burst.warm.wait(60)
                while burst.done < 300 and not burst.failures:
                    pass
                leaving.terminate()
                assert leaving.wait() == 0
                before = burst.done
                while burst.done < before + 50 and not burst.failures:
                    pass
                burst.stop.set()
                burst.wait()
            assert burst.failures == []
        finally:
            if leaving.process.poll() is None:
                leaving.kill()
    served = [
        sum(event.get("method") == "GetPool" for event in server.events)
        for server in (staying, leaving)
    ]
    assert min(served) > 20


def test_interrupted_by_hand(pools: Pools, tmp_path: Path) -> None:
    server = ServerProcess(*options(pools, tmp_path)).start()
    server.process.send_signal(signal.SIGINT)
    assert server.wait() == 0
    assert server.other_lines == []
