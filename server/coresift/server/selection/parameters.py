"""Typed parameters: a dataclass field says meaning, type, range and default."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, field, fields
from typing import Any, TypeVar

from coresift.server.errors import invalid

Value = float | str | bool
Params = tuple[tuple[str, Value], ...]
"""Names and values by name, as a configuration keeps them."""
T = TypeVar("T")


def parameter(
    default: Any,
    about: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """A parameter with its default (``...``: required), meaning and range (ends included).

    The field is annotated ``int``, ``float``, ``str``, ``bool``, or a Literal of ``choices``.
    """
    about_it = {"about": about, "low": low, "high": high, "choices": tuple(choices)}
    if default is ...:
        return field(metadata=about_it)
    return field(default=default, metadata=about_it)


def read(kind: type[T], params: Mapping[str, Value], path: str) -> T:
    """A frozen value of ``kind`` from what came over the wire. INVALID_FIELD names the path."""
    known = {own.name: own for own in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    for name in params:
        if name not in known:
            valid = ", ".join(known) or "none"
            raise invalid(f"{path}.{name}", f"is no parameter here; valid are {valid}")
    values = {
        name: _value(own, params[name], path) for name, own in known.items() if name in params
    }
    for name, own in known.items():
        if name not in values and own.default is MISSING:
            raise invalid(f"{path}.{name}", f"is required: {own.metadata['about']}")
    return kind(**values)


def _value(own: Field[Any], given: Value, path: str) -> Any:
    where, kind, choices = f"{path}.{own.name}", str(own.type), own.metadata["choices"]
    if choices:
        if given not in choices:
            raise invalid(where, f"must be one of {', '.join(choices)}; got {given!r}")
        return given
    if kind in ("str", "bool"):
        if not isinstance(given, str if kind == "str" else bool):
            raise invalid(where, f"must be {'text' if kind == 'str' else 'true or false'}")
        if kind == "str" and not 1 <= len(str(given).encode()) <= 128:
            raise invalid(where, "must have 1..128 bytes")
        return given
    if isinstance(given, bool | str) or not math.isfinite(given):
        raise invalid(where, f"must be a number, got {given!r}")
    if kind == "int" and given != int(given):
        raise invalid(where, f"must be a whole number, got {given:g}")
    low, high = own.metadata["low"], own.metadata["high"]
    if (low is not None and given < low) or (high is not None and given > high):
        limits = f"{'' if low is None else f'{low:g}'}..{'' if high is None else f'{high:g}'}"
        raise invalid(where, f"must be in {limits}, got {given:g}")
    return int(given) if kind == "int" else float(given)
