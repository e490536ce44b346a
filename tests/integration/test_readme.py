"""What the README says works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.benchmarks.process import Server

import coresift.client
from coresift.server.pool.builder import BuildOptions, InputFiles, build_pool

ROOT = Path(__file__).parents[2]
FOLDERS = ("client", "deploy", "proto", "server", "tests")
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for own in FOLDERS for page in (ROOT / own).rglob("*.md"))]
)
DATA = ROOT / "tests" / "data" / "clinc150"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    out = tmp_path_factory.mktemp("readme") / "pool"
    files = InputFiles(DATA / "embeddings.npy", DATA / "ids.txt.gz", DATA / "items.jsonl.gz")
    build_pool(BuildOptions(files, out, name="clinc150"))
    return Server(out)


def test_the_example_runs_in_twelve_lines(server: Server) -> None:
    example, growing = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    lines = [line for line in example.splitlines() if line.strip()]
    assert len(lines) <= 12
    found: dict[str, object] = {}
    with server as running:
        exec(example.replace("127.0.0.1:50051", running.listen), found)  # noqa: S102
        names = {name: getattr(coresift.client, name) for name in coresift.client.__all__}
        with coresift.client.Client(running.listen) as client:
            exec(growing, names | {"client": client})  # noqa: S102
    assert len(found["batch"]) == 20  # type: ignore[arg-type]
    assert len(found["keep"].item_ids) == 200  # type: ignore[attr-defined]


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
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)", page.read_text())
    paths = [target.partition("#")[0] for target in targets if not re.match(r"\w+:|#", target)]
    assert [path for path in paths if not (page.parent / path).is_file()] == []
