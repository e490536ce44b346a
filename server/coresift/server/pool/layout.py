"""Names of the files in a pool's directory. Numbers are little-endian, C order, no header."""

from __future__ import annotations

MANIFEST = "manifest.json"
CHECKSUMS = "checksums.json"
"""SHA-256 of every 16 MiB block of every file."""

CENTROIDS = "clusters.centroids"
"""float32 [clusters, dimension]."""
CLUSTERS = "clusters.rows"
"""int32 [items]: the cluster of each row."""
DISTANCES = "clusters.distances"
"""float32 [items]: squared distance of each row to its centroid."""
COLD_START = "cold_start.rows"
"""int32 [at most 20,000]."""
NEIGHBOURS = "neighbours.rows"
"""int32 [items, neighbours], canonical order."""

ID_DATA = "ids.data"
"""UTF-8 of all ids, one after the other, then 8 zero bytes."""
ID_OFFSETS = "ids.offsets"
"""int64 [items + 1]."""
ID_HASHES = "ids.hashes"
"""uint64 [items], ascending."""
ID_ORDER = "ids.order"
"""int32 [items]: the row of each hash."""

METADATA = "metadata.arrow"
"""Arrow IPC file, one large_string column a name, aligned to rows."""


def stored(segment: int) -> str:
    """float16 or float32 [segment's items, dimension], in slot order."""
    return f"segment-{segment}.vectors"


def norms(segment: int) -> str:
    """float32 [segment's items], in slot order: norms of the stored rows."""
    return f"segment-{segment}.norms"


def slot_rows(segment: int) -> str:
    """int32 [segment's items]: row of each slot, relative to the segment's first row."""
    return f"segment-{segment}.slot_rows"


def row_slots(segment: int) -> str:
    """int32 [segment's items]: slot of each row."""
    return f"segment-{segment}.row_slots"


def lists(segment: int) -> str:
    """int64 [clusters + 1]: the slots of cluster c are [lists[c], lists[c + 1])."""
    return f"segment-{segment}.lists"
