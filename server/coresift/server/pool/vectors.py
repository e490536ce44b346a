"""Embedding files as streams of blocks, whatever their size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds

from coresift.server.pool.failures import BuildError
from coresift.server.pool.strings import to_numpy
from coresift.server.pool.tables import is_arrow, is_parquet

_SPOOL_ROWS = 16_384


@dataclass(frozen=True)
class EmbeddingFile:
    """Embeddings as an array, [n, d] of float16, float32 or float64, mapped where possible."""

    array: npt.NDArray[Any]
    is_table: bool
    """A Parquet or Arrow file, which may hold ids too."""


def open_embeddings(path: Path, column: str, spool: Path) -> EmbeddingFile:
    """Open ``.npy``, Parquet, Arrow or Feather. Lists are written to ``spool`` first."""
    if is_parquet(path) or is_arrow(path):
        return EmbeddingFile(_spool_lists(path, column, spool), is_table=True)
    if path.suffix.lower() != ".npy":
        raise BuildError(f"{path} is of no known kind: name it .npy, .parquet, .arrow or .feather")
    array = _map_npy(path)
    if array.ndim != 2:
        raise BuildError(f"{path} has shape {array.shape}; expected [items, dimension]")
    _require_shape(path, array)
    return EmbeddingFile(array, is_table=False)


def read_row_selection(path: Path, items: int) -> npt.NDArray[np.int64]:
    """Row numbers to take, in this order: a .npy of distinct integers in 0..items-1."""
    rows = _map_npy(path)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or len(rows) == 0:
        raise BuildError(f"{path} must hold a list of integers, not {rows.dtype} {rows.shape}")
    wrong = np.flatnonzero((rows < 0) | (rows >= items))
    if len(wrong):
        place = wrong[0]
        raise BuildError(f"{path}: number {place} is {rows[place]}, rows are 0..{items - 1}")
    values, counts = np.unique(rows, return_counts=True)
    if counts.max() > 1:
        raise BuildError(f"{path}: row {values[counts > 1][0]} stands there more than once")
    return np.asarray(rows, np.int64)


def _map_npy(path: Path) -> npt.NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise BuildError(f"{path} does not exist") from None
    except (OSError, ValueError, EOFError) as problem:
        raise BuildError(f"{path} is no readable .npy file: {problem}") from None
    if not isinstance(array, np.ndarray):
        raise BuildError(f"{path} is an archive; save one array with numpy.save")
    return np.asarray(array)


def _require_shape(path: Path, array: npt.NDArray[Any]) -> None:
    if array.dtype not in (np.float16, np.float32, np.float64):
        raise BuildError(f"{path} holds {array.dtype}; embeddings are float16 or float32")
    if array.shape[0] == 0 or array.shape[1] == 0:
        raise BuildError(f"{path} has shape {array.shape}: no items, or dimension 0")
    if array.shape[0] > np.iinfo(np.int32).max:
        raise BuildError(f"{path} has {array.shape[0]} items, a pool holds at most 2^31 - 1")


def _spool_lists(path: Path, column: str, spool: Path) -> npt.NDArray[Any]:
    items, dimension, dtype = 0, 0, np.dtype(np.float32)
    try:
        dataset = ds.dataset(path, format="parquet" if is_parquet(path) else "ipc")
        if column not in dataset.schema.names:
            there = ", ".join(dataset.schema.names)
            raise BuildError(f"{path} has no column {column!r}; it has: {there}")
        with spool.open("wb") as file:
            for batch in dataset.to_batches(columns=[column], batch_size=_SPOOL_ROWS):
                if not len(batch):
                    continue
                block = _matrix(batch.column(0), f"{path} column {column!r}", items, dimension)
                block.tofile(file)
                items, dimension, dtype = items + len(block), block.shape[1], block.dtype
    except FileNotFoundError:
        raise BuildError(f"{path} does not exist") from None
    except pa.ArrowException as problem:
        raise BuildError(f"{path} cannot be read: {problem}") from None
    if items == 0:
        raise BuildError(f"{path} holds no items")
    array = np.asarray(np.memmap(spool, dtype, "r", shape=(items, dimension)))
    _require_shape(path, array)
    return array


def _matrix(lists: Any, what: str, first: int, dimension: int) -> npt.NDArray[Any]:
    kind = lists.type
    is_list = (
        pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    )
    if not is_list or not pa.types.is_floating(kind.value_type):
        raise BuildError(f"{what} is of type {kind}; expected lists of float16 or float32")
    if lists.null_count:
        row = first + int(np.flatnonzero(to_numpy(lists.is_null()))[0])
        raise BuildError(f"{what}: no embedding at row {row}")
    if not pa.types.is_fixed_size_list(kind):
        lengths = to_numpy(lists.value_lengths())
        dimension = dimension or int(lengths[0])
        other = np.flatnonzero(lengths != dimension)
        if len(other):
            raise BuildError(
                f"{what}: row {first + other[0]} has {lengths[other[0]]} numbers, "
                f"the rows before it {dimension}"
            )
    values = lists.flatten()
    if values.null_count:
        raise BuildError(f"{what}: a number is missing in rows {first}..{first + len(lists) - 1}")
    return to_numpy(values).reshape(len(lists), -1)


def blocks(
    array: npt.NDArray[Any], selection: npt.NDArray[np.int64] | None, rows: int
) -> Iterator[npt.NDArray[Any]]:
    """The array's rows, or the selected ones, ``rows`` at a time."""
    count = len(array) if selection is None else len(selection)
    for start in range(0, count, rows):
        end = start + rows
        yield array[start:end] if selection is None else array[selection[start:end]]
