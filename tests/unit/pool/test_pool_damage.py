from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.fixtures.pools import make_pool, write_inputs

from coresift.server.errors import StartError
from coresift.server.pool import checksums, layout
from coresift.server.pool.builder import BuildOptions, build_pool
from coresift.server.pool.input_files import InputFiles
from coresift.server.pool.pool import Pool, verify_pool

X = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float16)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool with every kind of file."""
    folder = tmp_path_factory.mktemp("whole")
    files = write_inputs(folder, X)
    ids = [f"item-{row}" for row in range(300)]
    pq.write_table(pa.table({"id": ids, "text": ids}), folder / "meta.parquet")
    inputs = InputFiles(files.embeddings, files.ids, folder / "meta.parquet")
    build_pool(BuildOptions(inputs, folder / "pool", index="ivf", neighbours=3))
    return folder / "pool"


@pytest.fixture
def pool(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "pool"))


def all_files(directory: Path) -> list[Path]:
    paths = sorted(directory.iterdir())
    assert len(paths) == 17
    return paths


def test_any_flipped_byte_is_found(pool: Path) -> None:
    for path in all_files(pool):
        content = path.read_bytes()
        for place in {0, len(content) // 2, len(content) - 2}:
            spoiled = bytearray(content)
            spoiled[place] ^= 1
            path.write_bytes(spoiled)
            with pytest.raises(StartError, match=path.name):
                Pool.open(pool)
        path.write_bytes(content)
    Pool.open(pool)


def test_any_missing_or_cut_file_is_found(pool: Path) -> None:
    for path in all_files(pool):
        content = path.read_bytes()
        for cut in (content[:-2], b"", content + b"x"):
            path.write_bytes(cut)
            with pytest.raises(StartError, match=path.name):
                Pool.open(pool)
        path.unlink()
        with pytest.raises(StartError, match=path.name):
            Pool.open(pool)
        path.write_bytes(content)
    Pool.open(pool)


def test_no_pool_at_all(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="is no pool; make one with `coresift pool build`"):
        Pool.open(tmp_path)


def test_newer_format(pool: Path) -> None:
    path = pool / layout.MANIFEST
    document = json.loads(path.read_text())
    document["format_version"] = 3
    path.write_text(json.dumps(document))
    with pytest.raises(StartError, match="format 3, this release reads up to 2: update"):
        Pool.open(pool)


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"format_version": "x"}', "\x00"])
def test_senseless_manifest(pool: Path, text: str) -> None:
    (pool / layout.MANIFEST).write_text(text)
    with pytest.raises(StartError, match=r"manifest\.json"):
        Pool.open(pool)


@pytest.mark.parametrize(
    "change",
    [
        {"items": 301},
        {"dimension": 5},
        {"dtype": "float32"},
        {"dtype": "object"},
        {"metric": "hamming"},
        {"clusters": 0},
        {"max_norm": None},
        {"segments": []},
        {"segments": [{"first": 1, "items": 299}]},
        {"lineage": []},
        {"files": {}},
        {"surplus": 1},
    ],
)
def test_manifest_that_contradicts_itself(pool: Path, change: dict[str, object]) -> None:
    """Even with a good checksum: counts that do not fit the files are never mapped."""
    from coresift.server.pool.manifest import _checksum

    path = pool / layout.MANIFEST
    document = json.loads(path.read_text()) | change
    del document["checksum"]
    path.write_text(json.dumps({**document, "checksum": _checksum(document)}))
    with pytest.raises(StartError, match="not a valid manifest"):
        Pool.open(pool)


def test_verify_checks_every_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "BLOCK_BYTES", 256)
    make_pool(tmp_path, X)
    path = tmp_path / "pool" / layout.stored(0)
    content = bytearray(path.read_bytes())
    done: list[int] = []
    verify_pool(tmp_path / "pool", done.append)
    assert sum(done) > len(content)
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(StartError, match=path.name):
        verify_pool(tmp_path / "pool")


def test_start_samples_large_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last block always, one other by chance: damage is found after some starts."""
    monkeypatch.setattr(checksums, "BLOCK_BYTES", 1024)
    make_pool(tmp_path, X)
    path = tmp_path / "pool" / layout.stored(0)
    content = bytearray(path.read_bytes())
    assert len(content) == 2400
    content[0] ^= 1
    path.write_bytes(content)

    def found() -> bool:
        try:
            Pool.open(tmp_path / "pool")
        except StartError:
            return True
        return False

    assert any(found() for _ in range(64))


def test_no_gpu_is_said(whole: Path) -> None:
    import torch

    if torch.cuda.is_available():
        Pool.open(whole, device="cuda").close()
    else:
        with pytest.raises(StartError, match="no cuda device here: use --device cpu"):
            Pool.open(whole, device="cuda")
