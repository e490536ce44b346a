"""The pool of the benchmarks: a long-tailed mixture on the sphere, made on demand."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

CLUSTERS = 1_000
RANK = 64
NOISE = 0.7
BLOCK = 50_000


@dataclass(frozen=True, slots=True)
class BenchPool:
    """A pool on disk and the cluster of each of its rows."""

    directory: Path
    items: int
    clusters: npt.NDArray[np.int32]

    def nbytes(self) -> int:
        """Bytes of the embeddings."""
        return (self.directory.parent / "embeddings.npy").stat().st_size


def make_pool(root: Path, items: int, dimension: int, neighbours: int = 0) -> BenchPool:
    """Unit rows around 1,000 low-rank centres of Zipf sizes, noise of norm 0.7, seed 0.

    ``neighbours``: columns of the pool's neighbour table, 0 for none. It takes the square of the
    items in time.
    """
    folder = root / f"pool-{items}-{dimension}{f'-{neighbours}' if neighbours else ''}"
    folder.mkdir(parents=True, exist_ok=True)
    clusters = _write_embeddings(folder, items, dimension)
    directory = folder / "pool"
    if not directory.exists():
        ids = folder / "ids.txt"
        ids.write_text("\n".join(f"item-{row:08d}" for row in range(items)))
        subprocess.run(
            [
                *(sys.executable, "-m", "coresift.client", "pool", "build"),
                *(str(folder / "embeddings.npy"), "--ids", str(ids)),
                *("--name", "bench", "--out", str(directory), "--neighbours", str(neighbours)),
            ],
            check=True,
        )
    return BenchPool(directory, items, clusters)


def _write_embeddings(folder: Path, items: int, dimension: int) -> npt.NDArray[np.int32]:
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
    rows = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=(items, dimension))
    for start in range(0, items, BLOCK):
        part = clusters[start : start + BLOCK]
        noise = generator.standard_normal((len(part), dimension)).astype(np.float32)
        noise *= NOISE / np.linalg.norm(noise, axis=1, keepdims=True)
        block = centres[part] + noise
        rows[start : start + BLOCK] = block / np.linalg.norm(block, axis=1, keepdims=True)
    rows.flush()
    partial.rename(path)
    return clusters
