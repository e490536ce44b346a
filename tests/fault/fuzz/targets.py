"""What reads files and expressions that others wrote, one function of bytes each.

A target returns, or raises what it is allowed to refuse with; anything else is a finding.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from coresift.server.errors import CoresiftError, StartError
from coresift.server.pool import layout
from coresift.server.pool.builder import BuildOptions, build_pool
from coresift.server.pool.filter_syntax import parse_filter
from coresift.server.pool.ids import ItemIds
from coresift.server.pool.input_files import InputFiles
from coresift.server.pool.manifest import read_manifest

ITEMS = 5


@cache
def folder() -> Path:
    """A small pool of this process; each run writes the file that it is about."""
    kept = tempfile.TemporaryDirectory(prefix="coresift-fuzz-")
    _KEPT.append(kept)
    path = Path(kept.name)
    rng = np.random.default_rng(0)
    np.save(path / "embeddings.npy", rng.standard_normal((ITEMS, 4)).astype(np.float32))
    (path / "ids.txt").write_text("".join(f"item-{n}\n" for n in range(ITEMS)))
    inputs = InputFiles(path / "embeddings.npy", path / "ids.txt")
    build_pool(BuildOptions(inputs, path / "pool"))
    return path / "pool"


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def manifest(data: bytes) -> None:
    """A manifest of these bytes; its checksum is mended, so that what follows it is reached."""
    try:
        fields = json.loads(data)
        fields.pop("checksum", None)
        digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
        data = json.dumps({**fields, "checksum": digest}).encode()
    except (ValueError, AttributeError, RecursionError):
        pass
    directory = folder()
    whole = (directory / layout.MANIFEST).read_bytes()
    (directory / layout.MANIFEST).write_bytes(data)
    try:
        read_manifest(directory)
    except StartError:
        pass
    finally:
        (directory / layout.MANIFEST).write_bytes(whole)


ID_FILES = (layout.ID_OFFSETS, layout.ID_DATA, layout.ID_HASHES, layout.ID_ORDER)


def ids(data: bytes) -> None:
    """The four files of ids, of right sizes, xored with these bytes; then every look-up."""
    directory = folder()
    whole = [(directory / name).read_bytes() for name in ID_FILES]
    rest = data
    try:
        for name, content in zip(ID_FILES, whole, strict=True):
            mask, rest = rest[: len(content)].ljust(len(content), b"\0"), rest[len(content) :]
            changed = bytes(a ^ b for a, b in zip(content, mask, strict=True))
            (directory / name).write_bytes(changed)
        look_up(ItemIds.open(directory, ITEMS))
    except StartError:
        pass
    finally:
        for name, content in zip(ID_FILES, whole, strict=True):
            (directory / name).write_bytes(content)


def look_up(opened: ItemIds) -> None:
    found = opened.ids_of(np.arange(ITEMS))
    rows = opened.rows_of([*found, "item-0", "nothing", ""])
    # Damaged hashes may hide an id; they never lead to another.
    for item_id, row in zip(found, rows.tolist(), strict=False):
        assert row < 0 or found[row] == item_id
    opened.column(np.arange(ITEMS))


def ids_of_calls(data: bytes) -> None:
    """Ids as calls bring them, looked up in a whole pool."""
    text = data.decode("utf-8", "surrogateescape" if len(data) % 2 else "replace")
    wanted = text.split("\n")
    rows = whole_ids().rows_of(wanted)
    for item_id, row in zip(wanted, rows.tolist(), strict=True):
        assert (row >= 0) == (item_id in {f"item-{n}" for n in range(ITEMS)})


@cache
def whole_ids() -> ItemIds:
    return ItemIds.open(folder(), ITEMS)


def filters(data: bytes) -> None:
    """A metadata filter."""
    with contextlib.suppress(CoresiftError):
        parse_filter(data.decode("utf-8", "replace"), ["split", "length", "a b"], "filter")


TARGETS: dict[str, Callable[[bytes], None]] = {
    "manifest": manifest,
    "ids": ids,
    "ids_of_calls": ids_of_calls,
    "filters": filters,
}


def seeds(target: str) -> list[bytes]:
    """Inputs that are right, to start from."""
    match target:
        case "manifest":
            return [(folder() / layout.MANIFEST).read_bytes()]
        case "ids":
            return [b"", bytes(40), bytes(80) + b"\x01"]
        case "ids_of_calls":
            return [b"item-1\nitem-2", "item-1\né".encode()]
        case _:
            return [
                b'split = "train"',
                b'length > "3" and not (split in ("a", "b"))',
                b'`a b` != ""',
            ]
