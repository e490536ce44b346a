"""A platform's list of labels: CSV, JSON lines or Parquet with item_id, annotator, label."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from coresift.client.calls.labels import UNSURE, Classes, LabelValue
from coresift.client.commands.parse import parse_value
from coresift.client.commands.shared import Failure, wrong
from coresift.client.enums import Task
from coresift.client.parquet import import_pyarrow

COLUMNS = ("item_id", "annotator", "label")
Given = dict[tuple[str, str], LabelValue]
"""(item_id, annotator) to the label."""


def read_list(file: Path, task: Task) -> Given:
    """The labels of a file, the later one where an annotator labels an item twice.

    A label is a class name; multilabel: names with a comma between, absent ones with a minus
    before, or (JSON) ``{"present": [...], "absent": [...]}``. A JSON or Parquet null is "unsure".
    """
    given: Given = {}
    try:
        for place, row in _rows(file):
            item_id, annotator, label = (row.get(column) for column in COLUMNS)
            if not _is_text(item_id) or not _is_text(annotator):
                raise wrong(f"{file}, {place}: item_id or annotator is missing")
            given[str(item_id), str(annotator)] = _value(file, place, label, task)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise wrong(f"cannot read {file}: {error}") from error
    return given


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    match file.suffix:
        case ".csv":
            return _csv_rows(file)
        case ".jsonl":
            return _json_rows(file)
        case ".parquet":
            return _parquet_rows(file)
    raise wrong(f"{file} must be a .csv, .jsonl or .parquet")


def _csv_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with file.open(newline="", encoding="utf-8-sig") as lines:
        rows = csv.DictReader(lines)
        _check_columns(file, rows.fieldnames or ())
        for row in rows:
            place = f"line {rows.line_num}"
            if not row["label"]:
                raise wrong(f"{file}, {place}: label is missing")
            yield place, row


def _json_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise wrong(f"{file}, line {number}: {error}") from error
            if not isinstance(row, dict) or "label" not in row:
                raise wrong(f"{file}, line {number}: must be an object with {', '.join(COLUMNS)}")
            yield f"line {number}", row


def _parquet_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        pyarrow = import_pyarrow()
    except ModuleNotFoundError as error:
        raise Failure(str(error)) from error
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
        _check_columns(file, table.column_names)
        rows = table.select(list(COLUMNS)).to_pylist()
    except pyarrow.ArrowException as error:
        raise wrong(f"cannot read {file}: {error}") from error
    yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))


def _check_columns(file: Path, names: Any) -> None:
    if not set(COLUMNS) <= set(names):
        raise wrong(f"{file} must have the columns {', '.join(COLUMNS)}")


def _value(file: Path, place: str, label: object, task: Task) -> LabelValue:
    match label:
        case None:
            return UNSURE
        case str() if label:
            return parse_value(label, task)
        case {"present": [*present], "absent": [*absent]} if task == Task.MULTILABEL:
            return Classes(tuple(map(str, present)), tuple(map(str, absent)))
    raise wrong(f"{file}, {place}: label is no class: {label!r}")
