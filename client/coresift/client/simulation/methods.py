"""Methods by name: a strategy, a batch policy and a candidate policy on one line.

``strategy[(name=value, ...)][/batch][@candidates]``: ``max_entropy@all``,
``bald(samples=32)@seals:100``, ``most_likely_positive/badge@seals:10``,
``mix(max_entropy=3, most_likely_positive=1)@all``. What is left out has the service's defaults:
``top`` and ``seals:100``. The reference's names of six methods are known too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from coresift.client.calls.config import BatchPolicy, Candidates, Mix, Seals, Strategy
from coresift.client.calls.config_messages import POLICIES
from coresift.client.calls.named import Param

RANDOM_DRAWS = 5
PROTOCOL = {
    "Random-All": "random@all",
    "MaxEnt-All": "max_entropy@all",
    "MaxEnt-SEALS": "max_entropy@seals:100",
    "MaxEnt-SEALS@10": "max_entropy@seals:10",
    "MLP-All": "most_likely_positive@all",
    "MLP-SEALS": "most_likely_positive@seals:100",
    "MLP-SEALS@10": "most_likely_positive@seals:10",
}
"""Names in the reference and what they mean."""
SHAPE = (
    "strategy[(name=value, ...)][/batch][@candidates], as in bald@all, max_entropy/badge@seals:10"
)


@dataclass(frozen=True)
class Method:
    """How a campaign chooses; methods of one name are the same."""

    name: str
    strategy: Strategy | Mix
    candidates: Candidates
    batch: BatchPolicy

    @property
    def draws(self) -> int:
        """Campaigns a run that differ in the session's seed alone."""
        is_random = isinstance(self.strategy, Strategy) and self.strategy.name == "random"
        return RANDOM_DRAWS if is_random else 1

    @property
    def in_reference(self) -> str:
        """Its name in reference curves, or its own where they do not know it."""
        return next((old for old, new in PROTOCOL.items() if new == self.name), self.name)


def method(text: str) -> Method:
    """The method of a name; its own name says all that is not a default of the service, so that
    one method has one name. ValueError: how names are written."""
    text = text.strip()
    if text in PROTOCOL:
        meant = method(PROTOCOL[text])
        return Method(text, meant.strategy, meant.candidates, meant.batch)
    try:
        left, policy = _halves(text, "@")
        strategy, batch = _halves(left, "/")
        chosen = _strategy(strategy)
        rule = _batch(batch) if batch is not None else BatchPolicy()
        candidates = _candidates(policy) if policy is not None else Seals()
    except ValueError as error:
        why = f" ({error})" if str(error) else ""
        old = ", ".join(PROTOCOL)
        raise ValueError(
            f"unknown method {text!r}{why}: a method is {SHAPE}, or one of {old}"
        ) from error
    return Method(_name(chosen, rule, candidates), chosen, candidates, rule)


def methods(text: str) -> list[Method]:
    """Methods separated by commas, each once. ValueError as `method` raises it."""
    return list(dict.fromkeys(method(part) for part in split(text, ",")))


def split(text: str, separator: str) -> list[str]:
    """The parts between the separators that stand outside of parentheses. ValueError: one of these
    is not closed or not opened."""
    depth, parts = 0, [""]
    for sign in text:
        depth += (sign == "(") - (sign == ")")
        if sign == separator and not depth:
            parts.append("")
        else:
            parts[-1] += sign
    if depth:
        raise ValueError(f"parentheses do not match in {text!r}")
    return parts


def _halves(text: str, separator: str) -> tuple[str, str | None]:
    parts = split(text, separator)
    if len(parts) > 2:
        raise ValueError(f"more than one {separator}")
    return parts[0].strip(), parts[1].strip() if len(parts) == 2 else None


def _call(text: str) -> tuple[str, list[tuple[str, str]]]:
    """A name and what is assigned in the parentheses after it."""
    match = re.fullmatch(r"([a-z][a-z0-9_]*)\s*(?:\((.*)\))?", text)
    if match is None:
        raise ValueError("" if "(" not in text else f"{text} is no name with parameters")
    name, inside = match.groups()
    pairs = []
    for part in split(inside, ",") if inside else []:
        key, *value = split(part, "=")
        if len(value) != 1:
            raise ValueError(f"{part.strip()!r} is not name=value")
        pairs.append((key.strip(), value[0].strip()))
    return name, pairs


def _strategy(text: str) -> Strategy | Mix:
    name, pairs = _call(text)
    if name != "mix":
        return Strategy(name, **{key: _value(value) for key, value in pairs})
    parts = [(_strategy(key), float(share)) for key, share in pairs]
    if any(isinstance(part, Mix) for part, _ in parts):
        raise ValueError("a mix in a mix")
    return Mix([(part, share) for part, share in parts if isinstance(part, Strategy)])


def _batch(text: str) -> BatchPolicy:
    name, pairs = _call(text)
    limit = None
    params: dict[str, Any] = {}
    for key, value in pairs:
        if key == "max_similarity":
            limit = float(value)
        elif key == "class_shares":
            raise ValueError("class_shares cannot be written in a name")
        else:
            params[key] = _value(value)
    return BatchPolicy(name, max_similarity=limit, **params)


def _candidates(text: str) -> Candidates:
    """``seals:10`` is ``seals(k=10)``: the first parameter after a colon."""
    short, number = _halves(text, ":")
    name, pairs = _call(short)
    if name not in POLICIES:
        raise ValueError(f"candidates are {', '.join(POLICIES)}")
    known = [own.name for own in fields(POLICIES[name])]
    if number is not None and known:
        pairs = [(known[0], number), *pairs]
    elif number is not None:
        raise ValueError(f"{name} has no number")
    if unknown := [key for key, _ in pairs if key not in known]:
        raise ValueError(f"{name} has no {unknown[0]}")
    return POLICIES[name](**{key: int(value) for key, value in pairs})


def _value(text: str) -> Param:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _name(strategy: Strategy | Mix, batch: BatchPolicy, candidates: Candidates) -> str:
    rule = dict(sorted(batch.params.items()))
    if batch.max_similarity is not None:
        rule["max_similarity"] = batch.max_similarity
    middle = "" if batch == BatchPolicy() else f"/{_written(batch.name, rule)}"
    values = asdict(candidates)
    policy = next(name for name, kind in POLICIES.items() if isinstance(candidates, kind))
    usual, first = asdict(type(candidates)()), next(iter(values), None)
    if any(values[key] != usual[key] for key in values if key != first):
        policy = _written(policy, values)
    elif first is not None:
        policy = f"{policy}:{values[first]}"
    return f"{_strategy_name(strategy)}{middle}@{policy}"


def _strategy_name(strategy: Strategy | Mix) -> str:
    if isinstance(strategy, Mix):
        parts = {_strategy_name(part): share for part, share in strategy.shares}
        return _written("mix", parts)
    return _written(strategy.name, dict(sorted(strategy.params.items())))


def _written(name: str, params: Mapping[str, Param]) -> str:
    inside = ", ".join(f"{key}={_text(value)}" for key, value in params.items())
    return f"{name}({inside})" if inside else name


def _text(value: Param) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
