"""What is written on the command line, as values of the client."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from coresift.client.calls.config import (
    All,
    Anchors,
    Candidates,
    Mix,
    RandomSubset,
    Seals,
    Strategy,
)
from coresift.client.calls.labels import Classes, Label, LabelValue
from coresift.client.calls.named import Param
from coresift.client.commands.shared import wrong
from coresift.client.enums import Task

SIZED: Mapping[str, type[Seals] | type[RandomSubset] | type[Anchors]] = {
    "seals": Seals,
    "random_subset": RandomSubset,
    "anchors": Anchors,
}
"""Candidate policies that take a number."""


def parse_candidates(text: str) -> Candidates:
    """``all``, or ``seals``, ``random_subset``, ``anchors`` with an optional ``:NUMBER``."""
    kind, colon, size = text.partition(":")
    if kind == "all" and not colon:
        return All()
    if kind in SIZED and (size.isdecimal() if colon else True):
        return SIZED[kind](int(size)) if colon else SIZED[kind]()
    raise wrong(
        "--candidates must be all, seals[:K], random_subset[:M] or anchors[:M] with a number, "
        f"got {text!r}"
    )


def parse_params(option: str, given: Sequence[str]) -> dict[str, Param]:
    """``NAME=VALUE`` each: a number, true, false, or else a text (in quotes if it looks like one
    of them)."""
    params: dict[str, Param] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise wrong(f"{option} must be NAME=VALUE, got {text!r}")
        params[name] = _param(value)
    return params


def parse_strategy(name: str, params: Sequence[str], mix: Sequence[str]) -> Strategy | Mix:
    """A strategy with parameters, or shares ``NAME=SHARE`` or ``NAME:PARAM=VALUE,...=SHARE``."""
    if not mix:
        return Strategy(name, **parse_params("--param", params))
    if params:
        raise wrong("--param belongs to --strategy; in a mix write --mix NAME:PARAM=VALUE=SHARE")
    return Mix([_share(text) for text in mix])


def _share(text: str) -> tuple[Strategy, float]:
    strategy, _, share = text.rpartition("=")
    name, _, params = strategy.partition(":")
    try:
        weight = float(share)
    except ValueError:
        name, weight = "", 0.0
    if not name:
        raise wrong(f"--mix must be NAME=SHARE or NAME:PARAM=VALUE,...=SHARE, got {text!r}")
    return Strategy(name, **parse_params("--mix", params.split(",") if params else ())), weight


def parse_label(line: str, task: Task) -> Label:
    """``ITEM=CLASS``; for multilabel a list of classes, the absent ones with a minus."""
    item_id, equals, value = line.strip().rpartition("=")
    if not equals or not item_id or not value:
        raise wrong(f"a label is ITEM=CLASS, got {line!r}")
    return Label(item_id, parse_value(value, task))


def read_labels(file: Path, task: Task) -> Iterator[Label]:
    """Labels of a file: of a .csv the columns item_id and label, else lines ITEM=CLASS."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            if file.suffix != ".csv":
                yield from (parse_label(line, task) for line in lines if line.strip())
                return
            rows = csv.DictReader(lines)
            if not {"item_id", "label"} <= set(rows.fieldnames or ()):
                raise wrong(f"{file} must have the columns item_id and label")
            for row in rows:
                if not row["item_id"] or not row["label"]:
                    raise wrong(f"{file}, line {rows.line_num}: item_id or label is missing")
                yield Label(row["item_id"], parse_value(row["label"], task))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise wrong(f"cannot read {file}: {error}") from error


def parse_value(value: str, task: Task) -> LabelValue:
    """A class name; multilabel: several with a comma between, absent ones with a minus."""
    if task != Task.MULTILABEL:
        return value
    names = value.split(",")
    return Classes(
        present=[name for name in names if not name.startswith("-")],
        absent=[name[1:] for name in names if name.startswith("-")],
    )


def _param(text: str) -> Param:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, str | bool | int | float) else text
