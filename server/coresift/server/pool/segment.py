"""One segment of a pool: rows that one build or append wrote, mapped from disk.

A *slot* is a place in the segment's file. In a flat segment slot and row (relative to the
segment's first row) are the same; in an ivf segment the slots are sorted by coarse cluster,
rows ascending within each.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coresift.server.arrays import Float32s, Int64s, Rows, Stored
from coresift.server.pool import layout
from coresift.server.pool.manifest import Manifest
from coresift.server.pool.row_kernels import RowKernels


@dataclass(frozen=True)
class SlotMaps:
    """Where the rows of an ivf segment lie."""

    slot_rows: Rows
    row_slots: Rows
    lists: Int64s


@dataclass(frozen=True)
class Segment:
    """Mapped arrays of one segment; row numbers are relative to ``first``."""

    first: int
    stored: Stored
    norms: Float32s | None
    """Of the stored rows, in slot order; None where nothing needs them."""
    maps: SlotMaps | None
    unit: bool
    """Rows count as divided by their norms (cosine pools kept in float16)."""

    @property
    def items(self) -> int:
        return len(self.stored)

    @cached_property
    def kernels(self) -> RowKernels:
        """What computes on these rows."""
        return RowKernels(self.stored.size)

    def take(self, rows: npt.NDArray[Any]) -> Float32s:
        """Vectors of rows of this segment, float32 [n, d], a copy."""
        slots = rows if self.maps is None else self.maps.row_slots[rows]
        vectors = self.kernels.widen(self.stored[slots])
        if self.unit and self.norms is not None:
            vectors /= self.norms[slots, None]
        return vectors

    def rows_at(self, start: int, stop: int) -> Rows:
        """Pool rows of the slots [start, stop), int32."""
        if self.maps is None:
            return np.arange(self.first + start, self.first + stop, dtype=np.int32)
        return self.maps.slot_rows[start:stop] + np.int32(self.first)


def map_array(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """A file as an array that shares its pages; nothing written to it reaches the file."""
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.asarray(np.memmap(path, dtype, "c", shape=shape))


def open_segment(directory: Path, manifest: Manifest, number: int) -> Segment:
    """Map a segment's files; their sizes were checked with the manifest."""
    span = manifest.segments[number]
    norms = maps = None
    if manifest.has_norms:
        norms = map_array(directory / layout.norms(number), np.float32, (span.items,))
    if manifest.index == "ivf":
        maps = SlotMaps(
            map_array(directory / layout.slot_rows(number), np.int32, (span.items,)),
            map_array(directory / layout.row_slots(number), np.int32, (span.items,)),
            map_array(directory / layout.lists(number), np.int64, (manifest.clusters + 1,)),
        )
    shape = (span.items, manifest.dimension)
    stored = map_array(directory / layout.stored(number), manifest.dtype, shape)
    return Segment(span.first, stored, norms, maps, unit=manifest.metric == "cosine")
