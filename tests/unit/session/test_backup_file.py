"""The frames of a session's file."""

from __future__ import annotations

from io import BytesIO

import pytest

from coresift.server.errors import CoresiftError, Reason
from coresift.server.session.copies import backup_file
from coresift.server.session.copies.backup_file import FrameWriter, frames
from coresift.server.session.copies.backup_upload import MALFORMED


def read(value: object) -> list[tuple[bytes, object]]:
    writer = FrameWriter()
    data = writer.start() + writer.frame(b"L", value) + writer.close()
    return list(frames(BytesIO(data), len(data)))


def test_a_frame_comes_back_as_it_was() -> None:
    assert read([7, [b"entry"] * 20_000]) == [(b"L", [7, [b"entry"] * 20_000])]


def test_a_frame_that_is_too_long_is_not_read() -> None:
    with pytest.raises(CoresiftError) as caught:
        read(b"x" * (8 << 20))
    assert caught.value.reason is Reason.INVALID_BACKUP


@pytest.mark.parametrize(
    "value", [[[]] * (backup_file.MAX_ARRAY + 1), dict.fromkeys(range(backup_file.MAX_MAP + 1))]
)
def test_a_frame_of_too_many_values_is_malformed(value: object) -> None:
    with pytest.raises(MALFORMED):
        read(value)
