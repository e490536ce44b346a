"""A session's file on its way in: kept on disk, then checked before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import msgpack

from coresift.server.errors import CoresiftError, Reason
from coresift.server.session.copies.backup_contents import Copied, Fits, standing_of
from coresift.server.session.copies.backup_file import check_whole, damaged, frames
from coresift.server.state.transfer import Standing
from coresift.server.state.values import LiveLease, Request

MAX_FILE_BYTES = 4 << 30


class Upload:
    """A file on its way in, kept on disk. Close it."""

    def __init__(self) -> None:
        self.size = 0
        self._file: BinaryIO = TemporaryFile()  # noqa: SIM115 - closed with this
        self._hash = sha256()

    def write(self, data: bytes) -> None:
        """Take the next bytes. TOO_LARGE."""
        self.size += len(data)
        if self.size > MAX_FILE_BYTES:
            limit = f"a session's file has at most {MAX_FILE_BYTES >> 30} GiB"
            raise CoresiftError(Reason.TOO_LARGE, limit, field="data")
        self._hash.update(data)
        self._file.write(data)

    def check(self) -> str:
        """The session_id in the file, once it is whole. INVALID_BACKUP."""
        check_whole(self._file, self.size)
        kind, header = next(self.frames(), (b"", None))
        if kind != b"H" or not isinstance(header, dict):
            raise damaged("does not start with its header")
        return str(header.get("session_id"))

    def frames(self) -> Iterator[tuple[bytes, Any]]:
        """The frames of a whole file."""
        return frames(self._file, self.size)

    def request(self, header: Request) -> Request:
        """The identity of an import: that of its header, and the file's."""
        return Request(header.request_id, sha256(header.digest + self._hash.digest()).digest()[:16])

    def close(self) -> None:
        """Forget the file."""
        self._file.close()


def read_standing(upload: Upload) -> Standing:
    """What the file says besides the log. INVALID_BACKUP, or one of `MALFORMED`."""
    leases: list[LiveLease] = []
    entries, answers, end = 0, 0, None
    for place, (kind, value) in enumerate(upload.frames()):
        if end is not None or (kind == b"H") != (place == 0):
            raise damaged("has its frames in another order")
        match kind:
            case b"H":
                pass
            case b"L":
                entries += len(value[1])
            case b"A":
                answers += len(value)
            case b"S":
                leases += [LiveLease(row, str(name), int(ends)) for row, name, ends in value]
            case b"E":
                end = value
            case _:
                raise damaged(f"has a frame of unknown kind {kind!r}")
    if end is None:
        raise damaged("lacks its last frame")
    said = (end["entries"], end["answers"], end["leases"])
    if said != (entries, answers, len(leases)):
        raise damaged("does not hold as much as its last frame says")
    return standing_of(end["meta"], leases)


def read_log(upload: Upload, standing: Standing, fits: Fits) -> Copied:
    """The log, checked. INVALID_BACKUP, or one of `MALFORMED`."""
    copied = Copied(fits.entry)
    for kind, value in upload.frames():
        if kind == b"L":
            at = copied.offset
            if value[0] != at:
                raise damaged(f"has a log with a gap after entry {at}")
            copied.add(at, value[1])
        elif kind == b"A":
            _check_answers(value)
    fits.rows([lease.row for lease in standing.leases], "among its leases")
    for lease in standing.leases:
        fits.annotator(lease.annotator, "among its leases")
    copied.check_standing(standing)
    return copied


def _check_answers(value: Any) -> None:
    for request_id, blob, end_ms in value:
        if not isinstance(request_id, str) or not 1 <= len(request_id) <= 256:
            raise damaged("has an answer to a request without a name")
        if not isinstance(blob, bytes) or not isinstance(end_ms, int):
            raise damaged("has an answer that is none")


MALFORMED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    CoresiftError,
    LookupError,
    TypeError,
    ValueError,
    msgpack.exceptions.UnpackException,
)
"""What reading values that are not what they should be may raise."""


def malformed(error: Exception) -> CoresiftError:
    """INVALID_BACKUP for what reading a file has raised."""
    if isinstance(error, CoresiftError):
        if error.reason is Reason.INVALID_BACKUP:
            return error
        return damaged(f"cannot be used here: {error.message}")
    return damaged(f"cannot be read: {type(error).__name__}: {error}")
