"""JSON schemas of custom resources, made from the TypeScript types that an npm package carries.

    npm pack @kubernetes-models/prometheus-operator@6.0.0 && tar xzf kubernetes-models-*.tgz
    python from_types.py package/monitoring.coreos.com/v1/PrometheusRule.d.ts > prometheusrule.json

The types are generated from the resources' own definitions. What they do not say, such as the form
of a duration, is added in `REFERENCES`. No object may have a field that its type lacks.
"""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

WORD = re.compile(r"/\*.*?\*/|\"(?:[^\"\\]|\\.)*\"|[A-Za-z_$][\w$]*|-?\d+|[{}\[\]<>|?:;,()&]", re.S)
DURATION = (
    "^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$"
)
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
SELECTED = {
    "type": "object",
    "required": ["key", "operator"],
    "properties": {
        "key": {"type": "string"},
        "operator": {"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
        "values": {"type": "array", "items": {"type": "string"}},
    },
    "additionalProperties": False,
}
KEY_OF = {
    "type": "object",
    "required": ["key"],
    "properties": {
        "key": {"type": "string"},
        "name": {"type": "string"},
        "optional": {"type": "boolean"},
    },
    "additionalProperties": False,
}
REFERENCES: dict[str, dict[str, Any]] = {
    "ObjectMeta": {"type": "object"},
    "ConfigResourceStatus": {},
    "Quantity": {"type": ["number", "string"]},
    "Time": {"type": "string"},
    "IntOrString": {"type": ["integer", "string"]},
    "SecretKeySelector": KEY_OF,
    "ConfigMapKeySelector": KEY_OF,
    "LabelSelector": {
        "type": "object",
        "properties": {
            "matchLabels": TEXTS,
            "matchExpressions": {"type": "array", "items": SELECTED},
        },
        "additionalProperties": False,
    },
    "Duration": {"type": "string", "pattern": DURATION},
    "NonEmptyDuration": {"type": "string", "pattern": DURATION, "minLength": 1},
}
"""Types outside the package, and those with a form that their type does not tell."""
PLAIN = {
    "string": {"type": "string"},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    "any": {},
    "unknown": {},
}


class Types:
    """One file of types, read word by word."""

    def __init__(self, file: Path) -> None:
        self._folder, self._text = file.parent, file.read_text()
        self._imports = dict(re.findall(r"import \{ (\w+) \} from \"([^\"]+)\";", self._text))
        self._words: list[str] = []

    def schema(self, name: str) -> dict[str, Any]:
        """Of the exported interface or type ``I{name}``."""
        heads = rf"export (interface|type) I{name}\b([^{{=]*)([{{=].*)"
        found = re.search(heads, self._text, re.S)
        assert found is not None, name
        form, bases, body = found.groups()
        self._words = [t for t in WORD.findall(body.lstrip("=")) if not t.startswith("/*")][::-1]
        made = self._one_of()
        if form == "interface":
            for base in re.findall(r"\w+", bases.replace("extends", "")):
                if base != "TypeMeta":
                    made["properties"] = self._named(base)["properties"] | made["properties"]
        return made

    def _named(self, name: str) -> dict[str, Any]:
        place = self._imports[name]
        short = Path(place).stem
        if short in REFERENCES:
            return REFERENCES[short]
        assert place.startswith("."), place
        return of(self._folder / Path(place).with_suffix(".d.ts"))

    def _one_of(self) -> dict[str, Any]:
        choices = [self._all_of()]
        while self._words and self._words[-1] == "|":
            self._words.pop()
            choices.append(self._all_of())
        if len(choices) == 1:
            return choices[0]
        if all("const" in choice for choice in choices):
            return {"enum": [choice["const"] for choice in choices]}
        return {"anyOf": choices}

    def _all_of(self) -> dict[str, Any]:
        """The fields; what is in parentheses says only which of them exclude each other."""
        parts = [self._single()]
        while self._words and self._words[-1] == "&":
            self._words.pop()
            parts.append(self._single())
        return max(parts, key=lambda part: len(part.get("properties", part)))

    def _single(self) -> dict[str, Any]:
        word = self._words.pop()
        if word == "{":
            return self._object()
        if word == "(":
            depth = 1
            while depth:
                depth += {"(": 1, ")": -1}.get(self._words.pop(), 0)
            return {}
        if word.startswith('"'):
            return {"const": json.loads(word)}
        if word == "Array":
            self._words.pop()
            items = self._one_of()
            self._words.pop()
            return {"type": "array", "items": items}
        return PLAIN.get(word) or ({} if word in PLAIN else self._named(word))

    def _object(self) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        required: list[str] = []
        others: Any = False
        while (word := self._words.pop()) != "}":
            if word == "[":  # [key: string]: T
                del self._words[-5:]
                others = self._one_of()
            else:
                name = json.loads(word)
                if (mark := self._words.pop()) == "?":
                    self._words.pop()
                else:
                    assert mark == ":", mark
                    required.append(name)
                fields[name] = self._one_of()
            assert self._words.pop() == ";"
        made = {"type": "object", "properties": fields, "additionalProperties": others}
        return made | ({"required": required} if required else {})


@cache
def of(file: Path) -> dict[str, Any]:
    """The schema of the type that a file is named after."""
    name = file.name.removesuffix(".d.ts")
    return REFERENCES.get(name) or Types(file).schema(name)


if __name__ == "__main__":
    root = of(Path(sys.argv[1]))
    if set(root["properties"]) >= {"spec"}:
        root["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}
        root["properties"].pop("status", None)  # nobody writes it by hand
        root["properties"]["metadata"] = REFERENCES["ObjectMeta"]
        root["required"] = ["apiVersion", "kind", "metadata", "spec"]
    json.dump(root, sys.stdout, separators=(",", ":"), sort_keys=True)
    sys.stdout.write("\n")
