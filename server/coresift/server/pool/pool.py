"""A pool version as the rest of the server sees it: ids, search, fetch, scan, metadata."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coresift.server.arrays import Bools, Float32s, Float64s, Int64s, Rows
from coresift.server.errors import CoresiftError, Reason, StartError, invalid
from coresift.server.pool import layout
from coresift.server.pool.between import rows_between
from coresift.server.pool.checksums import FileChecksum, check_all, check_sample, read_checksums
from coresift.server.pool.clusters import centroid_rows
from coresift.server.pool.filter_syntax import parse_filter
from coresift.server.pool.filters import rows_where
from coresift.server.pool.gathered import Gathering
from coresift.server.pool.groups import ColumnGroups
from coresift.server.pool.ids import ItemIds
from coresift.server.pool.manifest import Manifest, read_manifest
from coresift.server.pool.metadata import map_metadata, metadata_of
from coresift.server.pool.neighbours import without_self
from coresift.server.pool.rows import Block, Stop, VectorRows
from coresift.server.pool.search import exact_search, list_search
from coresift.server.pool.segment import map_array, open_segment
from coresift.server.pool.writer import MAX_NORM

G = TypeVar("G")
T = TypeVar("T")


class Pool:
    """One immutable pool version, mapped from its directory. Safe to use from any thread."""

    def __init__(self, directory: Path, manifest: Manifest, device: str) -> None:
        self._directory = directory
        self.manifest = manifest
        n = manifest.items
        self.ids = ItemIds.open(directory, n)
        segments = [open_segment(directory, manifest, i) for i in range(len(manifest.segments))]
        self._vectors = VectorRows(segments, manifest.metric, manifest.max_norm, device)
        self.gathering = Gathering(self._vectors)
        """Brings rows together for products of many with many."""
        shape = (manifest.clusters, manifest.dimension)
        self.centroids: Float32s = map_array(directory / layout.CENTROIDS, np.float32, shape)
        """float32 [clusters, d]."""
        self.clusters: Rows = _read_only(map_array(directory / layout.CLUSTERS, np.int32, (n,)))
        """int32 [N]: the cluster of each row."""
        self.distances: Float32s = _read_only(
            map_array(directory / layout.DISTANCES, np.float32, (n,))
        )
        """float32 [N]: squared distance of each row to its centroid."""
        self.cold_start_rows: Rows = _read_only(
            map_array(directory / layout.COLD_START, np.int32, (manifest.cold_start,))
        )
        """int32: typical items of distinct clusters, the largest cluster first."""
        self.neighbour_table: Rows | None = None
        """int32 [N, k] where the pool has one, of the manifest's ``neighbours_recall``."""
        if manifest.neighbours:
            table = map_array(directory / layout.NEIGHBOURS, np.int32, (n, manifest.neighbours))
            self.neighbour_table = _read_only(table)
        self.metadata_table: pa.Table | None = None
        """Text columns aligned to rows, where the pool has any."""
        if manifest.metadata_columns:
            self.metadata_table = map_metadata(directory / layout.METADATA)
        self._groups = ColumnGroups()
        self._mean: Float64s | None = None
        self._mean_lock = threading.Lock()
        self._lists = centroid_rows(self.centroids, manifest.metric)

    @classmethod
    def open(cls, path: Path | str, *, device: str = "cpu") -> Pool:
        """Map a pool directory: a second for any size.

        Args:
            path: the directory.
            device: ``cpu`` (NumPy over the mapped rows), ``cuda`` or ``cuda:1`` (rows copied to
                the GPU in their own dtype), ``torch:cpu`` (the same on torch's CPU device).

        Raises:
            StartError: the pool is missing, incomplete, damaged (sizes, and checksums of small
                files and sampled blocks), or of a newer format; or there is no such device.
        """
        directory = Path(path)
        manifest = read_manifest(directory)
        try:
            check_sample(directory, read_checksums(directory, manifest.files))
            return cls(directory, manifest, device)
        except OSError as problem:
            raise StartError(f"{directory} cannot be read: {problem.strerror}") from None
        except pa.ArrowException as problem:
            file = directory / layout.METADATA
            raise StartError(f"{file} cannot be read: {problem}: build the pool again") from None

    @property
    def max_norm(self) -> float:
        """The largest norm of a row; 1 on cosine pools."""
        return self.manifest.max_norm

    def search(
        self, vectors: Float32s, k: int, *, stop: Stop | None = None
    ) -> tuple[Rows, Float64s]:
        """Nearest rows of vectors, by similarity from the largest, then row from the smallest.

        Args:
            vectors: float32 [q, d], as `normalise` or `fetch` return them.
            k: at least 1.
            stop: asked between blocks; ends the search with `Cancelled`.

        Returns:
            rows, int32 [q, min(k, N)], and similarities, float64, of the same shape: inner
            products, for ``l2`` negative squared distances. Exact on flat pools; ivf pools look
            at the vector's nearest lists (recall 0.99 at build).
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        queries = np.ascontiguousarray(vectors, np.float32)
        count = min(k, self.manifest.items)
        if self.manifest.index == "ivf":
            probes = self.manifest.probes
            return list_search(self._vectors, self._lists, probes, queries, count, stop)
        return exact_search(self._vectors, queries, count, stop)

    def neighbours(
        self, rows: npt.NDArray[np.integer], k: int, *, stop: Stop | None = None
    ) -> Rows:
        """Nearest other rows of rows, int32 [n, min(k, N - 1)], in the order of `search`.

        Read from the pool's table where that is wide enough, at its ``neighbours_recall``.
        """
        own: Rows = np.asarray(rows, np.int32)
        count = min(k, self.manifest.items - 1)
        if count == 0:
            return np.empty((len(own), 0), np.int32)
        table = self.neighbour_table
        if table is not None and table.shape[1] >= count:
            return np.ascontiguousarray(table[own, :count])
        found, _ = self.search(self._vectors.fetch(own), count + 1, stop=stop)
        return without_self(found, own)

    def similarities(self, rows: Rows, vectors: Float32s, which: Int64s) -> Float64s:
        """Canonical similarities of the pairs (rows[i], vectors[which[i]]), float64 [n]."""
        return self._vectors.similarities(rows, vectors, which)

    def fetch(self, rows: npt.NDArray[np.integer]) -> Float32s:
        """Vectors of rows, float32 [n, d], a copy. IndexError for a row that does not exist."""
        return self._vectors.fetch(np.asarray(rows))

    def product(self, vectors: Float32s, matrix: Float32s) -> Float32s:
        """Vectors float32 [n, d] of rows times a float32 [d, c] matrix: float32 [n, c]."""
        return self._vectors.kernels.product(vectors, matrix)

    def scan(self, visit: Callable[[Block], T], *, stop: Stop | None = None) -> Iterator[T]:
        """What ``visit`` makes of each block of the pool, in a fixed order.

        ``stop`` is asked between blocks and ends the scan with `Cancelled`.
        """
        return self._vectors.scan(visit, stop=stop)

    def scan_around(
        self, first: int, visit: Callable[[Block, G], T], given: Iterable[G]
    ) -> Iterator[T]:
        """As `VectorRows.scan_around`; there are `block_count` blocks."""
        return self._vectors.scan_around(first, visit, given)

    @property
    def block_count(self) -> int:
        """Into how many blocks a scan takes the pool."""
        return len(self._vectors.blocks())

    @property
    def is_on_device(self) -> bool:
        """Whether products are taken on a torch device, and `between` is to be had."""
        return self._vectors.is_on_device

    def between(
        self,
        weights: Float32s,
        bounds: Callable[[], tuple[float, float]],
        *,
        stop: Stop | None = None,
    ) -> Iterator[tuple[Rows, Float32s]]:
        """Rows whose product with a column float32 [d] is within bounds, as `rows_between`."""
        return rows_between(self._vectors, weights, bounds, stop)

    def mean(self, *, stop: Stop | None = None) -> Float64s:
        """The mean of all rows as `fetch` returns them, float64 [d], read-only.

        One scan on first use, then kept; summed in float64 in the fixed order of the blocks.
        Callers that come during the scan wait for it. ``stop`` as in `scan`.
        """
        with self._mean_lock:
            if self._mean is None:
                total = np.zeros(self.manifest.dimension)
                for part in self.scan(_sum, stop=stop):
                    total += part
                self._mean = _read_only(total / self.manifest.items)
            return self._mean

    def normalise(self, vectors: npt.ArrayLike, *, field: str = "vectors") -> Float32s:
        """Vectors from outside as the metric demands them, float32 [n, d]; cosine: unit rows.

        Raises:
            CoresiftError: INVALID_VECTOR for a wrong dimension, NaN, infinity, a norm above
                1e18, or a zero vector on a cosine pool, naming the first offender.
        """
        array = np.asarray(vectors)
        dimension = self.manifest.dimension
        if array.ndim != 2 or array.shape[1] != dimension:
            raise _invalid_vector(field, f"must have {dimension} numbers each, got {array.shape}")
        wide = array.astype(np.float64)
        norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))
        for wrong, what in (
            (~np.isfinite(norms), "holds NaN or infinity"),
            (norms > MAX_NORM, f"has a norm above {MAX_NORM:g}"),
            (norms == 0, "is a zero vector, which has no cosine"),
        ):
            if wrong.any() and (self.manifest.metric == "cosine" or not what.startswith("is")):
                raise _invalid_vector(f"{field}[{np.flatnonzero(wrong)[0]}]", what)
        if self.manifest.metric == "cosine":
            wide /= norms[:, None]
        return wide.astype(np.float32)

    def metadata(self, rows: npt.NDArray[np.integer]) -> list[dict[str, str]]:
        """One mapping a row, column to text; empty where the pool has no metadata."""
        if self.metadata_table is None:
            return [{} for _ in rows]
        return metadata_of(self.metadata_table, np.asarray(rows))

    def where(self, expression: str, *, field: str = "filter") -> Bools:
        """Which rows satisfy a filter on the metadata, bool [N]; its language: `filter_syntax`.

        Raises:
            CoresiftError: INVALID_FIELD of ``field`` for a malformed filter, an unknown column,
                a pool without metadata, and a filter that no item satisfies.
        """
        table = self._metadata_for(field)
        found = rows_where(table, parse_filter(expression, table.column_names, field))
        if not found.any():
            raise invalid(field, f"matches none of the pool's {self.manifest.items:,} items")
        return found

    def groups(self, column: str, *, field: str = "groups.column") -> Rows:
        """Group number of each row by its value in a metadata column, int32 [N], read-only.

        Numbers rise from 0 in the order in which the values first appear, so that old rows keep
        theirs in every later version; -1 where the row has no value: it is in no group.

        Raises:
            CoresiftError: INVALID_FIELD of ``field`` for an unknown column and a pool without
                metadata.
        """
        return self._groups.of(self._metadata_for(field), column, field)

    def _metadata_for(self, field: str) -> pa.Table:
        if self.metadata_table is None:
            raise invalid(field, f"needs metadata, and pool {self.manifest.name!r} has none")
        return self.metadata_table

    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(size for size, _ in self.manifest.files.values())

    def segment_files(self) -> list[str]:
        """Names of the files that the next version shares."""
        return [name for name in self.manifest.files if name.startswith("segment-")]

    def segment_checksums(self) -> dict[str, FileChecksum]:
        """Checksums of those files."""
        checksums = read_checksums(self._directory, self.manifest.files)
        return {name: checksums[name] for name in self.segment_files()}

    def close(self) -> None:
        """Let go of the maps and of device memory. The pool cannot be used afterwards."""
        for name in list(vars(self)):
            if name not in {"manifest", "_directory"}:
                delattr(self, name)


def verify_pool(path: Path, read: Callable[[int], None] | None = None) -> Manifest:
    """Check every byte of a pool directory; ``read`` is told of bytes done. StartError if not."""
    manifest = read_manifest(path)
    check_all(path, read_checksums(path, manifest.files), read)
    Pool.open(path).close()
    return manifest


def _sum(block: Block) -> Float64s:
    return np.asarray(block.vectors().sum(axis=0, dtype=np.float64))


def _invalid_vector(field: str, what: str) -> CoresiftError:
    return CoresiftError(Reason.INVALID_VECTOR, f"{field} {what}", field=field)


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    array.flags.writeable = False
    return array
