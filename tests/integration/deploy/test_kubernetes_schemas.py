"""Every manifest of every overlay, and every example, is what Kubernetes and operators accept."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from jsonschema import Draft202012Validator
from kubernetes_validate.utils import schema_contents
from referencing import Registry
from referencing import Resource as Schema
from tests.integration.deploy.manifests import (
    EXAMPLES,
    KUBERNETES,
    OVERLAYS,
    Resource,
    example,
    of_kind,
    one,
    resources,
)

SCHEMAS = Path(__file__).parent / "schemas"
VERSIONS = ("1.30", "1.37")
"""The oldest Kubernetes that has all that the manifests use, and the newest with schemas."""
CUSTOM = {
    "ServiceMonitor": "monitoring.coreos.com/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
    "DestinationRule": "networking.istio.io/v1",
    "Certificate": "cert-manager.io/v1",
}


@cache
def definitions(version: str) -> Registry[Any]:
    """What the schemas of a version of Kubernetes refer to."""
    return Schema.from_contents(contents(version, "_definitions")) @ Registry()


def contents(version: str, name: str) -> Any:
    """A strict schema that kubernetes-validate carries."""
    file = f"kubernetes-json-schema/v{version}.0-local-strict/{name}.json"
    return schema_contents(file, version)


@cache
def kubernetes(version: str, kind: str, api: str) -> Draft202012Validator:
    """As `kubernetes_validate.validate`, which reads two megabytes anew for each resource."""
    group, _, number = api.rpartition("/")
    name = "-".join(filter(None, (kind.lower(), group.split(".")[0], number)))
    schema = contents(version, name)
    return Draft202012Validator(
        schema, registry=Schema.from_contents(schema) @ definitions(version)
    )


@cache
def custom(kind: str) -> Draft202012Validator:
    """Of a custom resource."""
    return Draft202012Validator(json.loads((SCHEMAS / f"{kind.lower()}.json").read_text()))


def check(resource: Resource, version: str) -> None:
    """Raises for a field that is wrong or that there is not."""
    kind, api = resource["kind"], resource["apiVersion"]
    if kind in CUSTOM:
        assert api == CUSTOM[kind]
        custom(kind).validate(resource)
    else:
        kubernetes(version, kind, api).validate(resource)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_manifest_is_valid(overlay: str, version: str) -> None:
    for resource in resources(overlay):
        check(resource, version)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_every_example_is_valid(file: Path) -> None:
    for resource in example(file):
        check(resource, VERSIONS[0])


def test_a_field_that_there_is_not_is_refused() -> None:
    """Otherwise the tests above would prove nothing."""
    deployment = one(resources("cpu"), "Deployment", "coresift")
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 30
    with pytest.raises(jsonschema.ValidationError):
        check(deployment, VERSIONS[0])
    [monitor] = of_kind(resources("monitoring"), "ServiceMonitor")
    monitor["spec"]["endpoints"][0]["scrapeInterval"] = "15s"
    with pytest.raises(jsonschema.ValidationError):
        check(monitor, VERSIONS[0])
    [rule] = of_kind(resources("monitoring"), "PrometheusRule")
    rule["spec"]["groups"][0]["rules"][0]["for"] = "ten minutes"
    with pytest.raises(jsonschema.ValidationError):
        check(rule, VERSIONS[0])


def test_every_folder_is_rendered() -> None:
    """No overlay and no component stands beside the tests."""
    folders = {folder.name for folder in (KUBERNETES / "overlays").iterdir()}
    assert folders == set(OVERLAYS)
    texts = [
        (KUBERNETES / "overlays" / name / "kustomization.yaml").read_text() for name in OVERLAYS
    ]
    for component in (KUBERNETES / "components").iterdir():
        assert any(f"\n  - ../../components/{component.name}\n" in text for text in texts)


def test_names_are_unique() -> None:
    for overlay in OVERLAYS:
        names = [(r["kind"], r["metadata"]["name"]) for r in resources(overlay)]
        assert len(names) == len(set(names))
