"""Training dynamics against a plain twin, an item and a presentation at a time."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.client.driver import Driver

from coresift.client import TrainingDynamics
from coresift.client.calls import signals
from coresift.client.dynamics_scores import COLUMNS
from coresift.v1 import selection_pb2 as pb

IDS = ["a", "b", "c", "d", "e"]
CLASSES = 3


@dataclass
class Item:
    """Everything that was presented of one item."""

    correct: list[bool] = field(default_factory=list)
    el2n: list[float] = field(default_factory=list)
    aum: list[float] = field(default_factory=list)
    last: tuple[float, float, float] = (math.nan, math.nan, math.nan)

    def present(self, logits: list[float], label: int) -> None:
        powers = [math.exp(z - max(logits)) for z in logits]
        p = [power / sum(powers) for power in powers]
        self.correct.append(logits.index(max(logits)) == label)
        self.el2n.append(math.dist(p, [float(k == label) for k in range(len(p))]))
        self.aum.append(logits[label] - max(z for k, z in enumerate(logits) if k != label))
        second, first = sorted(p)[-2:]
        self.last = (-sum(x * math.log(x) for x in p if x), first - second, first)

    def scores(self, el2n_epochs: int) -> list[float]:
        if not self.correct:
            return [math.nan] * 6
        steps = zip(self.correct, self.correct[1:], strict=False)
        events = sum(before and not after for before, after in steps)
        early = self.el2n[:el2n_epochs]
        return [
            events if any(self.correct) else math.inf,
            sum(early) / len(early),
            sum(self.aum) / len(self.aum),
            *self.last,
        ]


Batch = list[tuple[int, list[float], int]]
# Few values: ties, and items that go back and forth between right and wrong.
logit = st.sampled_from([-2.0, -0.5, 0.0, 1.0, 4.0])
row = st.tuples(
    st.integers(0, len(IDS) - 1),
    st.lists(logit, min_size=CLASSES, max_size=CLASSES),
    st.integers(0, CLASSES - 1),
)
batches = st.lists(st.lists(row, max_size=8), max_size=12)


def recorded(run: list[Batch], el2n_epochs: int = 3) -> TrainingDynamics:
    return record(TrainingDynamics(IDS, el2n_epochs=el2n_epochs), run)


def record(dynamics: TrainingDynamics, run: list[Batch]) -> TrainingDynamics:
    for batch in run:
        dynamics.record(
            [place for place, _, _ in batch],
            np.array([logits for _, logits, _ in batch]).reshape(-1, CLASSES),
            [label for _, _, label in batch],
        )
    return dynamics


def twin(run: list[Batch], el2n_epochs: int = 3) -> np.ndarray[Any, Any]:
    items = [Item() for _ in IDS]
    for place, logits, label in (row for batch in run for row in batch):
        items[place].present(logits, label)
    return np.array([item.scores(el2n_epochs) for item in items])


def table(dynamics: TrainingDynamics) -> np.ndarray[Any, Any]:
    return np.column_stack([dynamics.columns()[name] for name in COLUMNS])


def assert_same(scores: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> None:
    np.testing.assert_array_equal(scores[:, 0], expected[:, 0])
    np.testing.assert_allclose(scores, expected, rtol=1e-12, atol=1e-14)


@settings(deadline=None)
@given(batches)
def test_the_twin_agrees(run: list[Batch]) -> None:
    dynamics = recorded(run)
    assert_same(table(dynamics), twin(run))
    counts = [sum(row[0] == place for batch in run for row in batch) for place in range(len(IDS))]
    assert dynamics.presentations.tolist() == counts


@settings(deadline=None)
@given(batches)
def test_batches_are_cut_anyhow(run: list[Batch]) -> None:
    one_by_one = [[row] for batch in run for row in batch]
    at_once = [[row for batch in run for row in batch]]
    assert_same(table(recorded(run)), table(recorded(one_by_one)))
    assert_same(table(recorded(run)), table(recorded(at_once)))


@settings(max_examples=20, deadline=None)
@given(batches, batches)
def test_a_file_goes_on_where_it_was(tmp_path_factory: Any, run: Any, more: Any) -> None:
    path = tmp_path_factory.mktemp("run") / "run.parquet"
    recorded(run).save(path)
    loaded = TrainingDynamics.load(path)
    assert list(loaded.item_ids) == IDS
    np.testing.assert_array_equal(table(loaded), table(recorded(run)))
    assert_same(table(record(loaded, more)), twin(run + more))


@settings(deadline=None)
@given(batches, batches)
def test_one_run_merged_goes_on(run: list[Batch], more: list[Batch]) -> None:
    alone = TrainingDynamics.merge([recorded(run)])
    assert_same(table(record(alone, more)), twin(run + more))


@settings(deadline=None)
@given(st.lists(batches, min_size=1, max_size=4))
def test_merged_runs_are_means_over_what_each_knows(runs: list[list[Batch]]) -> None:
    merged = TrainingDynamics.merge([recorded(run) for run in runs])
    tables = [twin(run) for run in runs]
    for place in range(len(IDS)):
        seen = [t[place] for t in tables if not np.isnan(t[place, 1])]
        expected = [math.nan] * 6
        if seen:
            events = math.inf
            if min(scores[0] for scores in seen) < math.inf:
                shown = [sum(r[0] == place for batch in run for r in batch) for run in runs]
                events = float(
                    np.mean(
                        [
                            count // 2 + 1 if scores[0] == math.inf else scores[0]
                            for scores, count in zip(seen, filter(None, shown), strict=True)
                        ]
                    )
                )
            expected = [events, *np.mean(seen, axis=0)[1:]]
        np.testing.assert_allclose(table(merged)[place], expected, rtol=1e-12, atol=1e-14)
    presented = sum(recorded(run).presentations for run in runs)
    np.testing.assert_array_equal(merged.presentations, presented)


def test_merging_runs_on_different_items(tmp_path: Path) -> None:
    one, other = TrainingDynamics(["a", "b"]), TrainingDynamics(["c", "b"])
    one.record(["a", "b"], [[1, 0], [3, 0]], [0, 0])
    other.record(["b", "c"], [[1, 0], [0, 2]], [0, 0])
    merged = TrainingDynamics.merge([one, other])
    assert list(merged.item_ids) == ["a", "b", "c"]
    assert merged.columns()["aum"].tolist() == [1, 2, -2]
    assert merged.columns()["forgetting"].tolist() == [0, 0, math.inf]
    assert merged.presentations.tolist() == [1, 2, 1]
    merged.save(tmp_path / "merged.parquet")
    loaded = TrainingDynamics.load(tmp_path / "merged.parquet")
    np.testing.assert_array_equal(table(loaded), table(merged))
    for run in (merged, loaded):
        assert repr(run) == "TrainingDynamics(3 of 3 items recorded in 2 runs)"
        with pytest.raises(ValueError, match="several runs are merged"):
            run.record([0], [[1, 0]], [0])
        with pytest.raises(ValueError, match="merge all runs at once"):
            TrainingDynamics.merge([run, one])
    with pytest.raises(ValueError, match="no runs"):
        TrainingDynamics.merge([])
    with pytest.raises(ValueError, match="different el2n_epochs"):
        TrainingDynamics.merge([one, TrainingDynamics(["a"], el2n_epochs=2)])


class Foreign:
    """An array of a library that NumPy does not know, but that knows NumPy."""

    def __init__(self, values: Any) -> None:
        self._values = np.asarray(values)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self._values


LOGITS = [[0.5, -1.0, 2.0], [1.0, 0.25, -0.5], [0.0, 3.0, 1.0]]
LABELS = [2, 1, 1]


@pytest.mark.parametrize(
    ("items", "logits", "labels"),
    [
        (np.array([0, 1, 4]), np.array(LOGITS, np.float16), np.array(LABELS, np.uint8)),
        ([0, 1, 4], LOGITS, LABELS),
        (["a", "b", "e"], LOGITS, LABELS),
        (np.array(["a", "b", "e"]), LOGITS, np.array(LABELS, np.float32)),
        (np.array(["a", "b", "e"], object), LOGITS, LABELS),
        (torch.tensor([0, 1, 4]), torch.tensor(LOGITS, requires_grad=True), torch.tensor(LABELS)),
        (
            torch.tensor([0, 1, 4], dtype=torch.int32),
            torch.tensor(LOGITS, dtype=torch.bfloat16, requires_grad=True),
            torch.tensor(LABELS, dtype=torch.bfloat16),
        ),
        (torch.tensor([0, 1, 4]), 2 * torch.tensor(LOGITS).half() / 2, torch.tensor(LABELS)),
        (Foreign([0, 1, 4]), Foreign(LOGITS), Foreign(LABELS)),
        ([0, 1, 4], torch.tensor(LOGITS).T.contiguous().T, [[label] for label in LABELS]),
    ],
)
def test_arrays_of_any_library(items: Any, logits: Any, labels: Any) -> None:
    dynamics, plain = TrainingDynamics(IDS), TrainingDynamics(IDS)
    dynamics.record(items, logits, labels)
    plain.record(np.array([0, 1, 4]), np.array(LOGITS), np.array(LABELS))
    np.testing.assert_array_equal(table(dynamics), table(plain))
    assert len(dynamics) == 5
    assert repr(dynamics) == "TrainingDynamics(3 of 5 items recorded)"


def test_one_logit_an_item_is_that_of_class_1() -> None:
    z = np.array([2.0, -1.0, 0.5, 0.0, 0.0])
    labels = np.array([1, 1, 0, 0, 1])
    two = TrainingDynamics(IDS)
    two.record(range(5), np.stack([0 * z, z], axis=1), labels)
    for logits, given_labels in ((z, labels), (z[:, None], labels[:, None].astype(float))):
        one = TrainingDynamics(IDS)
        one.record(range(5), logits, given_labels)
        np.testing.assert_array_equal(table(one), table(two))
    assert two.columns()["aum"].tolist() == [2, -1, -0.5, 0, 0]
    # A tie is class 0.
    assert two.columns()["forgetting"].tolist() == [0, math.inf, math.inf, 0, math.inf]


def test_confident_logits_are_exact() -> None:
    dynamics = TrainingDynamics(IDS[:3])
    dynamics.record([0, 1, 2], [[1e4, 0, 0], [30, 0, 0], [60, 0, 0]], [0, 1, 0])
    scores = dynamics.columns()
    assert scores["el2n"][2] == pytest.approx(math.sqrt(6) * math.exp(-60), rel=1e-12)
    assert scores["entropy"][0] == 0
    assert scores["el2n"][0] == 0
    assert scores["confidence"][0] == 1
    assert scores["el2n"][1] == pytest.approx(math.sqrt(2), rel=1e-12)
    assert 0 < scores["entropy"][1] < 1e-11


@pytest.mark.parametrize(
    ("items", "logits", "labels", "message"),
    [
        ([0, 1], [[0, 1]], [0], "2 items came with logits of 1"),
        ([0], [[0, 1]], [2], r"class numbers 0\.\.1, got 2 in place 0"),
        ([0, 1], [[0, 1], [1, 0]], [0, -100], "got -100 in place 1"),
        ([0], [[0, 1]], [0.5], "got 0.5 in place 0"),
        ([0], [[0, 1]], [math.nan], "got nan in place 0"),
        ([0], [[0, 1]], ["x"], "labels must be class numbers, got dtype"),
        ([0], [[0, 1]], [[0, 1]], "labels must be class numbers .n. for logits of 1 items"),
        ([0, 1], [[0, 1], [math.nan, 0]], [0, 0], "logits of item 'b' are not finite"),
        ([4], [[0, math.inf]], [0], "logits of item 'e' are not finite"),
        ([0], [[[0, 1]]], [0], r"logits must be \[n, classes\]"),
        ([0], np.zeros((1, 0)), [0], r"logits must be \[n, classes\]"),
        ([0], ["x"], [0], "logits must be numbers"),
        ([5], [[0, 1]], [0], r"there are items 0\.\.4, got 5"),
        ([-1], [[0, 1]], [0], r"there are items 0\.\.4, got -1"),
        ([0.0], [[0, 1]], [0], "items must be ids"),
        ([[0]], [[0, 1]], [0], "items must be ids"),
        (["a", "z"], [[0, 1], [0, 1]], [0, 0], "there is no item 'z'"),
        ("a", [[0, 1]], [0], "items must be ids"),
    ],
)
def test_what_does_not_fit_changes_nothing(
    items: Any, logits: Any, labels: Any, message: str
) -> None:
    dynamics = TrainingDynamics(IDS)
    dynamics.record([0, 1], [[0, 1], [1, 0]], [1, 1])
    before = table(dynamics)
    with pytest.raises(ValueError, match=message):
        dynamics.record(items, logits, labels)
    np.testing.assert_array_equal(table(dynamics), before)


def test_constructor_refuses() -> None:
    with pytest.raises(ValueError, match="'b' twice"):
        TrainingDynamics(["a", "b", "c", "b"])
    with pytest.raises(ValueError, match="el2n_epochs must be at least 1"):
        TrainingDynamics(["a"], el2n_epochs=0)


def test_other_files_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"item_id": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="was not written by"):
        TrainingDynamics.load(tmp_path / "other.parquet")
    with pytest.raises(OSError, match="nowhere"):
        TrainingDynamics(["a"]).save(tmp_path / "nowhere" / "x.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["other.parquet"]


class OfDriver:
    """The one method of a client that uploading needs."""

    def __init__(self) -> None:
        self.driver = Driver(lambda _name, _request: pb.PutSignalsResponse())

    def put_signals(self, *args: Any, **kwargs: Any) -> Any:
        return self.driver.run(signals.put_signals(*args, **kwargs))


def test_upload_sends_every_column() -> None:
    dynamics = TrainingDynamics(["a", "b"])
    client: Any = OfDriver()
    dynamics.record([1], [[0, 1]], [0])
    with pytest.raises(ValueError, match="1 of 2 items were never recorded, the first is 'a'"):
        dynamics.upload(client, "p", "run")
    dynamics.record([0], [[0, 1]], [1])
    dynamics.upload(client, "p", "run", pool_version="v")
    [sent] = client.driver.sent
    header, chunk = list(sent.request)
    assert (header.header.pool, header.header.pool_version) == ("p", "v")
    assert (header.header.name, header.header.count) == ("run", 2)
    assert tuple(header.header.columns) == COLUMNS
    values = np.frombuffer(chunk.chunk.values, "<f4").reshape(2, 6)
    np.testing.assert_array_equal(values, table(dynamics).astype(np.float32))
    assert values[:, 0].tolist() == [0, math.inf]


def test_importing_it_imports_no_framework() -> None:
    code = (
        "import sys, coresift.client as c\n"
        "c.TrainingDynamics(['a']).record([0], [[0, 1]], [0])\n"
        "print([m for m in ('torch', 'jax', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
