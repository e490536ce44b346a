"""The selection-via-proxy example from pixels to the page, on 6,000 images: that it goes through
and keeps its books. What a core-set is worth, `make svp` measures."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tests.benchmarks.svp.__main__ import main
from tests.benchmarks.svp.images import FILES

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests" / "data" / "fashion_mnist_6000"
NAMES = {"random", "forgetting", "entropy"}
POOL, TEST, HALF = 4_800, 1_200, 2_400
EPOCHS, PROXY_EPOCHS, BATCH = 1, 3, 64
CHANCE = 0.1

pytestmark = pytest.mark.timeout(300)  # two cores with other work


def words(out: Path, *more: object) -> list[str]:
    """A small run on one thread."""
    settings = ("--epochs", EPOCHS, "--proxy-epochs", PROXY_EPOCHS, "--batch", BATCH)
    few = ("--seeds", 1, "--threads", 1)
    return [str(w) for w in ("run", "--data", DATA, "--out", out, *settings, *few, *more)]


@pytest.fixture
def threads() -> Iterator[None]:
    """A run within this process settles the threads of torch; other tests want theirs back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, made by a process of its own as users run it."""
    folder = tmp_path_factory.mktemp("svp")
    command = [sys.executable, "-m", "tests.benchmarks.svp", *words(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


@pytest.fixture(scope="module")
def pool_ids() -> set[str]:
    """Ids of the images outside the test split."""
    ids = gzip.decompress((DATA / "ids.txt.gz").read_bytes()).decode().split()
    return set(np.delete(ids, np.load(DATA / "test_index.npy")).tolist())


def test_the_recorder_has_seen_every_image_of_the_pool(out: Path, pool_ids: set[str]) -> None:
    recorded = pq.read_table(out / "dynamics-0.parquet")
    assert len(recorded) == POOL
    assert set(recorded["item_id"].to_pylist()) == pool_ids
    assert set(recorded["presentations"].to_pylist()) == {PROXY_EPOCHS}
    events = recorded["forgetting"].to_numpy()
    assert set(np.unique(events)) <= {0, 1, np.inf}, "correct, then wrong: needs two epochs each"
    assert np.isfinite(recorded["entropy"].to_numpy()).all()


def test_core_sets_are_halves_by_the_recording(out: Path) -> None:
    recorded = pq.read_table(out / "dynamics-0.parquet")
    with np.load(out / "coresets-0.npz") as archive:
        coresets = dict(archive)
    assert set(coresets) == NAMES
    for positions in coresets.values():
        assert len(positions) == len(np.unique(positions)) == HALF
        assert 0 <= positions.min() <= positions.max() < POOL
    for name in ("forgetting", "entropy"):
        scores = recorded[name].to_numpy().astype(np.float32)
        hardest = np.argsort(-scores, kind="stable")[:HALF]
        np.testing.assert_array_equal(coresets[name], hardest)


def test_every_target_is_trained_and_better_than_chance(results: dict[str, Any]) -> None:
    assert results["data"]["items"] == POOL
    assert results["data"]["test_items"] == TEST
    assert results["data"]["budget"] == HALF
    macs = results["multiply_adds"]
    convolutions = 14 * 14 * 8 * 9 + 7 * 7 * 16 * 8 * 9 + 7 * 7 * 40 * 16 * 9
    assert macs["proxy"] == convolutions + 3 * 3 * 40 * 10
    assert 10 < macs["target"] / macs["proxy"] < 14
    steps = {"epochs": -(-HALF // BATCH) * EPOCHS, "steps": -(-POOL // BATCH) * EPOCHS}
    expected = {(name, same): (HALF, steps[same]) for name in NAMES for same in steps}
    expected["all", "both"] = (POOL, steps["steps"])
    trained = {
        (own["subset"], own["same"]): (own["items"], own["points"][-1][0])
        for own in results["trainings"].values()
    }
    assert trained == expected
    for own in results["trainings"].values():
        points = np.array(own["points"])
        assert np.isfinite(points).all()
        assert (np.diff(points[:, :3], axis=0) > 0).all(), "steps and times rise"
        assert points[-1, 3] > 2 * CHANCE
    [proxy] = results["proxies"].values()
    assert proxy["accuracy"] > 2 * CHANCE
    assert all(sum(counts) == HALF for counts in proxy["class_counts"].values())
    spent = [proxy["training"], proxy["upload"], *proxy["selection"].values()]
    assert all(own["wall_s"] > 0 and own["cpu_s"] > 0 for own in spent)


def test_the_page_tells_all_of_it(out: Path, results: dict[str, Any], tmp_path: Path) -> None:
    assert main(["report", "--out", str(out), "--to", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "RESULTS.md").read_text()
    assert page == (out / "RESULTS.md").read_text()
    for name in NAMES:
        for same in ("epochs", "steps"):
            accuracy = results["trainings"][f"0/{name}/{same}"]["points"][-1][3]
            assert f"| {name}, same {same} | {HALF:,} |" in page
            assert f"{accuracy:.2%}" in page
    assert (tmp_path / "page" / "accuracy.png").stat().st_size > 10_000
    assert (tmp_path / "page" / "results.json").read_text() == (out / "results.json").read_text()


@pytest.mark.usefixtures("threads")
def test_a_stopped_run_goes_on(
    out: Path, results: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One training is taken away, as if the run had been stopped before it: it comes out equal."""
    folder = shutil.copytree(out, tmp_path / "stopped")
    cut = json.loads((folder / "results.json").read_text())
    del cut["trainings"]["0/entropy/epochs"]
    (folder / "results.json").write_text(json.dumps(cut))
    assert main(words(folder, "--resume")) == 0
    assert capsys.readouterr().out.count("target on") == 1
    again = json.loads((folder / "results.json").read_text())
    assert accuracies(again) == accuracies(results)


def accuracies(results: dict[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """Steps and accuracies of every training."""
    return {
        key: [(step, accuracy) for step, _, _, accuracy in own["points"]]
        for key, own in results["trainings"].items()
    }


def test_results_are_not_overwritten_unasked(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(out)) == 1
    assert "go on with --resume" in capsys.readouterr().err
    assert main(words(out, "--resume", "--epochs", EPOCHS + 1)) == 1
    assert "has other settings" in capsys.readouterr().err


def test_a_folder_without_results_or_images_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "--out", str(tmp_path)]) == 1
    assert "there are no results to report on" in capsys.readouterr().err
    assert main(["run", "--data", str(tmp_path)]) == 1
    assert f"{tmp_path / 'images.npz'} does not exist" in capsys.readouterr().err
    for name in FILES:
        shutil.copyfile(DATA / name, tmp_path / name)
    np.save(tmp_path / "labels.npy", np.zeros(3, np.int32))
    assert main(["run", "--data", str(tmp_path)]) == 1
    assert "labels.npy has 3 entries, images.npz 6000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["run"], "required: --data"),
        (["run", "--data", "x", "--epochs", "0"], "must be a whole number of at least 1, got '0'"),
        (["run", "--data", "x", "--seeds", "many"], "must be a whole number of at least 1"),
        (["show"], "invalid choice"),
    ],
)
def test_wrong_words_are_told(
    given: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(given)
    assert told in capsys.readouterr().err
