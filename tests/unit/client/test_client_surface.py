"""The two clients offer the same methods, one for each RPC, and import nothing heavy."""

from __future__ import annotations

import inspect
import subprocess
import sys
from enum import StrEnum

import pytest

import coresift.client
from coresift.client import AsyncClient, Client, Reason
from coresift.client.calls import (
    backup,
    configure,
    consensus,
    coreset,
    labels,
    leases,
    model,
    pools,
    progress,
    session,
    signals,
)
from coresift.client.enums import PREFIXES, Outcome, Task, member, number
from coresift.client.flow import Rpc
from coresift.v1 import errors_pb2, selection_pb2

CONNECTION = {"close", "with_timeout", "with_address", "check_health"}
NO_RPCS = CONNECTION | {"import_labels", "move_session", "annotator_agreement"}
"""Methods that are not one RPC each: of the connection, or made of several calls."""

SERVICE = selection_pb2.DESCRIPTOR.services_by_name["SelectionService"]


def methods(client: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(function)
        for name, function in inspect.getmembers(client, inspect.isfunction)
        if not name.startswith("_")
    }


def test_both_clients_have_the_same_methods() -> None:
    sync, asynchronous = methods(Client), methods(AsyncClient)
    assert sync.keys() == asynchronous.keys()
    for name, signature in sync.items():
        assert signature.parameters == asynchronous[name].parameters, name
        answer = str(signature.return_annotation)
        other = str(asynchronous[name].return_annotation)
        assert other == answer.replace("Iterator[", "AsyncIterator["), name
        assert getattr(Client, name).__doc__, name


def test_constructors_agree() -> None:
    assert inspect.signature(Client).parameters == inspect.signature(AsyncClient).parameters


def test_every_rpc_has_a_method() -> None:
    modules = (
        backup,
        configure,
        consensus,
        coreset,
        labels,
        leases,
        model,
        pools,
        progress,
        session,
        signals,
    )
    rpcs = {v.name: v for m in modules for v in vars(m).values() if isinstance(v, Rpc)}
    assert rpcs.keys() == {method.name for method in SERVICE.methods}
    for method in SERVICE.methods:
        assert rpcs[method.name].request.DESCRIPTOR is method.input_type
        assert rpcs[method.name].reply.DESCRIPTOR is method.output_type
    assert methods(Client).keys() >= NO_RPCS
    assert len(methods(Client).keys() - NO_RPCS) == len(SERVICE.methods)


def test_public_names() -> None:
    for name in coresift.client.__all__:
        assert getattr(coresift.client, name) is not None
    assert coresift.client.__all__ == sorted(coresift.client.__all__, key=order)
    configuration = "All Anchors BatchPolicy Groups HeadConfig KEEP Mix RandomSubset Seals"
    configuration += " StopRule Strategy"
    answers = "AnnotatorAgreement Estimate ItemConsensus Progress RandomSample ValidationScore"
    coresets = "Coreset CoresetMethod CoresetPlan Sampler Targets TrainingDynamics"
    assert set(f"{configuration} {answers} {coresets} ItemsMissing Purpose".split()) <= set(
        coresift.client.__all__
    )


def order(name: str) -> tuple[int, str]:
    """Constants, classes, functions: as the linter sorts."""
    return (0 if name.isupper() else 1, name)


def test_reasons_are_the_protos() -> None:
    names = {n.removeprefix("ERROR_REASON_") for n in errors_pb2.ErrorReason.keys()}  # noqa: SIM118
    assert set(Reason.__members__) == names - {"UNSPECIFIED"}
    assert all(name == str(reason) for name, reason in Reason.__members__.items())


@pytest.mark.parametrize("kind", PREFIXES)
def test_enums_are_the_protos(kind: type[StrEnum]) -> None:
    wire = getattr(selection_pb2, PREFIXES[kind].title().replace("_", ""))
    names = {name.removeprefix(PREFIXES[kind]) for name in wire.keys()}  # noqa: SIM118
    assert set(kind.__members__) - {"UNKNOWN"} == names - {"UNSPECIFIED"}
    for each in kind:
        assert str(each) == each.name.lower()
        if each.name != "UNKNOWN":
            assert member(wire, kind, number(wire, kind, each)) is each


def test_unknown_enum_values() -> None:
    assert member(selection_pb2.LabelOutcome, Outcome, 99) is Outcome.UNKNOWN
    assert member(selection_pb2.LabelOutcome, Outcome, 0) is Outcome.UNKNOWN
    with pytest.raises(ValueError, match="Task must be one of binary, multiclass, multilabel"):
        number(selection_pb2.Task, Task, "regression")


def test_import_is_light() -> None:
    heavy = "torch jax faiss redis pyarrow matplotlib typer rich coresift.server"
    code = f"import sys, coresift.client; print([m for m in {heavy.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
