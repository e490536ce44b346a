"""The simulation's rules against the independent implementation in tests/reference."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from coresift.client import All, Anchors, BatchPolicy, Mix, RandomSubset, Seals, Strategy
from coresift.client.simulation import agreement, methods, picks, plots, protocol
from coresift.client.simulation.dataset import DatasetError, load


@given(
    st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=1, max_size=50).filter(
        lambda pairs: any(positive for positive, _ in pairs)
    )
)
def test_average_precision_is_scikit_learns(pairs: list[tuple[bool, int]]) -> None:
    positive = np.array([pair[0] for pair in pairs])
    scores = np.array([pair[1] for pair in pairs], dtype=np.float64)
    ours = protocol.average_precision(positive, scores)
    assert ours == pytest.approx(average_precision_score(positive, scores), abs=1e-12)


def test_concepts_and_seed_sets_agree(reference: ModuleType, clinc150: Path) -> None:
    ours, theirs = load(clinc150), reference.load(clinc150, None)
    np.testing.assert_array_equal(ours.rows, theirs.rows)
    np.testing.assert_array_equal(ours.vectors, theirs.pool)
    np.testing.assert_array_equal(ours.test_vectors, theirs.test)
    concepts = protocol.concepts(ours)
    assert [concept.label for concept in concepts] == theirs.concepts()
    for concept in concepts:
        positive = ours.labels == concept.label
        for seed in range(3):
            expected = np.sort(reference.seed_set(positive, seed, concept.number))
            found = protocol.seed_set(positive, seed, concept.number)
            np.testing.assert_array_equal(found, expected)


def make_dataset(folder: Path, sizes: dict[str, int], use: list[int] | None = None) -> Path:
    """A data set with classes of given sizes; every fifth row is in the test split."""
    labels = np.repeat(np.arange(len(sizes)), list(sizes.values())).astype(np.int32)
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    np.save(folder / "embeddings.npy", rng.normal(size=(len(labels), 4)).astype(np.float16))
    np.save(folder / "labels.npy", labels)
    np.save(folder / "test_index.npy", np.arange(0, len(labels), 5))
    (folder / "label_names.json").write_text(json.dumps(list(sizes)))
    import gzip

    ids = "".join(f"id-{n}\n" for n in range(len(labels)))
    (folder / "ids.txt.gz").write_bytes(gzip.compress(ids.encode()))
    if use is not None:
        np.save(folder / "use.npy", np.array(use))
    return folder


@pytest.mark.parametrize("use", [None, "use.npy"])
def test_where_few_classes_are_rare_the_rarest_are_taken(
    tmp_path: Path, reference: ModuleType, use: str | None
) -> None:
    sizes = {f"class {n:02}": 40 + 7 * ((5 * n) % 13) for n in range(13)}
    sizes |= {"_hidden": 40, "oos": 45, "None": 45, "tiny": 20, "large": 3000}
    folder = make_dataset(tmp_path / "d", sizes, use=list(range(sum(sizes.values()))))
    concepts = protocol.concepts(load(folder, use))
    assert len(concepts) == (10 if use is None else 5)
    assert [c.number for c in concepts] == list(range(len(concepts)))
    theirs = reference.load(folder, use).concepts(len(concepts))
    assert [c.label for c in concepts] == theirs
    chosen = {concept.name for concept in concepts}
    others = set(sizes) - chosen - {"_hidden", "oos", "None", "tiny"}
    assert max(sizes[name] for name in chosen) <= min(sizes[name] for name in others)


def test_the_references_methods() -> None:
    assert methods.method("MaxEnt-SEALS@10").candidates == Seals(10)
    assert methods.method("MLP-SEALS").candidates == Seals(100)
    assert methods.method("Random-All").candidates == All()
    assert methods.method("Random-All").draws == methods.method("random@seals:10").draws == 5
    for old, new in methods.PROTOCOL.items():
        assert methods.method(old).name == old
        assert methods.method(new).in_reference == methods.method(old).in_reference == old
        assert methods.method(old).strategy == methods.method(new).strategy
    assert methods.method("bald@all").in_reference == "bald@all"


@pytest.mark.parametrize(
    ("text", "name", "strategy", "batch", "candidates"),
    [
        ("bald", "bald@seals:100", Strategy("bald"), BatchPolicy(), Seals(100)),
        (
            " ens( one_step=true, neighbours=50 ) / gist(min_distance=0.25) @ all ",
            "ens(neighbours=50, one_step=true)/gist(min_distance=0.25)@all",
            Strategy("ens", neighbours=50, one_step=True),
            BatchPolicy("gist", min_distance=0.25),
            All(),
        ),
        (
            "mix(bald(samples=32)=1, signal(name=a/b@c)=0.5)/top(max_similarity=0.9)@seals(k=7)",
            "mix(bald(samples=32)=1, signal(name=a/b@c)=0.5)/top(max_similarity=0.9)@seals:7",
            Mix([(Strategy("bald", samples=32), 1), (Strategy("signal", name="a/b@c"), 0.5)]),
            BatchPolicy(max_similarity=0.9),
            Seals(7),
        ),
        (
            "typiclust@random_subset",
            "typiclust@random_subset:10000",
            Strategy("typiclust"),
            BatchPolicy(),
            RandomSubset(),
        ),
        (
            "direct@anchors:500",
            "direct@anchors:500",
            Strategy("direct"),
            BatchPolicy(),
            Anchors(500),
        ),
        (
            "direct@anchors(per_class=3)",
            "direct@anchors(size=1000, per_class=3, neighbours=50)",
            Strategy("direct"),
            BatchPolicy(),
            Anchors(per_class=3),
        ),
    ],
)
def test_methods_by_name(
    text: str, name: str, strategy: Any, batch: BatchPolicy, candidates: Any
) -> None:
    found = methods.method(text)
    assert found == methods.Method(name, strategy, candidates, batch)
    assert methods.method(found.name) == found
    assert methods.methods(f"{text},{name}, random") == [found, methods.method("random")]


@pytest.mark.parametrize(
    "name",
    [
        *("MaxEnt", "BALD-All", "MaxEnt-All@10", "", "a@b", "a@all:3", "a@seals:x", "a@all@all"),
        *("a(b)", "a(b=1))", "a/b/c", "a@seals(j=1)", "mix(a=x)", "mix(mix(a=1)=1)"),
        "a/top(class_shares=1)",
    ],
)
def test_unknown_methods_are_refused_in_a_line(name: str) -> None:
    with pytest.raises(ValueError, match=r"unknown method|parentheses do not match") as caught:
        methods.method(name)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_reference_agrees_with_itself(clinc150: Path) -> None:
    found = agreement.reference_for(clinc150, None)
    assert found is not None
    curves = found[1]
    worst = agreement.differences(curves["runs"], curves)
    assert {d.method for d in worst} == set(curves["mean"])
    assert all(d.agrees and d.ours == d.reference for d in worst)
    for name, mean in curves["mean"].items():
        ours = agreement.mean_curve([run for run in curves["runs"] if run["method"] == name])
        for key, values in ours.items():
            np.testing.assert_allclose(values, mean[key], atol=2e-5)
    assert agreement.reference_for(clinc150, "use_index_longtail.npy") is None


def test_a_shorter_simulation_is_compared_on_what_it_shares(clinc150: Path) -> None:
    _, curves = agreement.reference_for(clinc150, None) or pytest.fail("no reference")
    runs = [
        {key: value[:3] if isinstance(value, list) else value for key, value in run.items()}
        for run in curves["runs"]
        if run["concept"] == "calculator" and run["seed"] == 1 and run["method"] == "MaxEnt-All"
    ]
    assert all(d.agrees for d in agreement.differences(runs, curves))
    broken = json.loads(json.dumps(runs))
    broken[0]["recall"][2] += 0.5
    wrong = [d for d in agreement.differences(broken, curves) if not d.agrees]
    assert [(d.measure, d.n) for d in wrong] == [("recall", 300)]


def test_the_reference_makes_its_own_picks(
    reference: ModuleType, clinc150: Path, tmp_path: Path
) -> None:
    entries = json.loads((clinc150 / "reference_picks.json").read_text())
    chosen = [e for e in entries if e["concept"] == "calculator" and e["n"] == 500]
    file = tmp_path / "picks.json"
    file.write_text(json.dumps(chosen))
    import argparse

    data = reference.load(clinc150, None)
    found = reference.check(data, argparse.Namespace(file=file))
    assert len(found) == 6
    assert {entry["agree"] for entry in found} == {100}
    assert [len(entry.labelled) for entry in picks.read(file)] == [500] * 6


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "labels.npy").unlink(), "labels.npy does not exist"),
        (lambda f: np.save(f / "labels.npy", np.zeros(3, np.int32)), "labels.npy has 3 entries"),
        (lambda f: np.save(f / "test_index.npy", np.array([10**6])), "names rows outside"),
        (lambda f: (f / "ids.txt.gz").write_bytes(b"no gzip"), "cannot be read"),
        (lambda f: (f / "embeddings.npy").write_bytes(b""), "cannot be read"),
    ],
)
def test_damaged_data_sets(tmp_path: Path, break_it: Any, message: str) -> None:
    folder = make_dataset(tmp_path / "d", {"a": 50, "b": 50})
    load(folder)
    break_it(folder)
    with pytest.raises(DatasetError, match=message):
        load(folder)


def test_rows_outside_the_pool_are_named(tmp_path: Path) -> None:
    data = load(make_dataset(tmp_path / "d", {"a": 50, "b": 50}))
    assert data.positions_of([1, 2, 6]).tolist() == [0, 1, 4]
    for row in (0, 1000):
        with pytest.raises(DatasetError, match=f"row {row} is not in the pool"):
            data.positions_of([1, row])


def test_curves_are_drawn(clinc150: Path, tmp_path: Path) -> None:
    curves = json.loads((clinc150 / "reference_curves.json").read_text())
    plots.draw(curves, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_make_clinc150_repeats_itself(clinc150: Path, tmp_path: Path) -> None:
    """The maker runs on its own product: the same layout, the test split untouched."""
    import subprocess
    import sys

    maker = Path(__file__).parents[2] / "data" / "make_clinc150.py"
    subprocess.run([sys.executable, str(maker), str(clinc150), str(tmp_path)], check=True)
    again, data = load(tmp_path), load(clinc150)
    np.testing.assert_array_equal(again.rows, data.rows)
    # All 176 directions are kept, so inner products are, up to float16.
    few = slice(0, 200)
    before, after = (
        data.vectors[few] @ data.vectors[few].T,
        again.vectors[few] @ again.vectors[few].T,
    )
    assert np.abs(before - after).max() < 2e-3
    shutil.rmtree(tmp_path)
