"""What Prometheus gets from a real server: every metric, well formed, true before and after."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.fixtures.servers import Pools, ServerProcess, is_spam, serve_options

from coresift.client import Client, NotFound
from coresift.server.metrics import Metrics
from coresift.server.metrics.catalogue import Spec
from coresift.server.pool.pool import Pool
from coresift.server.state.embedded import EmbeddedRedis
from coresift.v1 import selection_pb2 as pb
from coresift.v1 import selection_pb2_grpc

WAIT_S = 30.0


def scrape(server: ServerProcess) -> str:
    with urlopen(f"http://{server.metrics}/metrics") as answer:
        text: str = answer.read().decode()
    return text


def until(is_so: Callable[[], bool], what: str) -> None:
    ends = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < ends, what
        time.sleep(0.02)


def promtool() -> str:
    """Its path; skips where it is not to be had, unless it must be."""
    found = shutil.which("promtool")
    if found is None:
        assert not os.environ.get("CORESIFT_REQUIRE_TOOLS"), "promtool must be on the PATH"
        pytest.skip("promtool is not on the PATH (Debian: prometheus)")
    return found


@pytest.fixture(scope="module")
def used(pools: Pools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of its own that has had some of everything."""
    folder = tmp_path_factory.mktemp("used")
    options = serve_options(pools, folder / "artifacts", "--data-dir", folder / "data")
    with ServerProcess(*options) as server, Client(server.listen) as client:
        session = client.create_session("things", session_id="one")
        client.create_session("things", session_id="two")
        for size in (30, 7):
            batch = client.next_batch(session, "ann", size)
            if size == 30:
                client.add_labels(session, {i: is_spam(i) for i in batch.item_ids}, "ann")
        client.progress(session)
        client.score_coreset("random", 3, pool="things", request_id="job")
        with pytest.raises(NotFound):
            client.get_session("nobody")
        leases = 'coresift_leases_active{pool="things"}'
        until(lambda: server.samples().get(leases) == 7, "the leases are seen")
        yield server


def test_every_metric_is_there_as_it_was_declared(used: ServerProcess) -> None:
    families = {family.name: family for family in text_string_to_metric_families(scrape(used))}
    for spec in Metrics().catalogue.specs:
        family = families[spec.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (spec.kind, spec.meaning)
        names = {name for name, _ in spec.labels}
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == names, sample
            check_values(spec, sample.labels)


def check_values(spec: Spec, found: dict[str, str]) -> None:
    for name, values in spec.labels:
        if not isinstance(values, str):
            assert found[name] in values, spec.name
        elif name == "pool":
            assert found[name] in {"things", "growing", "large"}, spec.name


def test_values(used: ServerProcess, pools: Pools) -> None:
    found = used.samples()
    assert found["coresift_ready"] == found["coresift_redis_up"] == 1
    assert found['coresift_sessions{pool="things"}'] == 2
    assert found['coresift_sessions{pool="large"}'] == 0
    assert found["coresift_redis_memory_bytes"] > 100_000
    assert found["coresift_redis_memory_limit_bytes"] == 0
    pool = Pool.open(pools.things.directory)
    labels = f'{{pool="things",version="{pool.manifest.version}"}}'
    assert found[f"coresift_pool_items{labels}"] == 600
    assert found[f"coresift_pool_index_bytes{labels}"] == pool.nbytes()
    assert 0 < found[f"coresift_pool_load_seconds{labels}"] < 60
    pool.close()
    # NextBatch, GetSessionProgress; CreateSession, AddLabels, GetSession; ScoreCoreset.
    for call_class, calls in (("selecting", 3), ("state", 4), ("attached", 1), ("reading", 0)):
        waited = f'{{call_class="{call_class}"}}'
        assert found[f"coresift_call_queue_seconds_count{waited}"] == calls
        assert found[f"coresift_calls_open{waited}"] == 0
    assert found['coresift_coreset_jobs_total{end="finished",method="random"}'] == 1
    assert found['coresift_stage_seconds_count{stage="fit"}'] >= 1
    assert found['coresift_redis_errors_total{operation="claim"}'] == 0
    assert found['coresift_redis_call_seconds_count{operation="usage"}'] >= 2
    assert found["coresift_redis_wait_shortfalls_total"] == 0
    assert not [name for name in found if name.startswith("coresift_gpu")]
    for name in ("process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds_total"):
        assert found[name] > 0
    assert 'python_gc_collections_total{generation="2"}' in found
    assert not [name for name in found if name.split("{")[0].endswith("_created")]


def test_promtool_finds_nothing_to_say(used: ServerProcess) -> None:
    found = subprocess.run(
        [promtool(), "check", "metrics"],
        input=scrape(used),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_redis_away(pools: Pools, tmp_path: Path) -> None:
    """The server says so, and stays ready."""
    redis = EmbeddedRedis(tmp_path / "redis")
    asyncio.run(redis.start())
    stopped = False
    try:
        options = serve_options(pools, tmp_path / "artifacts", "--state", redis.url)
        with ServerProcess(*options) as server, Client(server.listen, max_attempts=1) as client:
            asyncio.run(redis.stop())
            stopped = True
            with pytest.raises(Exception, match="state store"):
                client.get_session("any")
            assert server.samples()["coresift_redis_up"] == 0
            assert server.samples()["coresift_ready"] == 1
            errors = 'coresift_redis_errors_total{operation="read"}'
            assert server.samples()[errors] >= 1
    finally:
        if not stopped:
            asyncio.run(redis.stop())


def test_metrics_are_served_to_the_end_of_the_drain(
    pools: Pools, redis_url: str, tmp_path: Path
) -> None:
    """Not ready from the first moment of it."""
    options = ["--pool", pools.things.directory, "--state", redis_url, "--artifacts", tmp_path]
    server, seen = ServerProcess(*options, "--drain-s", "20").start(), threading.Event()

    def parts() -> Iterator[pb.PutSignalsRequest]:
        """A header, then nothing until the drain was seen; such an upload is refused."""
        header = pb.SignalHeader(request_id="r", name="s", pool="things", columns=["c"])
        header.kind, header.count, header.sha256 = pb.SIGNAL_KIND_NUMBER, 600, bytes(32)
        yield pb.PutSignalsRequest(header=header)
        seen.wait(WAIT_S)

    try:
        with grpc.insecure_channel(server.listen) as channel:
            stub = selection_pb2_grpc.SelectionServiceStub(channel)
            call = stub.PutSignals.future(parts(), timeout=WAIT_S)
            opened = 'coresift_calls_open{call_class="uploading"}'
            until(lambda: server.samples()[opened] == 1, "the upload is under way")
            assert server.samples()["coresift_ready"] == 1
            server.terminate()
            until(lambda: server.samples()["coresift_ready"] == 0, "it leaves")
            assert server.samples()[opened] == 1
            seen.set()
            assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert server.wait() == 0
    finally:
        seen.set()
        if server.process.poll() is None:
            server.kill()
