"""A labelled data set on disk, cut into the pool and the test split."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

FILES = ("embeddings.npy", "ids.txt.gz", "labels.npy", "label_names.json", "test_index.npy")


class DatasetError(Exception):
    """The folder is not a data set; the message names the file and what is wrong."""


@dataclass(frozen=True)
class Dataset:
    """A data set; ``rows`` are numbers in its files, positions are places in the pool."""

    name: str
    use: str | None
    """The file of row numbers that restricts it, if any."""
    label_names: tuple[str, ...]
    rows: Ints
    """Row of each position, ascending."""
    item_ids: tuple[str, ...]
    """Id of each position."""
    vectors: Floats
    """float32 [positions, d], unit rows."""
    labels: Ints
    """Class number of each position."""
    test_vectors: Floats
    test_labels: Ints

    @property
    def size(self) -> int:
        """Rows in use: pool and test split."""
        return len(self.labels) + len(self.test_labels)

    def positions_of(self, rows: list[int]) -> Ints:
        """Positions of dataset rows; `DatasetError` names a row outside the pool."""
        wanted = np.asarray(rows, dtype=np.int64)
        places = np.searchsorted(self.rows, wanted)
        found = places < len(self.rows)
        found[found] = self.rows[places[found]] == wanted[found]
        if not found.all():
            raise DatasetError(
                f"row {int(wanted[~found][0])} is not in the pool of {self.name}"
                f"{f' with {self.use}' if self.use else ' (is --use missing?)'}"
            )
        return places

    def label_of(self, name: str) -> int:
        """Class number of a name."""
        if name not in self.label_names:
            raise DatasetError(f"{self.name} has no class {name!r}")
        return self.label_names.index(name)


def load(folder: Path, use: str | None = None) -> Dataset:
    """Read a folder with the files `FILES`; ``use`` names a .npy of row numbers to keep.

    Raises:
        DatasetError: a file is missing or does not fit the others.
    """
    for name in (*FILES, *([use] if use else [])):
        if not (folder / name).is_file():
            raise DatasetError(f"{folder / name} does not exist")
    try:
        vectors = np.load(folder / "embeddings.npy").astype(np.float32)
        labels = np.load(folder / "labels.npy").astype(np.int64)
        test = np.load(folder / "test_index.npy").astype(np.int64)
        kept = np.load(folder / use).astype(np.int64) if use else np.arange(len(vectors))
        ids = gzip.decompress((folder / "ids.txt.gz").read_bytes()).decode().splitlines()
        names = json.loads((folder / "label_names.json").read_text())
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"{folder} cannot be read: {error}") from error
    _check(folder, vectors, labels, ids)
    for file, rows in (("test_index.npy", test), (use, kept)):
        if len(rows) and (rows.min() < 0 or rows.max() >= len(vectors)):
            raise DatasetError(f"{folder / str(file)} names rows outside 0..{len(vectors) - 1}")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    used, held = np.zeros(len(vectors), bool), np.zeros(len(vectors), bool)
    used[kept], held[test] = True, True
    pool_rows, test_rows = np.flatnonzero(used & ~held), np.flatnonzero(used & held)
    return Dataset(
        name=folder.resolve().name,
        use=use,
        label_names=tuple(names),
        rows=pool_rows,
        item_ids=tuple(ids[row] for row in pool_rows.tolist()),
        vectors=vectors[pool_rows],
        labels=labels[pool_rows],
        test_vectors=vectors[test_rows],
        test_labels=labels[test_rows],
    )


def _check(folder: Path, vectors: Floats, labels: Ints, ids: list[str]) -> None:
    if vectors.ndim != 2:
        raise DatasetError(f"{folder / 'embeddings.npy'} must be [n, d], got {vectors.shape}")
    for name, count in (("labels.npy", len(labels)), ("ids.txt.gz", len(ids))):
        if count != len(vectors):
            raise DatasetError(
                f"{folder / name} has {count} entries, embeddings.npy {len(vectors)} rows"
            )
    norms = np.linalg.norm(vectors, axis=1)
    bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(bad):
        raise DatasetError(f"row {bad[0]} of embeddings.npy is zero or not finite")
