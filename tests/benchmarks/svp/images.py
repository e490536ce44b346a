"""The images of a folder: the pool from their pixels, and the fixed test split."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tests.benchmarks.svp.models import CLASSES, SIDE
from torch import Tensor

FILES = (
    "images.npz",
    "labels.npy",
    "label_names.json",
    "ids.txt.gz",
    "embeddings.npy",
    "test_index.npy",
)
SHIFT = 2
"""Pixels that a training image moves at most."""
ORDER_SEED = 0


class DataError(Exception):
    """The folder is not what is needed; the message names the file and what is wrong."""


@dataclass(frozen=True, slots=True)
class Images:
    """Everything outside the test split, and the test split.

    The files are sorted by class, and many items tie in their number of forgetting events. The
    service takes tied items by row, so the rows of the pool are in an order that was drawn once:
    else the last classes would be missing from the core-set.

    Attributes:
        classes: their names by number.
        item_ids: of the pool, in the order of its rows.
        embeddings: float16 [n, d], what the service sees of them.
        pixels: uint8 [n, 1, 32, 32], what the networks see; two black pixels on every side.
        labels: int64 [n].
        test_pixels: float32 [m, 1, 28, 28], standardised.
        test_labels: int64 [m].
        mean, deviation: of the pool's pixels.
    """

    name: str
    classes: tuple[str, ...]
    item_ids: tuple[str, ...]
    embeddings: npt.NDArray[np.float16]
    pixels: Tensor
    labels: Tensor
    test_pixels: Tensor
    test_labels: Tensor
    mean: float
    deviation: float

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, positions: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pixels, float32 [b, 1, 28, 28], and labels, int64 [b], of items by position.

        The whole batch is moved by up to two pixels; every second image, by chance, is mirrored.
        """
        down, right = torch.randint(0, 2 * SHIFT + 1, (2,), generator=generator).tolist()
        window = self.pixels[positions][:, :, down : down + SIDE, right : right + SIDE]
        mirrored = torch.rand(len(positions), generator=generator) < 0.5
        window = torch.where(mirrored[:, None, None, None], window.flip(3), window)
        return standardised(window, self.mean, self.deviation), self.labels[positions]


def standardised(pixels: Tensor, mean: float, deviation: float) -> Tensor:
    """Grey values 0..255 as float32 of mean 0 and deviation 1."""
    return (pixels.float() - mean) / deviation


def load(folder: Path) -> Images:
    """Read a folder with the files `FILES`. Raises `DataError`."""
    for name in FILES:
        if not (folder / name).is_file():
            raise DataError(f"{folder / name} does not exist: --data names a folder with {_NAMES}")
    try:
        with np.load(folder / "images.npz") as archive:
            images = archive["images"]
        labels = np.load(folder / "labels.npy").astype(np.int64)
        embeddings = np.load(folder / "embeddings.npy").astype(np.float16)
        test = np.load(folder / "test_index.npy").astype(np.int64)
        ids = gzip.decompress((folder / "ids.txt.gz").read_bytes()).decode().split()
        classes = tuple(json.loads((folder / "label_names.json").read_text()))
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{folder} cannot be read: {error}") from error
    _check(folder, images, labels, embeddings, ids, test)
    kept = np.ones(len(images), bool)
    kept[test] = False
    rows = np.random.default_rng(ORDER_SEED).permutation(np.flatnonzero(kept))
    mean, deviation = float(images[rows].mean()), float(images[rows].std())
    pixels = torch.from_numpy(images[rows][:, None])
    return Images(
        name=folder.resolve().name,
        classes=classes,
        item_ids=tuple(ids[row] for row in rows.tolist()),
        embeddings=embeddings[rows],
        pixels=torch.nn.functional.pad(pixels, (SHIFT,) * 4),
        labels=torch.from_numpy(labels[rows]),
        test_pixels=standardised(torch.from_numpy(images[test][:, None]), mean, deviation),
        test_labels=torch.from_numpy(labels[test]),
        mean=mean,
        deviation=deviation,
    )


_NAMES = ", ".join(FILES)


def _check(
    folder: Path,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    embeddings: npt.NDArray[np.float16],
    ids: list[str],
    test: npt.NDArray[np.int64],
) -> None:
    if images.shape[1:] != (SIDE, SIDE) or images.dtype != np.uint8:
        raise DataError(
            f"{folder / 'images.npz'} must hold uint8 [n, {SIDE}, {SIDE}], "
            f"got {images.dtype} {images.shape}"
        )
    counts = {"labels.npy": len(labels), "embeddings.npy": len(embeddings), "ids.txt.gz": len(ids)}
    for name, count in counts.items():
        if count != len(images):
            raise DataError(f"{folder / name} has {count} entries, images.npz {len(images)}")
    if labels.min() < 0 or labels.max() >= CLASSES:
        raise DataError(f"{folder / 'labels.npy'} must hold classes 0..{CLASSES - 1}")
    if not len(test) or test.min() < 0 or test.max() >= len(images):
        raise DataError(f"{folder / 'test_index.npy'} must name rows in 0..{len(images) - 1}")
    if len(images) - len(test) < 2 * CLASSES:
        raise DataError(f"{folder} leaves {len(images) - len(test)} images outside the test split")
