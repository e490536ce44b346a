"""The file of a session: frames of MessagePack, closed by a hash of all of them.

Layout: `MAGIC` with the format's number; frames, each a letter, the payload's length (uint32,
little-endian) and the payload; SHA-256 of everything before; `END`. The frames:

    H  {session_id, made_by, pool, pool_version}: first, once
    L  [position before, [packed log entries, as the state store has them]]
    A  [[request_id, packed answer, when it ends (ms)]]: of requests in the log entries before
    S  [[row, annotator, deadline (ms)]]: leases, also such as have ended meanwhile
    E  {meta: fields of the session, entries, answers, leases: how many there are}: last, once
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, BinaryIO

import msgpack

from coresift.server.errors import CoresiftError, Reason

FORMAT = 1
MAGIC = b"coresift session "
VERSION = struct.Struct("<H")
FRAME = struct.Struct("<cI")
END = b"end of session\n"
CLOSING = 32 + len(END)
MAX_FRAME_BYTES = 8 << 20
MAX_ARRAY, MAX_MAP = 65_536, 1_024
"""Of a frame. Values take many times their bytes in memory: an empty map more than sixty."""
READ_BYTES = 1 << 20


def damaged(what: str) -> CoresiftError:
    """INVALID_BACKUP."""
    return CoresiftError(Reason.INVALID_BACKUP, f"the session's file {what}", field="data")


class FrameWriter:
    """Makes the bytes of a file, from the first to the last."""

    def __init__(self) -> None:
        self._hash = sha256()

    def start(self) -> bytes:
        """What a file begins with."""
        return self._counted(MAGIC + VERSION.pack(FORMAT))

    def frame(self, kind: bytes, value: object) -> bytes:
        """A frame."""
        payload = msgpack.packb(value)
        return self._counted(FRAME.pack(kind, len(payload)) + payload)

    def close(self) -> bytes:
        """What a file ends with."""
        return self._hash.digest() + END

    def _counted(self, data: bytes) -> bytes:
        self._hash.update(data)
        return data


def check_whole(file: BinaryIO, size: int) -> None:
    """Refuse a file that is none of ours, of a newer format, cut short or damaged."""
    file.seek(0)
    beginning = file.read(len(MAGIC) + VERSION.size)
    if not beginning.startswith(MAGIC) or len(beginning) < len(MAGIC) + VERSION.size:
        raise damaged("does not begin as one does")
    [version] = VERSION.unpack_from(beginning, len(MAGIC))
    if version != FORMAT:
        raise damaged(f"has format {version}; this release reads format {FORMAT}")
    file.seek(max(size - CLOSING, 0))
    closing = file.read()
    if not closing.endswith(END) or len(closing) < CLOSING:
        raise damaged(f"is cut short: its {size} bytes do not end as a whole one does")
    file.seek(0)
    digest, left = sha256(), size - CLOSING
    while left > 0:
        piece = file.read(min(READ_BYTES, left))
        digest.update(piece)
        left -= len(piece)
    if digest.digest() != closing[:32]:
        raise damaged("is damaged: its SHA-256 is another one")


def frames(file: BinaryIO, size: int) -> Iterator[tuple[bytes, Any]]:
    """The frames of a whole file, in order."""
    at, end = len(MAGIC) + VERSION.size, size - CLOSING
    while at < end:
        file.seek(at)
        head = file.read(FRAME.size)
        if len(head) < FRAME.size:
            raise damaged(f"has half a frame at byte {at}")
        kind, length = FRAME.unpack(head)
        at += FRAME.size + length
        if length > MAX_FRAME_BYTES or at > end:
            raise damaged(f"has a frame of {length} bytes that does not fit")
        yield (
            kind,
            msgpack.unpackb(
                file.read(length),
                strict_map_key=False,
                max_array_len=MAX_ARRAY,
                max_map_len=MAX_MAP,
            ),
        )
