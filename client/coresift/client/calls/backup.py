"""Whole sessions: to a file, from a file, back after a deletion, without an annotator's name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from coresift.client.calls.session import Session, id_of, session_of
from coresift.client.convert import new_request_id
from coresift.client.flow import Flow, Rpc, call, gather, mapped, stream, upload
from coresift.v1 import selection_pb2 as pb

UNDELETE = Rpc("UndeleteSession", pb.UndeleteSessionRequest, pb.UndeleteSessionResponse)
EXPORT = Rpc("ExportSession", pb.ExportSessionRequest, pb.ExportSessionResponse)
IMPORT = Rpc("ImportSession", pb.ImportSessionRequest, pb.ImportSessionResponse)
ERASE = Rpc("EraseAnnotator", pb.EraseAnnotatorRequest, pb.EraseAnnotatorResponse)

PIECE_BYTES = 768 * 1024
ATTEMPTS = 3
"""Of an export that breaks off midway."""


@dataclass(frozen=True)
class Erasure:
    """An annotator whose name is gone."""

    replacement: str
    """What the log says instead; empty where it had no entry of the annotator."""
    entries: int
    """Log entries that bore the name."""


def undelete_session(session: str | Session, *, request_id: str | None = None) -> Flow[Session]:
    """Bring a deleted session back, within 24 hours, with everything it had.

    Raises:
        NotFound: SESSION_NOT_FOUND: it is not deleted, or its data is gone for good.
    """
    request = pb.UndeleteSessionRequest(
        request_id=request_id or new_request_id(), session_id=id_of(session)
    )
    return session_of((yield from call(UNDELETE, request, request.session_id)).session)


def export_session(session: str | Session, to: str | os.PathLike[str] | BinaryIO) -> Flow[int]:
    """Write a session to a file, as it is at one moment; returns its size in bytes.

    The file holds everything of the session, the key of its lease tokens too.

    Args:
        to: a path, under which the file stands only once it is whole; or a binary file object,
            written from where it stands.
    """
    request = pb.ExportSessionRequest(session_id=id_of(session))
    with _written(to) as file:
        start = file.tell() if file.seekable() else None
        size, attempts = 0, 1

        def write(message: pb.ExportSessionResponse) -> Iterable[None]:
            nonlocal size
            size += file.write(message.data)
            return ()

        def restart() -> bool:
            nonlocal size, attempts
            if start is None or attempts == ATTEMPTS:
                return False
            file.seek(start)
            file.truncate()
            size, attempts = 0, attempts + 1
            return True

        messages = stream(EXPORT, request, request.session_id, restart=restart)
        yield from gather(mapped(messages, write))
        return size


def import_session(
    file: str | os.PathLike[str] | BinaryIO,
    *,
    session_id: str = "",
    request_id: str | None = None,
) -> Flow[Session]:
    """Make a session of an exported file: the same log, heads, leases and lease tokens.

    Args:
        file: a path, or a binary file object that can seek, read from where it stands.
        session_id: of the new session; empty: the id in the file.

    Raises:
        InvalidInput: INVALID_BACKUP: damaged, cut short, or of a newer release.
        AlreadyExists: SESSION_EXISTS. NotFound: POOL_NOT_FOUND. Unavailable:
            POOL_VERSION_NOT_LOADED. PreconditionFailed: ARTIFACT_MISSING.
    """
    header = pb.ImportSessionHeader(
        request_id=request_id or new_request_id(), session_id=session_id
    )
    return session_of((yield from upload(IMPORT, _Pieces(header, file))).session)


def erase_annotator(
    session: str | Session, annotator: str, *, request_id: str | None = None
) -> Flow[Erasure]:
    """Take an annotator's name out of a session for good; labels and picks stay what they were.

    Args:
        annotator: as `list_labels` shows it: a pseudonym in a pseudonymous session.
    """
    request = pb.EraseAnnotatorRequest(
        request_id=request_id or new_request_id(), session_id=id_of(session), annotator=annotator
    )
    reply = yield from call(ERASE, request, request.session_id)
    return Erasure(reply.replacement, reply.entries)


class _Pieces(Iterable[pb.ImportSessionRequest]):
    """The messages of an import, made anew each time, so that it can be repeated."""

    def __init__(
        self, header: pb.ImportSessionHeader, file: str | os.PathLike[str] | BinaryIO
    ) -> None:
        self._header, self._file = header, file
        self._start = 0 if isinstance(file, str | os.PathLike) else file.tell()

    def __iter__(self) -> Iterator[pb.ImportSessionRequest]:
        yield pb.ImportSessionRequest(header=self._header)
        if isinstance(self._file, str | os.PathLike):
            with Path(self._file).open("rb") as file:
                yield from _data(file)
        else:
            self._file.seek(self._start)
            yield from _data(self._file)


def _data(file: BinaryIO) -> Iterator[pb.ImportSessionRequest]:
    while data := file.read(PIECE_BYTES):
        yield pb.ImportSessionRequest(data=data)


@contextmanager
def _written(to: str | os.PathLike[str] | BinaryIO) -> Iterator[BinaryIO]:
    """The file to write to; one of a path gets its name at the end."""
    if not isinstance(to, str | os.PathLike):
        yield to
        return
    path = Path(to)
    # The file holds the key of the session's lease tokens: only a new one of our own will do.
    number, name = tempfile.mkstemp(".partial", f"{path.name}.", path.parent)
    partial = Path(name)
    try:
        with os.fdopen(number, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
