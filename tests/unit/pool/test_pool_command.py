from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from tests.fixtures.pools import write_inputs
from typer.testing import CliRunner, Result

from coresift.server.commands.pool import register
from coresift.server.pool.layout import stored

X = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)


def run(*words: object) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return CliRunner().invoke(app, ["pool", *map(str, words)])


def test_build_append_info_verify(tmp_path: Path) -> None:
    files = write_inputs(tmp_path, X)
    made = run(
        "build", files.embeddings, "--ids", files.ids, "--out", tmp_path / "p",
        "--name", "demo", "--neighbours", 3, "--index", "ivf", "--dtype", "float16",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert "pool demo" in made.output
    assert "50 items of dimension 4" in made.output
    facts = json.loads(run("info", tmp_path / "p", "--json").output)
    assert facts["name"] == "demo"
    assert facts["index"] == "ivf"
    assert facts["dtype"] == "float16"
    assert facts["neighbours"] == 3
    assert facts["version"] in made.output
    more = write_inputs(tmp_path, X[:2], ["a", "b"], "more")
    appended = run(
        "append", tmp_path / "p", more.embeddings, "--ids", more.ids, "--out", tmp_path / "q"
    )
    assert appended.exit_code == 0, appended.output
    shown = run("info", tmp_path / "q").output
    assert "52" in shown
    assert facts["version"] in shown
    verified = run("verify", tmp_path / "q")
    assert verified.exit_code == 0
    assert "are whole" in verified.output


def test_a_device_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the environment says, which servers read too."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    files = write_inputs(tmp_path, X)
    build = ["build", files.embeddings, "--ids", files.ids, "--out", tmp_path / "p"]
    for given in (["--device", "cuda"], ["--device", "cuda:1", "--neighbours", 3]):
        refused = run(*build, *given)
        assert refused.exit_code == 1
        said = f"--device {given[1]}: torch sees no CUDA GPU here; use --device cpu"
        assert refused.output == f"error: {said}\n"
    monkeypatch.setenv("CORESIFT_DEVICE", "gpu")
    refused = run(*build)
    assert refused.exit_code == 1
    assert "--device must be auto, cpu, cuda or cuda:NUMBER, got 'gpu'" in refused.output
    assert not (tmp_path / "p").exists()
    made = run(*build, "--device", "cpu", "--neighbours", 3)
    assert made.exit_code == 0, made.output
    refused = run("append", tmp_path / "p", files.embeddings, "--out", tmp_path / "q")
    assert refused.exit_code == 1
    assert "got 'gpu'" in refused.output


def test_info_says_how_good_the_table_is(tmp_path: Path) -> None:
    files = write_inputs(tmp_path, X)
    given = ["build", files.embeddings, "--ids", files.ids, "--neighbours", 3]
    for recall, words in ((None, "3, exact"), (0.9, "3, recall 0.9 or more")):
        out = tmp_path / f"p{recall}"
        more = [] if recall is None else ["--neighbours-recall", recall]
        made = run(*given, "--out", out, *more)
        assert made.exit_code == 0, made.output
        assert words in run("info", out).output
        assert json.loads(run("info", out, "--json").output)["neighbours_recall"] == (recall or 1)


def test_errors_are_one_line(tmp_path: Path) -> None:
    files = write_inputs(tmp_path, np.where(np.arange(50)[:, None] == 4, np.nan, X))
    out = tmp_path / "p"
    for result in (
        run("build", files.embeddings, "--ids", files.ids, "--out", out),
        run("build", tmp_path / "none.npy", "--ids", files.ids, "--out", out),
        run("build", files.embeddings, "--ids", tmp_path, "--out", out),
        run("append", tmp_path, files.embeddings, "--ids", files.ids, "--out", out),
        run("info", tmp_path),
        run("verify", tmp_path),
    ):
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        assert isinstance(result.exception, SystemExit)
    assert not out.exists()


def test_verify_finds_damage(tmp_path: Path) -> None:
    files = write_inputs(tmp_path, X)
    run("build", files.embeddings, "--ids", files.ids, "--out", tmp_path / "p")
    path = tmp_path / "p" / stored(0)
    content = bytearray(path.read_bytes())
    content[7] ^= 8
    path.write_bytes(content)
    result = run("verify", tmp_path / "p")
    assert result.exit_code == 1
    assert f"{path} is damaged" in result.stderr
