"""What the README says works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.benchmarks.process import Server
from tests.fixtures.pools import write_inputs

from coresift.client import Client
from coresift.server.pool.builder import BuildOptions, build_pool
from coresift.server.pool.input_files import InputFiles

ROOT = Path(__file__).parents[2]
FOLDERS = ("client", "deploy", "proto", "server", "tests")
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for own in FOLDERS for page in (ROOT / own).rglob("*.md"))]
)
DATA = ROOT / "tests" / "data" / "clinc150"
PHOTOS = 400


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    out = tmp_path_factory.mktemp("readme") / "pool"
    files = InputFiles(DATA / "embeddings.npy", DATA / "ids.txt.gz", DATA / "items.jsonl.gz")
    build_pool(BuildOptions(files, out, name="clinc150"))
    photos = tmp_path_factory.mktemp("photos")
    vectors = np.random.default_rng(0).normal(size=(PHOTOS, 8)).astype(np.float32)
    build_pool(BuildOptions(write_inputs(photos, vectors), photos / "pool", name="photos"))
    return Server(out, photos / "pool")


def test_the_examples_run(server: Server) -> None:
    example, growing, compressing = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S
    )
    assert len([line for line in example.splitlines() if line.strip()]) <= 12
    found: dict[str, Any] = {}
    half = PHOTOS // 2
    with server as running:
        exec(example.replace("127.0.0.1:50051", running.listen), found)  # noqa: S102
        assert len(found["batch"]) == 20
        assert len(found["keep"].item_ids) == 200
        with Client(running.listen) as client:
            exec(growing, {"client": client})  # noqa: S102
            found = training_of_photos() | {"client": client}
            exec(compressing.replace("25_000", str(half)), found)  # noqa: S102
    assert found["keep"].summary.class_counts == {0: half // 2, 1: half // 2}


def training_of_photos() -> dict[str, Any]:
    """What a training loop has at hand: items of two classes, a model that knows one of them."""
    item_ids = [f"item-{n}" for n in range(PHOTOS)]
    classes = np.arange(PHOTOS) % 2
    logits = np.random.default_rng(1).normal((1, 0), size=(PHOTOS, 2))
    return {
        "item_ids": item_ids,
        "batch_ids": item_ids,
        "logits": logits,
        "labels": classes,
        "classes": classes,
    }


def test_every_make_verb_of_the_readme_exists() -> None:
    verbs = set(re.findall(r"make ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert verbs
    assert verbs <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


def test_every_call_of_the_api_is_in_the_readme() -> None:
    proto = (ROOT / "proto" / "coresift" / "v1" / "selection.proto").read_text()
    readme = (ROOT / "README.md").read_text()
    for call in re.findall(r"^  rpc (\w+)", proto, re.M):
        assert call in readme


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)", page.read_text())
    paths = [target.partition("#")[0] for target in targets if not re.match(r"\w+:|#", target)]
    assert [path for path in paths if not (page.parent / path).exists()] == []
