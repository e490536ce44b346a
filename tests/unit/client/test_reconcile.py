"""A platform's list of labels: how it is read, and how it compares with a session's."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coresift.client import RETRACT, UNSURE, Classes, Task
from coresift.client.commands.label_files import read_list
from coresift.client.commands.reconcile import compare
from coresift.client.commands.shared import Failure

ROWS = [("i1", "ann", "ham"), ("i1", "bob", "eggs"), ("i2", "ann", "ham"), ("i1", "ann", "spam")]
READ = {("i1", "ann"): "spam", ("i1", "bob"): "eggs", ("i2", "ann"): "ham"}


def test_the_later_label_of_an_annotator_counts(tmp_path: Path) -> None:
    lines = ["label,item_id,when,annotator", *(f"{v},{i},now,{a}" for i, a, v in ROWS)]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    objects = [{"item_id": i, "annotator": a, "label": v} for i, a, v in ROWS]
    (tmp_path / "list.jsonl").write_text("\n\n".join(map(json.dumps, objects)))
    pq.write_table(pa.Table.from_pylist(objects), tmp_path / "list.parquet")
    for file in tmp_path.iterdir():
        assert read_list(file, Task.MULTICLASS) == READ, file.suffix


def test_labels_of_several_classes_and_unsure_ones(tmp_path: Path) -> None:
    file = tmp_path / "list.jsonl"
    labels = ["a,-b", {"present": ["a"], "absent": ["b", "c"]}, None]
    rows = [{"item_id": f"i{n}", "annotator": "x", "label": v} for n, v in enumerate(labels)]
    file.write_text("\n".join(map(json.dumps, rows)))
    assert list(read_list(file, Task.MULTILABEL).values()) == [
        Classes(["a"], ["b"]),
        Classes(("a",), ("b", "c")),
        UNSURE,
    ]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("l.csv", "item_id,label\ni1,ham", "must have the columns item_id, annotator, label"),
        ("l.csv", "item_id,annotator,label\ni1,ann,", "line 2: label is missing"),
        ("l.csv", "item_id,annotator,label\n,ann,ham", "line 2: item_id or annotator is missing"),
        ("l.jsonl", '{"item_id": "i1"}', "line 1: must be an object with"),
        ("l.jsonl", '\n{"item_id": "i1"', "line 2:"),
        ("l.jsonl", '{"item_id": 1, "annotator": "a", "label": "x"}', "item_id or annotator"),
        ("l.jsonl", '{"item_id": "1", "annotator": "a", "label": 7}', "label is no class: 7"),
        ("l.parquet", "no parquet", "cannot read"),
        ("l.txt", "", "must be a .csv, .jsonl or .parquet"),
    ],
)
def test_wrong_lists(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(Failure, match="l\\.") as caught:
        read_list(tmp_path / name, Task.MULTICLASS)
    assert words in str(caught.value)
    assert caught.value.code == 2


def test_comparison() -> None:
    here = {
        ("same", "ann"): "ham",
        ("sets", "ann"): Classes(("a", "b"), ()),
        ("other", "ann"): "ham",
        ("taken back", "ann"): RETRACT,
        ("only", "bob"): "ham",
        ("gone", "bob"): RETRACT,
    }
    given = {
        ("same", "ann"): "ham",
        ("sets", "ann"): Classes(("b", "a"), ()),
        ("other", "ann"): "eggs",
        ("taken back", "ann"): "ham",
        ("same", "bob"): "ham",
        ("never heard of", "bob"): "ham",
    }
    found = compare(given, here, frozenset({"never heard of"}))
    assert found.same == 2
    assert found.missing == [("same", "bob")]
    assert found.different == [("other", "ann"), ("taken back", "ann")]
    assert found.only_here == [("only", "bob")]
    assert found.unknown == [("never heard of", "bob")]
    assert not found.agrees
    assert compare(given, given, frozenset()).agrees
