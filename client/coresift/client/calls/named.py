"""Values that are a name with parameters, and parameters on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.struct_pb2 import Struct

Param = str | bool | int | float


@dataclass(frozen=True, init=False, repr=False)
class Named:
    """A name and parameters; those that are not given have the server's defaults."""

    name: str
    params: Mapping[str, Param]

    def __init__(self, name: str, /, **params: Param) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "params", checked(params))

    def __hash__(self) -> int:
        return hash((self.name, frozenset(self.params.items())))

    def __repr__(self) -> str:
        arguments = ", ".join([repr(self.name), *assignments(self.params)])
        return f"{type(self).__name__}({arguments})"

    def __str__(self) -> str:
        return f"{self.name}({', '.join(assignments(self.params))})" if self.params else self.name


def checked(params: Mapping[str, Param]) -> dict[str, Param]:
    """Parameters that the wire can carry. TypeError: names the first that it cannot."""
    for name, value in params.items():
        if not isinstance(value, str | bool | int | float):
            raise TypeError(f"parameter {name} must be a number, a text or a boolean: {value!r}")
    return dict(params)


def assignments(params: Mapping[str, Param]) -> list[str]:
    """Parameters as they are written in a call."""
    return [f"{name}={value!r}" for name, value in params.items()]


def struct(params: Mapping[str, Param]) -> Struct:
    """Parameters on the wire."""
    message = Struct()
    message.update(dict(params))
    return message


def params_of(message: Struct) -> dict[str, Param]:
    """The inverse of `struct`: the wire has one kind of number, whole ones read as integers."""
    values: dict[str, Param] = {}
    for name, value in sorted(message.fields.items()):
        param = getattr(value, value.WhichOneof("kind") or "string_value")
        values[name] = int(param) if isinstance(param, float) and param.is_integer() else param
    return values
