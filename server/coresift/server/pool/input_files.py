"""The files that a pool is made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coresift.server.pool.failures import BuildError
from coresift.server.pool.manifest import Dtype
from coresift.server.pool.metadata import read_metadata
from coresift.server.pool.tables import read_ids, require_ids
from coresift.server.pool.vectors import open_embeddings, read_row_selection


@dataclass(frozen=True)
class InputFiles:
    """Where the items come from."""

    embeddings: Path
    """``.npy`` [n, d], or Parquet, Arrow, Feather with a column of lists."""
    ids: Path | None = None
    """One id a line (also .gz), or a table with ``id_column``. None: the embeddings' table."""
    metadata: Path | None = None
    """Parquet, Arrow, Feather or JSON lines (also .gz) with ``id_column``."""
    rows: Path | None = None
    """``.npy`` of row numbers of the input: take only these, in this order."""
    id_column: str = "id"
    embedding_column: str = "embedding"


@dataclass(frozen=True)
class Items:
    """Checked input, not yet written.

    Attributes:
        selection: the rows of ``array`` to take, in this order; None: all. Ids and metadata are of
            those taken.
    """

    array: npt.NDArray[Any]
    selection: npt.NDArray[np.int64] | None
    ids: pa.LargeStringArray
    metadata: pa.Table | None


def read_items(files: InputFiles, spool: Path, dtype: Dtype | None) -> Items:
    """What the files hold. Columns of lists go through the file ``spool``, which stays.

    ``dtype`` is what the pool will hold; None: the input's. Raises BuildError.
    """
    opened = open_embeddings(files.embeddings, files.embedding_column, spool)
    array = opened.array
    if array.dtype == np.float64 and dtype is None:
        raise BuildError(
            f"{files.embeddings} holds float64; say --dtype float32 (or float16) to narrow it"
        )
    if files.ids is None and not opened.is_table:
        raise BuildError(f"{files.embeddings} holds no ids: name them with --ids")
    source = files.ids or files.embeddings
    ids = read_ids(source, files.id_column)
    if len(ids) != len(array):
        raise BuildError(f"{source} has {len(ids)} ids, {files.embeddings} {len(array)} embeddings")
    require_ids(ids, str(source))
    metadata = None
    if files.metadata is not None:
        metadata = read_metadata(files.metadata, ids, files.id_column)
    if files.rows is None:
        return Items(array, None, ids, metadata)
    selection = read_row_selection(files.rows, len(array))
    if metadata is not None:
        metadata = metadata.take(selection)
    return Items(array, selection, ids.take(selection), metadata)
