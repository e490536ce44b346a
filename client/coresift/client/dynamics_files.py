"""Recordings of training runs as Parquet files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coresift.client.convert import StringColumn
from coresift.client.dynamics_scores import COLUMNS, Scores
from coresift.client.parquet import import_pyarrow, string_array, write_table

_ABOUT = b"coresift.dynamics"


@dataclass(frozen=True)
class Recording:
    """A recording as a file holds it."""

    item_ids: StringColumn
    scores: Scores
    el2n_epochs: int
    runs: int


def write_recording(recording: Recording, path: Path) -> None:
    """Write item_id, the scores, presentations and the last outcome, whole or not at all.

    OSError; ModuleNotFoundError without pyarrow.
    """
    pyarrow = import_pyarrow()
    about = {"el2n_epochs": recording.el2n_epochs, "runs": recording.runs}
    columns = {
        "item_id": string_array(recording.item_ids),
        **recording.scores.columns(),
        "presentations": recording.scores.presented,
        "correct": recording.scores.correct,
    }
    table = pyarrow.table(columns).replace_schema_metadata({_ABOUT: json.dumps(about)})
    write_table(table, path)


def is_recording(schema: Any) -> bool:
    """Whether a file with this schema of Arrow was written by `write_recording`."""
    return _ABOUT in (schema.metadata or {})


def read_recording(path: Path) -> Recording:
    """Read what `write_recording` wrote. ValueError for another file, OSError."""
    import_pyarrow()
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    if not is_recording(table.schema):
        raise ValueError(f"{path} was not written by TrainingDynamics.save")
    header = json.loads(table.schema.metadata[_ABOUT])
    item_ids: Any = table["item_id"].to_pylist()
    values = {name: table[name].to_numpy() for name in table.column_names[1:]}
    presented, correct = values.pop("presentations"), values.pop("correct")
    return Recording(
        item_ids=StringColumn.of(item_ids),
        scores=Scores.of_columns({name: values[name] for name in COLUMNS}, presented, correct),
        el2n_epochs=header["el2n_epochs"],
        runs=header["runs"],
    )
