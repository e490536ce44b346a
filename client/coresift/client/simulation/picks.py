"""Teacher-forced picks: label what a reference lists and compare what comes next."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from coresift.client.client import Client
from coresift.client.simulation.campaign import oracle
from coresift.client.simulation.dataset import Dataset, DatasetError
from coresift.client.simulation.methods import Method, method


@dataclass(frozen=True)
class Entry:
    """What a method labels next after certain labels; rows of the data set."""

    concept: str
    method: Method
    n: int
    labelled: list[int]
    following: list[int]


@dataclass(frozen=True)
class PickAgreement:
    """How many of an entry's picks the service made."""

    concept: str
    method: str
    n: int
    agree: int
    of: int


def read(path: Path) -> list[Entry]:
    """Read a file of picks; `DatasetError` says what is wrong with it."""
    try:
        return [
            Entry(
                concept=entry["concept"],
                method=method(entry["method"]),
                n=int(entry["n"]),
                labelled=[int(row) for row in entry["labelled"]],
                following=[int(row) for row in entry["next"]],
            )
            for entry in json.loads(path.read_text())
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is not a file of reference picks: {error!r}") from error


def compare(
    client: Client,
    data: Dataset,
    pool: str,
    entries: Sequence[Entry],
    on_entry: Callable[[PickAgreement], None],
) -> list[PickAgreement]:
    """Give a fresh session each entry's labels, ask for as many picks, and count the common."""
    place = {item_id: position for position, item_id in enumerate(data.item_ids)}
    out = []
    for entry in entries:
        label = data.label_of(entry.concept)
        labelled = data.positions_of(sorted(entry.labelled))
        expected = data.positions_of(entry.following)
        with oracle(client, data, pool, label, place, method=entry.method, seed=0) as annotator:
            annotator.label(labelled)
            chosen = annotator.positions(annotator.next(len(expected)))
        agree = len(set(chosen.tolist()) & set(expected.tolist()))
        name = entry.method.name
        out.append(PickAgreement(entry.concept, name, entry.n, agree, len(expected)))
        on_entry(out[-1])
    return out
