"""What the manifests promise: no root, no way out, room, probes, spread, no secrets, comments."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.integration.deploy.manifests import (
    EXAMPLES,
    KUBERNETES,
    OVERLAYS,
    ROOT,
    SERVING,
    Resource,
    Workload,
    example,
    kubectl,
    of_kind,
    one,
    resources,
    selects,
    server,
    settings,
    workloads,
)

from coresift.client.cli import build
from coresift.server.rpc.service import SERVICE

VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret", "ephemeral"}
"""Kinds of volumes that the restricted standard allows, and that hold nothing of the node."""
COMMANDS = {"serve", "probe", "export", "import", "pool", "pull"}
GIB = {"Gi": 1.0, "Mi": 1 / 1024}


def everything() -> list[tuple[str, Workload]]:
    """Every workload of every overlay and example, with where it stands."""
    found = [(overlay, work) for overlay in SERVING for work in workloads(resources(overlay))]
    return found + [(file.stem, work) for file in EXAMPLES for work in workloads(example(file))]


def gib(quantity: str) -> float:
    return float(quantity[:-2]) * GIB[quantity[-2:]]


def test_pods_meet_the_restricted_standard() -> None:
    for where, work in everything():
        pod, context = work.pod, work.pod["securityContext"]
        assert context["runAsNonRoot"] is True, (where, work.name)
        assert context["runAsUser"] > 0
        assert context["fsGroup"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & pod.keys()
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        for volume in pod.get("volumes", ()):
            assert volume.keys() - {"name"} <= VOLUMES, (where, volume)
            if "emptyDir" in volume:
                assert "sizeLimit" in volume["emptyDir"], (where, volume)
        for container in work.containers:
            allowed = container["securityContext"]
            assert allowed["allowPrivilegeEscalation"] is False
            assert allowed["readOnlyRootFilesystem"] is True
            assert allowed["capabilities"] == {"drop": ["ALL"]}
            assert "privileged" not in allowed
            assert "runAsUser" not in allowed


@pytest.mark.parametrize("overlay", SERVING)
def test_the_namespace_enforces_it(overlay: str) -> None:
    namespace = one(resources(overlay), "Namespace", "coresift")
    labels = namespace["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_containers_ask_for_what_they_may_take() -> None:
    for where, work in everything():
        for container in work.containers:
            asked, limit = (container["resources"][kind] for kind in ("requests", "limits"))
            for what in ("cpu", "memory", "ephemeral-storage"):
                assert what in asked, (where, container["name"])
                assert what in limit, (where, container["name"])
            if work.resource["kind"] in {"Deployment", "StatefulSet"}:
                if container in work.pod["containers"] and container["name"] != "sentinel":
                    # What serves is not evicted because others want memory.
                    assert asked["memory"] == limit["memory"], (where, container["name"])
                assert container["imagePullPolicy"] == "IfNotPresent"


def test_every_container_that_serves_has_three_probes() -> None:
    for where, work in everything():
        for container in work.pod["containers"]:
            if work.resource["kind"] in {"Deployment", "StatefulSet"}:
                for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                    probe = container[kind]
                    assert probe["timeoutSeconds"] <= probe["periodSeconds"], (where, kind)


@pytest.mark.parametrize("overlay", SERVING)
def test_probes_name_services_on_the_plain_port(overlay: str) -> None:
    [container] = server(overlay).pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    names = {
        kind: container[f"{kind}Probe"]["grpc"] for kind in ("startup", "readiness", "liveness")
    }
    assert {kind: probe["service"] for kind, probe in names.items()} == {
        "startup": SERVICE,
        "readiness": "readiness",
        "liveness": "liveness",
    }
    assert {probe["port"] for probe in names.values()} == {ports["health"]}
    given = settings(overlay, container)
    for option, port in (("", "grpc"), ("HEALTH_", "health"), ("METRICS_", "metrics")):
        assert given[f"CORESIFT_{option}LISTEN"].endswith(f":{ports[port]}")


def test_secrets_are_named_not_contained() -> None:
    """Mounted as folders, so that a changed one arrives; unreadable for strangers."""
    for overlay in OVERLAYS:
        assert not of_kind(resources(overlay), "Secret")
    for where, work in everything():
        for container in work.containers:
            assert not any("subPath" in m for m in container.get("volumeMounts", ())), where
        for volume in work.pod.get("volumes", ()):
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] == 0o440, (where, volume)
                assert work.pod["securityContext"]["fsGroup"] > 0


def test_images_are_pinned() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for where, work in everything():
        for container in work.containers:
            image, _, tag = container["image"].rpartition(":")
            if image.endswith("/coresift"):
                device = (
                    "gpu"
                    if (where, container["name"])
                    in {
                        ("gpu", "coresift"),
                        ("gpu", "pull-pool"),
                    }
                    else "cpu"
                )
                assert tag == f"{version}-{device}", (where, container["image"])
            else:
                assert re.fullmatch(r"\d+\.\d+\.\d+-\w+", tag), container["image"]


def test_a_gpu_is_asked_for_and_used() -> None:
    work = server("gpu")
    [container] = work.pod["containers"]
    for kind in ("requests", "limits"):
        assert container["resources"][kind]["nvidia.com/gpu"] == 1
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in work.pod[
        "tolerations"
    ]
    assert settings("gpu", container)["CORESIFT_DEVICE"] == "cuda"
    assert work.resource["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0


def options_of(*words: str) -> dict[str, set[str]]:
    """The options of a command of ``coresift``, and the environment variables that it reads."""
    found: Any = typer.main.get_command(build())
    for word in words:
        found = found.commands[word]
    return {
        "options": {name for parameter in found.params for name in parameter.opts},
        "variables": {str(p.envvar) for p in found.params if p.envvar is not None},
    }


def env_of(container: Resource) -> dict[str, str]:
    """Plain values of its environment."""
    return {e["name"]: e["value"] for e in container.get("env", ()) if "value" in e}


def words_of(container: Resource) -> list[str]:
    """The command that a container runs, without options and arguments."""
    return list(takewhile(lambda word: word in COMMANDS, container["args"]))


@pytest.mark.parametrize("overlay", SERVING)
def test_commands_and_settings_are_those_of_coresift(overlay: str) -> None:
    """No option is misspelt, and none set that nobody reads."""
    for work in workloads(resources(overlay)):
        for container in work.containers:
            if not container["image"].rpartition(":")[0].endswith("/coresift"):
                continue
            words, given = words_of(container), settings(overlay, container)
            known = options_of(*words)
            assert words, container["args"]
            used = {word for word in container["args"] if word.startswith("--")}
            assert used <= known["options"], container["args"]
            filled = set(re.findall(r"\$\((\w+)\)", " ".join(container["args"])))
            assert filled <= given.keys()
            if words == ["pool", "pull"]:
                continue  # it has the server's settings, and reads but one
            others = {"EXPORT_OUT", "CORESIFT_POOL_URI", "TMPDIR"}
            assert given.keys() <= known["variables"] | filled | others, work.name


def test_examples_run_commands_of_coresift() -> None:
    for file in EXAMPLES:
        for work in workloads(example(file)):
            for container in (c for c in work.containers if "args" in c):
                known = options_of(*words_of(container))
                used = {word for word in container["args"] if word.startswith("--")}
                assert used <= known["options"], (file.name, container["args"])


def test_temporary_files_have_a_place() -> None:
    """The image keeps them in /data; what lacks that volume has them elsewhere."""
    for where, work in everything():
        for container in (c for c in work.containers if "coresift" in c["image"]):
            mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
            if "args" in container and "/data" not in mounts:
                given = settings(where, container) if where in SERVING else env_of(container)
                assert given["TMPDIR"] in mounts, (where, container["name"])


def test_the_restore_of_the_example_may_call_the_service_and_read_the_exports() -> None:
    found = resources("cpu")
    [work] = workloads(example(KUBERNETES / "examples" / "restore.yaml"))
    policy = one(found, "NetworkPolicy", "client")["spec"]
    assert selects(policy["podSelector"], work.labels)
    [volume] = [v for v in work.pod["volumes"] if "persistentVolumeClaim" in v]
    one(found, "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
    [container] = work.containers
    [mount] = [m for m in container["volumeMounts"] if m["name"] == volume["name"]]
    assert mount["mountPath"] == container["args"][1]
    [exporter] = [w for w in workloads(found) if w.name == "CronJob/coresift-export"]
    given = settings("cpu", exporter.containers[0])
    assert given["EXPORT_OUT"] == container["args"][1]
    assert given["CORESIFT_SERVER"] == container["args"][-1]


@pytest.mark.parametrize("overlay", ["ha", "ha-external"])
def test_the_nightly_export_becomes_a_restore(overlay: str, tmp_path: Path) -> None:
    """By the patch of deploy/README.md, which an overlay without that volume needs."""
    [patch] = re.findall(r"-p '(\[.*args.*\])'", (ROOT / "deploy" / "README.md").read_text())
    cron = one(resources(overlay), "CronJob", "coresift-export")
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "restore"}}
    (tmp_path / "job.json").write_text(
        json.dumps(job | {"spec": cron["spec"]["jobTemplate"]["spec"]})
    )
    command = [kubectl(), "patch", "--local", "-f", tmp_path / "job.json", "-o", "json"]
    said = subprocess.run(
        [*command, "--type=json", "-p", patch], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    [container] = json.loads(said.stdout)["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["import", "$(EXPORT_OUT)"]
    given = settings(overlay, container)
    assert "://" in given["EXPORT_OUT"]
    assert given.keys() <= options_of("import")["variables"] | {"EXPORT_OUT", "TMPDIR"}


def test_every_knob_has_its_comment() -> None:
    for file in KUBERNETES.rglob("*.env"):
        commented = False
        for line in file.read_text().splitlines():
            if line and not line.startswith("#"):
                assert commented, (file, line)
            commented = line.startswith("#") or (commented and bool(line))
    for file in KUBERNETES.rglob("*.yaml"):
        assert re.search(r"^\s*# \w", file.read_text(), re.M) or len(file.read_text()) < 600, file
