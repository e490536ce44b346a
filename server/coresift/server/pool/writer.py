"""Writes the vectors of a segment: checked, normalised for the metric, in the pool's dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coresift.server.arrays import Float64s, Int64s, Rows
from coresift.server.pool import layout
from coresift.server.pool.canonical import Metric
from coresift.server.pool.failures import BuildError
from coresift.server.pool.manifest import Dtype
from coresift.server.pool.segment import SlotMaps, map_array

MAX_NORM = 1e18
"""Longer rows would overflow float32 in a product."""

_COPY_ROWS = 16_384


@dataclass(frozen=True)
class Written:
    """What is known after a segment's vectors were written."""

    items: int
    max_norm: float


def write_vectors(
    directory: Path,
    number: int,
    source: Iterator[npt.NDArray[Any]],
    ids: pa.LargeStringArray,
    *,
    metric: Metric,
    dtype: Dtype,
    with_norms: bool,
    done: Callable[[int], None],
) -> Written:
    """Stream blocks into a segment's files, in row order.

    Cosine pools: float32 rows are divided by their norm. float16 rows keep their bits, and the
    norm is kept beside them: what is read is float32(row) / norm, as if float32 rows had been
    normalised. BuildError names the first row that cannot be kept.
    """
    first, largest = 0, 0.0
    norm_file = directory / layout.norms(number)
    with (directory / layout.stored(number)).open("wb") as vectors, norm_file.open("wb") as norms:
        for block in source:
            wide = block.astype(np.float64)
            lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))
            _require_usable(lengths, metric, first, ids)
            if metric == "cosine" and not (block.dtype == np.float16 and dtype == "float16"):
                wide /= lengths[:, None]
            kept = _narrow(wide, dtype, first, ids)
            kept.tofile(vectors)
            stored_norms = _norms(kept)
            largest = max(largest, float(stored_norms.max()))
            if with_norms:
                stored_norms.astype(np.float32).tofile(norms)
            first += len(block)
            done(len(block))
    if not with_norms:
        norm_file.unlink()
    return Written(first, 1.0 if metric == "cosine" else max(largest, 2.0**-60))


def sort_into_lists(directory: Path, number: int, clusters: Rows, count: int) -> None:
    """Rewrite a segment's files in list order and write the maps of an ivf segment."""
    slot_rows = np.argsort(clusters, kind="stable").astype(np.int32)
    row_slots = np.empty_like(slot_rows)
    row_slots[slot_rows] = np.arange(len(slot_rows), dtype=np.int32)
    sizes = np.bincount(clusters, minlength=count)
    lists: Int64s = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    maps = SlotMaps(slot_rows, row_slots, lists)
    maps.slot_rows.tofile(directory / layout.slot_rows(number))
    maps.row_slots.tofile(directory / layout.row_slots(number))
    maps.lists.tofile(directory / layout.lists(number))
    for name in (layout.stored(number), layout.norms(number)):
        if (directory / name).exists():
            _reorder(directory / name, slot_rows)


def _reorder(path: Path, slot_rows: Rows) -> None:
    width = path.stat().st_size // len(slot_rows)
    source = map_array(path, np.dtype((np.void, width)), (len(slot_rows),))
    sorted_path = path.with_suffix(".sorted")
    with sorted_path.open("wb") as file:
        for start in range(0, len(slot_rows), _COPY_ROWS):
            source[slot_rows[start : start + _COPY_ROWS]].tofile(file)
    sorted_path.replace(path)


def _narrow(
    wide: Float64s, dtype: Dtype, first: int, ids: pa.LargeStringArray
) -> npt.NDArray[np.float16] | npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        kept = wide.astype(np.float16) if dtype == "float16" else wide.astype(np.float32)
    lost = np.flatnonzero(~np.isfinite(kept).all(axis=1))
    if len(lost):
        raise BuildError(f"{_item(first + lost[0], ids)} does not fit in {dtype}")
    return kept


def _norms(kept: npt.NDArray[Any]) -> Float64s:
    wide = kept.astype(np.float64)
    norms: Float64s = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    return norms


def _require_usable(
    lengths: Float64s, metric: Metric, first: int, ids: pa.LargeStringArray
) -> None:
    _refuse(~np.isfinite(lengths), "holds NaN or infinity", first, ids)
    if metric == "cosine":
        _refuse(lengths == 0, "is a zero vector, which has no cosine", first, ids)
    else:
        _refuse(lengths > MAX_NORM, f"has a norm above {MAX_NORM:g}", first, ids)


def _refuse(wrong: npt.NDArray[np.bool_], why: str, first: int, ids: pa.LargeStringArray) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        more = f" (and {len(rows) - 1} more soon after)" if len(rows) > 1 else ""
        raise BuildError(f"{_item(first + rows[0], ids)} {why}{more}")


def _item(row: int, ids: pa.LargeStringArray) -> str:
    return f"row {row} (id {ids[int(row)].as_py()!r})"
