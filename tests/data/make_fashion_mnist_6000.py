"""Make the small image set of the tests: 600 images of each class of Fashion-MNIST.

    python tests/data/make_fashion_mnist_6000.py SOURCE OUT

SOURCE has images.npz (uint8 [70000, 28, 28]), labels.npy, ids.txt.gz, embeddings.npy (float16
[70000, 64]), label_names.json, test_index.npy and LICENSE; OUT gets the same files with some of
the rows, in the order of SOURCE: of each class 480 of the pool and 120 of the test split, drawn
with seed 0.
"""

from __future__ import annotations

import gzip
import shutil
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

POOL, TEST = 480, 120
"""Rows of a class, of the pool and of the test split."""
COPIED = ("label_names.json", "LICENSE")

README = """# fashion_mnist_6000

Images for the tests of the selection-via-proxy example (`tests/benchmarks/svp`): 6,000 of the
70,000 of Fashion-MNIST, 600 of each of the ten classes, 480 of the pool and 120 of the test split,
drawn with seed 0 by `tests/data/make_fashion_mnist_6000.py`.

- Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
  Learning Algorithms", 2017 (github zalandoresearch/fashion-mnist). The pixels were decoded from
  github Sentdex/nnfs_book @6c459c9ebadcccb2b4967da1cce1b57ed32e2791, fashion_mnist_images/, whose
  labels were counted against the source's.
- Licence: MIT, copyright 2017 Zalando SE (LICENSE).
- Order: by the source's split, class and file name. ids begin with train- and test-, the source's
  split; ours is test_index.npy.
- Embeddings: rows of those made for all 70,000: a convolutional network of four layers, trained
  from scratch on the pool of all (never on its test split), on the labels of five classes
  (T-shirt/top, Trouser, Coat, Sandal, Bag) and on which of four ways an image was turned; three
  epochs; unit rows.

| file | what |
|---|---|
| images.npz | images: uint8 [6000, 28, 28] |
| labels.npy, label_names.json | int32 class number of each row; names by number |
| ids.txt.gz | one id a row |
| embeddings.npy | float16 [6000, 64], unit rows |
| test_index.npy | int32 [1200], rows of the fixed test split; the pool is the rest |
"""


def draw(labels: npt.NDArray[np.int32], test: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Rows to keep, ascending."""
    generator = np.random.default_rng(0)
    in_test = np.zeros(len(labels), bool)
    in_test[test] = True
    parts = []
    for number in np.unique(labels):
        for half, count in ((False, POOL), (True, TEST)):
            rows = np.flatnonzero((labels == number) & (in_test == half))
            parts.append(generator.choice(rows, count, replace=False))
    return np.sort(np.concatenate(parts))


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: python tests/data/make_fashion_mnist_6000.py SOURCE OUT")
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    labels, test = np.load(source / "labels.npy"), np.load(source / "test_index.npy")
    rows = draw(labels, test)
    with np.load(source / "images.npz") as archive:
        np.savez_compressed(out / "images.npz", images=archive["images"][rows])
    np.save(out / "labels.npy", labels[rows])
    np.save(out / "embeddings.npy", np.load(source / "embeddings.npy")[rows])
    np.save(out / "test_index.npy", np.flatnonzero(np.isin(rows, test)).astype(np.int32))
    ids = gzip.decompress((source / "ids.txt.gz").read_bytes()).decode().split()
    with gzip.GzipFile(out / "ids.txt.gz", "wb", compresslevel=9, mtime=0) as file:
        file.write("".join(f"{ids[row]}\n" for row in rows).encode())
    for name in COPIED:
        shutil.copyfile(source / name, out / name)
    (out / "README.md").write_text(README)


if __name__ == "__main__":
    main()
