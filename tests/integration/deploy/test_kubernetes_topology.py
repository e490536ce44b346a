"""What stands beside what: networks, services, budgets, replicas and the store that they share."""

from __future__ import annotations

from itertools import chain

import pytest
from tests.integration.deploy.manifests import (
    SERVING,
    of_kind,
    one,
    resources,
    selects,
    server,
    settings,
    workloads,
)


@pytest.mark.parametrize("overlay", SERVING)
def test_network_is_closed_but_for_what_is_named(overlay: str) -> None:
    found = resources(overlay)
    policies = {
        policy["metadata"]["name"]: policy["spec"] for policy in of_kind(found, "NetworkPolicy")
    }
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    pods = [work.labels for work in workloads(found)]
    for name, policy in policies.items():
        assert any(selects(policy["podSelector"], labels) for labels in pods), name
        for rule in chain(policy.get("ingress", ()), policy.get("egress", ())):
            assert rule["ports"], name  # never every port
            for peer in chain(rule.get("from", ()), rule.get("to", ())):
                assert peer.get("podSelector") != {}, name
                assert peer.get("namespaceSelector") != {}, name
                own = peer.get("podSelector")
                if own is not None and "namespaceSelector" not in peer:
                    assert any(selects(own, labels) for labels in pods), (name, own)
    for rule in policies["server"]["ingress"]:
        assert rule["from"], "the server is open to nobody in general"


@pytest.mark.parametrize("overlay", SERVING)
def test_who_needs_redis_may_reach_it(overlay: str) -> None:
    """Both ends of the way: out of the server, into Redis."""
    found = resources(overlay)
    labels = {work.name: work.labels for work in workloads(found)}
    policies = {p["metadata"]["name"]: p["spec"] for p in of_kind(found, "NetworkPolicy")}
    out = policies["server-to-redis"]
    assert selects(out["podSelector"], labels["Deployment/coresift"])
    stores = [name for name in labels if name.startswith("StatefulSet/")]
    if not stores:
        assert all("ipBlock" in peer for peer in out["egress"][0]["to"])
    for name in stores:
        assert any(selects(peer["podSelector"], labels[name]) for peer in out["egress"][0]["to"])
        into = policies["redis"]
        assert selects(into["podSelector"], labels[name])
        came = into["ingress"][0]["from"]
        assert any(selects(p["podSelector"], labels["Deployment/coresift"]) for p in came)
    if len(stores) > 1:  # Redis and sentinels, among themselves
        for source in stores:
            for way, side in (("ingress", "from"), ("egress", "to")):
                peers = policies["redis"][way][0][side]
                assert any(selects(peer["podSelector"], labels[source]) for peer in peers)


@pytest.mark.parametrize("overlay", SERVING)
def test_selectors_find_what_they_mean(overlay: str) -> None:
    found = resources(overlay)
    pods = {work.name: work for work in workloads(found)}
    for service in of_kind(found, "Service"):
        selector = {"matchLabels": service["spec"]["selector"]}
        [work] = [work for work in pods.values() if selects(selector, work.labels)]
        named = {port["name"] for c in work.containers for port in c.get("ports", ())}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named
    for budget in of_kind(found, "PodDisruptionBudget"):
        [work] = [w for w in pods.values() if selects(budget["spec"]["selector"], w.labels)]
        assert budget["spec"]["maxUnavailable"] == 1
    for scaler in of_kind(found, "HorizontalPodAutoscaler"):
        assert scaler["spec"]["scaleTargetRef"]["name"] == "coresift"
    for work in pods.values():
        for rule in work.pod.get("topologySpreadConstraints", ()):
            assert selects(rule["labelSelector"], work.labels), work.name
    headless = one(found, "Service", "coresift-headless")["spec"]
    normal = one(found, "Service", "coresift")["spec"]
    assert headless["clusterIP"] == "None"
    assert normal["type"] == "ClusterIP"
    assert headless["selector"] == normal["selector"]


@pytest.mark.parametrize("overlay", SERVING)
def test_replicas_share_one_store(overlay: str) -> None:
    """Several servers never start on stores of their own."""
    work, found = server(overlay), resources(overlay)
    [container] = work.pod["containers"]
    [state] = [entry for entry in container["env"] if entry["name"] == "CORESIFT_STATE"]
    secret = state["valueFrom"]["secretKeyRef"]
    assert not secret.get("optional", False), "without the secret the pod does not start"
    scalers = of_kind(found, "HorizontalPodAutoscaler")
    replicas = work.resource["spec"].get("replicas")
    assert (replicas is None) == bool(scalers), "either the manifest or the autoscaler says it"
    least = replicas or scalers[0]["spec"]["minReplicas"]
    assert least >= 2
    artifacts = settings(overlay, container)["CORESIFT_ARTIFACTS"]
    if "://" not in artifacts:
        [mount] = [m for m in container["volumeMounts"] if m["mountPath"] == artifacts]
        [volume] = [v for v in work.pod["volumes"] if v["name"] == mount["name"]]
        claim = one(found, "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize("overlay", ["ha", "ha-external"])
def test_the_available_overlays_lose_nothing_in_a_failover(overlay: str) -> None:
    work = server(overlay)
    [container] = work.pod["containers"]
    given = settings(overlay, container)
    assert int(given["CORESIFT_STATE_MIN_REPLICAS"]) >= 1
    assert given["CORESIFT_ALLOW_PLAINTEXT"] == "false"
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    for name in ("CORESIFT_TLS_CERT", "CORESIFT_TLS_KEY", "CORESIFT_TOKENS"):
        folder, _, _ = given[name].rpartition("/")
        assert mounts[folder]["readOnly"] is True
    spread = work.pod["topologySpreadConstraints"]
    assert {"DoNotSchedule", "ScheduleAnyway"} == {rule["whenUnsatisfiable"] for rule in spread}


def test_redis_with_sentinels_outvotes_and_outlives_one() -> None:
    found = resources("ha")
    for name in ("coresift-redis", "coresift-sentinel"):
        spec = one(found, "StatefulSet", name)["spec"]
        assert spec["replicas"] == 3
        assert spec["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"
        [host, _] = spec["template"]["spec"]["topologySpreadConstraints"]
        assert (host["topologyKey"], host["whenUnsatisfiable"]) == (
            "kubernetes.io/hostname",
            "DoNotSchedule",
        )
