"""Make the demo data: the CLINC150 folder with its embeddings projected to fewer dimensions.

    python tests/data/make_clinc150.py SOURCE OUT

SOURCE has embeddings.npy (float16 N x 384, unit rows), ids.txt.gz, labels.npy, label_names.json,
items.jsonl.gz, test_index.npy and LICENSE; OUT gets the same files with embeddings of DIMENSION
columns. The projection keeps inner products as well as any linear map of that rank can: the
leading right singular vectors of the pool rows (those outside the test split), not centred.
"""

from __future__ import annotations

import gzip
import shutil
import sys
from pathlib import Path

import numpy as np

DIMENSION = 176
COPIED = ("ids.txt.gz", "labels.npy", "label_names.json", "test_index.npy", "LICENSE")

README = """# clinc150, {dimension} dimensions

The demo and test data of Coresift: 23,700 short requests to an assistant, 150 intents of 150
requests each (0.63 %: every intent is a rare concept) and 1,200 out-of-scope ones.

- Source: github clinc/oos-eval @828f8093932c8fe6ca7936c3d2e52903b1c523de, data/data_full.json
  (all six splits). Larson et al., "An Evaluation Dataset for Intent Classification and
  Out-of-Scope Prediction", EMNLP 2019.
- Licence: Creative Commons Attribution 3.0 Unported (LICENSE, from the source).
- Changes: sentence embeddings were added (all-MiniLM-L6-v2, 384 dimensions, unit length) and
  projected to {dimension} dimensions: leading right singular vectors of the pool rows (the rows
  outside test_index.npy), not centred; rows normalised again; float16. They keep {kept:.1%} of
  the pool's squared length. Made by `tests/data/make_clinc150.py`.

| file | what |
|---|---|
| embeddings.npy | float16 [23700, {dimension}], unit rows |
| ids.txt.gz | one id a row |
| labels.npy, label_names.json | int32 class number of each row; names by number |
| items.jsonl.gz | id, text and label of each row |
| test_index.npy | rows of the fixed 20 % test split; the pool is the rest |
| reference_curves.json | curves of `tests/reference/protocol.py`: 4 concepts, 2 seeds |
| reference_picks.json | its next 100 picks at 100 and 500 labels (3 concepts, seed 0) |
"""


def project(X: np.ndarray, pool: np.ndarray, dimension: int) -> tuple[np.ndarray, float]:
    """Rows on the leading right singular vectors of the pool rows, and the share they keep."""
    rows = X[pool].astype(np.float64)
    values, vectors = np.linalg.eigh(rows.T @ rows)
    basis = vectors[:, ::-1][:, :dimension]
    basis *= np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(dimension)])
    projected = X.astype(np.float64) @ basis
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    return projected.astype(np.float16), float(values[::-1][:dimension].sum() / values.sum())


def repack(source: Path, target: Path) -> None:
    """Compress again, as small as gzip can and without a time stamp."""
    with gzip.GzipFile(target, "wb", compresslevel=9, mtime=0) as file:
        file.write(gzip.decompress(source.read_bytes()))


def main() -> None:
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    X = np.load(source / "embeddings.npy").astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    pool = np.ones(len(X), bool)
    pool[np.load(source / "test_index.npy")] = False
    projected, kept = project(X, pool, DIMENSION)
    np.save(out / "embeddings.npy", projected)
    for name in COPIED:
        shutil.copyfile(source / name, out / name)
    repack(source / "items.jsonl.gz", out / "items.jsonl.gz")
    (out / "README.md").write_text(README.format(dimension=DIMENSION, kept=kept))


if __name__ == "__main__":
    main()
