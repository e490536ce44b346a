"""Exports: broken streams, and who else may read the file. No server."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.unit.client.driver import Driver, unavailable

from coresift.client.calls import backup
from coresift.client.errors import CoresiftError, ResourceExhausted, Unavailable
from coresift.v1 import selection_pb2 as pb

BUSY = ResourceExhausted(
    None, "busy", retry_after=timedelta(seconds=2), code=grpc.StatusCode.RESOURCE_EXHAUSTED
)


def piece(data: bytes) -> pb.ExportSessionResponse:
    return pb.ExportSessionResponse(data=data)


def exports(*streams: list[Any]) -> Driver:
    """Each export that is begun gives the next stream."""
    left = list(streams)
    return Driver(lambda _name, _request: left.pop(0))


def test_an_export_that_breaks_off_begins_again_when_the_server_wants() -> None:
    driver = exports([piece(b"on"), BUSY], [BUSY], [piece(b"a long"), BUSY], [piece(b"whole")])
    file = io.BytesIO(b"before, ")
    file.seek(0, io.SEEK_END)
    assert driver.run(backup.export_session("s", file)) == 5
    assert file.getvalue() == b"before, whole"
    assert driver.slept == pytest.approx([2.05, 2.1, 2.2])


def test_an_export_that_breaks_off_again_and_again_is_given_up() -> None:
    driver = exports(*[[piece(b"half"), unavailable()]] * 9)
    with pytest.raises(Unavailable):
        driver.run(backup.export_session("s", io.BytesIO()))
    assert len(driver.sent) == backup.ATTEMPTS


def test_an_export_that_cannot_be_taken_back_or_that_is_refused_is_not_repeated() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    refused = CoresiftError(None, "no", code=grpc.StatusCode.INTERNAL)
    cases: list[tuple[io.BytesIO, CoresiftError]] = [
        (Pipe(), unavailable()),
        (io.BytesIO(), refused),
    ]
    for file, error in cases:
        driver = exports([piece(b"half"), error], [piece(b"whole")])
        with pytest.raises(type(error)):
            driver.run(backup.export_session("s", file))
        assert len(driver.sent) == 1


def test_the_file_is_ours_alone_from_the_first_byte(tmp_path: Path) -> None:
    """Whatever stands where it might be written: a link, a file that all may read."""
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "folder" / "out"
    elsewhere.touch(0o666)
    out.parent.mkdir()
    (out.parent / "out.partial").symlink_to(elsewhere)
    modes: list[int] = []

    def stream() -> Iterator[Any]:
        for data in (b"sec", b"ret"):
            yield piece(data)
            files = [each for each in out.parent.iterdir() if not each.is_symlink()]
            modes.extend(each.stat().st_mode & 0o777 for each in files)

    Driver(lambda _name, _request: stream()).run(backup.export_session("s", out))
    assert modes == [0o600, 0o600]
    assert (out.read_bytes(), out.stat().st_mode & 0o777) == (b"secret", 0o600)
    assert elsewhere.read_bytes() == b""


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    driver = exports([piece(b"half"), CoresiftError(None, "no", code=grpc.StatusCode.INTERNAL)])
    with pytest.raises(CoresiftError):
        driver.run(backup.export_session("s", tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []
