"""The pool of the benchmarks: a long-tailed mixture on the sphere, made on demand."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tests.benchmarks.report import NotMeasuredError

CLUSTERS = 1_000
RANK = 64
NOISE = 0.7
BLOCK = 50_000
DISK = 2.6
"""Times the embeddings' bytes: they, the pool, its ids and clusters."""
USUAL = ("0", "1", "float32", "auto")
"""Left out of the names of folders."""


@dataclass(frozen=True, slots=True)
class BenchPool:
    """A pool on disk and the cluster of each of its rows."""

    directory: Path
    items: int
    dimension: int
    clusters: npt.NDArray[np.int32]

    @property
    def embeddings(self) -> Path:
        """What it was built from."""
        return self.directory.parent / "embeddings.npy"

    @property
    def timed(self) -> Path:
        """Holds the seconds that its building took."""
        return self.directory.parent / "seconds.txt"

    def nbytes(self) -> int:
        """Bytes of the embeddings."""
        return self.embeddings.stat().st_size


def make_pool(
    root: Path,
    items: int,
    dimension: int,
    neighbours: int = 0,
    *,
    recall: float = 1.0,
    dtype: str = "float32",
    index: str = "auto",
) -> BenchPool:
    """Unit rows around 1,000 low-rank centres of Zipf sizes, noise of norm 0.7, seed 0.

    Made once: what lies there is used again. ``neighbours``: columns of the pool's neighbour table,
    0 for none; where all must be found (``recall``) it takes the square of the items in time.
    ``dtype``: float16 holds the same rows, rounded.

    Raises:
        NotMeasuredError: the disk has no room for it.
    """
    words = [str(neighbours), f"{recall:g}", dtype, index]
    unusual = [word for word, usual in zip(words, USUAL, strict=True) if word != usual]
    folder = root / "-".join(["pool", str(items), str(dimension), *unusual])
    needed = DISK * items * dimension * np.dtype(dtype).itemsize
    if not (folder / "pool").exists() and shutil.disk_usage(root).free < needed:
        raise NotMeasuredError(f"a pool of {items:,} items needs {needed / 1e9:.3g} GB of disk")
    folder.mkdir(parents=True, exist_ok=True)
    clusters = _write_embeddings(folder, items, dimension, dtype)
    pool = BenchPool(folder / "pool", items, dimension, clusters)
    if not pool.directory.exists():
        ids = folder / "ids.txt"
        ids.write_text("\n".join(f"item-{row:08d}" for row in range(items)))
        began = time.perf_counter()
        subprocess.run(
            [
                *(sys.executable, "-m", "coresift.client", "pool", "build"),
                *(str(pool.embeddings), "--ids", str(ids), "--index", index),
                *("--name", "bench", "--out", str(pool.directory)),
                *("--neighbours", str(neighbours), "--neighbours-recall", str(recall)),
            ],
            check=True,
        )
        pool.timed.write_text(str(time.perf_counter() - began))
    return pool


def _write_embeddings(
    folder: Path, items: int, dimension: int, dtype: str
) -> npt.NDArray[np.int32]:
    generator = np.random.default_rng(0)
    shares = 1 / np.arange(1, CLUSTERS + 1)
    clusters = generator.choice(CLUSTERS, items, p=shares / shares.sum()).astype(np.int32)
    path = folder / "embeddings.npy"
    if path.exists():
        return clusters
    basis = generator.standard_normal((RANK, dimension)).astype(np.float32)
    centres = generator.standard_normal((CLUSTERS, RANK)).astype(np.float32) @ basis
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    partial = path.with_suffix(".partial.npy")
    rows = np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=(items, dimension))
    for start in range(0, items, BLOCK):
        part = clusters[start : start + BLOCK]
        noise = generator.standard_normal((len(part), dimension)).astype(np.float32)
        noise *= NOISE / np.linalg.norm(noise, axis=1, keepdims=True)
        block = centres[part] + noise
        rows[start : start + BLOCK] = block / np.linalg.norm(block, axis=1, keepdims=True)
    rows.flush()
    partial.rename(path)
    return clusters
