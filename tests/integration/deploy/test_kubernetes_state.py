"""The state store of the manifests: real Redis and sentinels, and what is refused."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from redis.exceptions import NoPermissionError, ResponseError
from tests.fixtures.redis_topologies import until
from tests.fixtures.servers import Pools, ServerProcess, is_spam
from tests.integration.deploy.manifests import ROOT, one, resources, server, settings
from tests.integration.deploy.redis_pods import RedisPods, secrets

from coresift.client import Client
from coresift.server.state.trial import ACL_RULE, SENTINEL_ACL_RULE


def test_a_server_of_its_own_store_under_kubernetes_warns(
    pools: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the secret, were it not required, each replica would have its own sessions."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    options = ["--pool", pools.growing.directory, "--data-dir", tmp_path]
    with ServerProcess(*options) as replica:
        warning = replica.wait_for(lambda event: event.get("level") == "warning")
    assert "replicas do not share sessions" in warning["event"]
    assert "--state redis://" in warning["event"]


def test_users_of_redis_have_the_rights_that_the_server_needs() -> None:
    for kind in ("redis", "sentinel"):
        rights = secrets(kind)["coresift-redis"]["users.acl"]
        assert ACL_RULE in rights
    assert SENTINEL_ACL_RULE in secrets("sentinel")["coresift-redis"]["sentinel-users.acl"]


def test_passwords_are_random() -> None:
    assert secrets("redis") != secrets("redis")
    for name in ("users.acl", "peer-password"):
        [first, second] = (secrets("sentinel")["coresift-redis"][name] for _ in range(2))
        assert first != second


@pytest.mark.parametrize("overlay", ["cpu", "ha"])
def test_redis_keeps_labels(overlay: str) -> None:
    """Each option once, with memory to spare for a copy of what changes in a rewrite."""
    [redis] = one(resources(overlay), "StatefulSet", "coresift-redis")["spec"]["template"]["spec"][
        "containers"
    ]
    [config] = [
        found["data"]["redis.conf"]
        for found in resources(overlay)
        if found["kind"] == "ConfigMap" and "redis.conf" in found["data"]
    ]
    lines = [shlex.split(line) for line in config.splitlines() if line[:1] not in {"", "#"}]
    told = {words[0]: " ".join(words[1:]) for words in lines}
    assert len(told) == len(lines)
    assert (told["appendonly"], told["appendfsync"]) == ("yes", "always")
    assert told["maxmemory-policy"] == "noeviction"
    limit = redis["resources"]["limits"]["memory"]
    assert 2 * float(told["maxmemory"].removesuffix("gb")) <= float(limit.removesuffix("Gi"))


def operator_may_do_what_the_runbook_says(pods: RedisPods) -> None:
    """Every command of the page, and none that reads or removes labels."""
    page = (ROOT / "deploy" / "prometheus" / "RUNBOOK.md").read_text()
    asked = {" ".join(words.split()) for words in re.findall(r"`redis-cli ([^`(]+)`", page)}
    assert {"slowlog get", "info memory", "config set maxmemory"} <= asked
    with pods.as_operator(pods.master()) as redis:
        for words in sorted(asked):
            redis.execute_command(*words.split(), *(["1gb"] if words.endswith("maxmemory") else []))
        assert redis.config_get("maxmemory") == {"maxmemory": str(1 << 30)}
        for words in (
            "keys *",
            "get coresift:x",
            "flushall",
            "acl list",
            "shutdown",
            "config rewrite",
        ):
            with pytest.raises(NoPermissionError):
                redis.execute_command(*words.split())
    of_sentinels = re.findall(r"`sentinel-cli (sentinel [^`]+)`", page)
    assert "sentinel failover coresift" in of_sentinels
    with pods.as_operator(pods.sentinels[0]) as sentinel:
        assert sentinel.execute_command("SENTINEL", "MASTERS")
        for words in of_sentinels:
            if "failover" not in words:
                sentinel.execute_command(*words.split())
        # Of a master that there is not, so that this one stays: it may, and finds none.
        with pytest.raises(ResponseError, match="No such master"):
            sentinel.execute_command("SENTINEL", "FAILOVER", "nobody")
        with pytest.raises(NoPermissionError):
            sentinel.execute_command("SENTINEL", "REMOVE", "coresift")


@pytest.mark.parametrize(
    "falls",
    [
        pytest.param(False, id="starts"),
        pytest.param(True, id="a master dies with its disk", marks=[pytest.mark.long]),
    ],
)
def test_redis_with_sentinels_as_the_manifests_start_it(
    falls: bool, pools: Pools, tmp_path: Path
) -> None:
    [container] = server("ha").pod["containers"]
    least = settings("ha", container)["CORESIFT_STATE_MIN_REPLICAS"]
    options = ["--pool", pools.things.directory, "--artifacts", tmp_path / "artifacts"]
    with RedisPods(tmp_path) as pods:
        first = pods.master()
        assert first is pods.redis[0]
        operator_may_do_what_the_runbook_says(pods)
        with (
            ServerProcess(*options, "--state", pods.url, "--state-min-replicas", least) as replica,
            Client(replica.listen) as client,
        ):
            session = client.create_session("things").session_id
            batch = client.next_batch(session, "ann", size=5)
            labels = {item: is_spam(item) for item in batch.item_ids}
            client.add_labels(session, labels, "ann", batch=batch)
            if falls:
                until(lambda: pods.replicas_in_sync() == 2, "both replicas follow")
                first.kill()
                first.lose_data()
                first.start(pods.secret)
                until(lambda: pods.master() is not first, "another is master")
                until(lambda: pods.replicas_in_sync() == 2, "the old master follows")
                assert "its data are gone" in first.says()
                batch = client.next_batch(session, "ann", size=5)
                more = {item: is_spam(item) for item in batch.item_ids}
                client.add_labels(session, more, "ann", batch=batch)
                assert not labels.keys() & more.keys()
                labels |= more
            there = {record.item_id for record in client.list_labels(session)}
            assert there == labels.keys()
