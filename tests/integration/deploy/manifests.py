"""The manifests under deploy/kubernetes, rendered by ``kubectl kustomize``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
KUBERNETES = ROOT / "deploy" / "kubernetes"
SERVING = ("cpu", "gpu", "ha", "ha-external")
"""Overlays with servers."""
OVERLAYS = (*SERVING, "monitoring")
EXAMPLES = sorted((KUBERNETES / "examples").glob("*.yaml"))
OLDEST_KUSTOMIZE = 5

Resource = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """What makes pods: its resource and their template."""

    resource: Resource
    template: Resource

    @property
    def name(self) -> str:
        return f"{self.resource['kind']}/{self.resource['metadata']['name']}"

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.template["metadata"].get("labels", {}))

    @property
    def pod(self) -> Resource:
        return dict(self.template["spec"])

    @property
    def containers(self) -> list[Resource]:
        return [*self.pod.get("initContainers", ()), *self.pod["containers"]]


@cache
def kubectl() -> str:
    """Where it is; a test that needs it is skipped where it is not, unless tools are required."""
    found = shutil.which("kubectl")
    why = "there is no kubectl"
    if found is not None:
        told = json.loads(_output(found, "version", "--client", "--output", "json"))
        version = told.get("kustomizeVersion", "v2")
        if int(version.lstrip("v").split(".")[0]) >= OLDEST_KUSTOMIZE:
            return found
        why = f"kubectl has kustomize {version}, older than {OLDEST_KUSTOMIZE}"
    if os.environ.get("CORESIFT_REQUIRE_TOOLS"):
        raise AssertionError(why)
    pytest.skip(why)


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def _rendered(overlay: str) -> list[Resource]:
    text = _output(kubectl(), "kustomize", str(KUBERNETES / "overlays" / overlay))
    return list(yaml.load_all(text, yaml.CSafeLoader))


def resources(overlay: str) -> list[Resource]:
    """All of an overlay, as it is applied; a copy that the test may change."""
    return deepcopy(_rendered(overlay))


def example(file: Path) -> list[Resource]:
    """The resources of an example; none for values of a chart."""
    return [part for part in yaml.safe_load_all(file.read_text()) if "kind" in part]


def one(found: list[Resource], kind: str, name: str) -> Resource:
    """The resource of that kind and name."""
    [it] = [r for r in found if (r["kind"], r["metadata"]["name"]) == (kind, name)]
    return it


def of_kind(found: list[Resource], kind: str) -> list[Resource]:
    return [resource for resource in found if resource["kind"] == kind]


def workloads(found: list[Resource]) -> Iterator[Workload]:
    """Everything that makes pods."""
    for resource in found:
        match resource["kind"]:
            case "Deployment" | "StatefulSet" | "Job":
                yield Workload(resource, resource["spec"]["template"])
            case "CronJob":
                yield Workload(resource, resource["spec"]["jobTemplate"]["spec"]["template"])
            case "Pod":
                yield Workload(resource, resource)


def server(overlay: str) -> Workload:
    """The Deployment of the servers."""
    found = one(resources(overlay), "Deployment", "coresift")
    return Workload(found, found["spec"]["template"])


def settings(overlay: str, container: Resource) -> dict[str, str]:
    """The environment that a container gets from ConfigMaps and plain values."""
    given: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        if "configMapRef" in source:
            name = source["configMapRef"]["name"]
            given |= one(resources(overlay), "ConfigMap", name)["data"]
    return given | {e["name"]: e["value"] for e in container.get("env", ()) if "value" in e}


def selects(selector: Resource, labels: dict[str, str]) -> bool:
    """Whether a label selector means a pod with these labels."""
    wanted = selector.get("matchLabels", {})
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    for rule in selector.get("matchExpressions", ()):
        assert rule["operator"] == "In", rule
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return True
