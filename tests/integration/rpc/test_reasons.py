"""Every reason has a status code, is known to all sides, and is given somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import grpc

import coresift.server.errors
from coresift.client.errors import Reason as ClientReason
from coresift.server.errors import CoresiftError, Reason
from coresift.server.rpc.status import CODES, to_status
from coresift.v1 import errors_pb2

SOURCES = Path(coresift.server.errors.__file__).parent


def names_of_proto() -> set[str]:
    names = {name.removeprefix("ERROR_REASON_") for name, _ in errors_pb2.ErrorReason.items()}
    return names - {"UNSPECIFIED"}


def test_all_sides_know_the_same_reasons() -> None:
    assert {reason.value for reason in Reason} == names_of_proto()
    assert {reason.value for reason in ClientReason} == names_of_proto()
    assert set(CODES) == set(Reason)


def test_codes_are_those_of_the_proto() -> None:
    headings: dict[str, str] = {}
    heading = ""
    proto = next(Path(errors_pb2.__file__).parent.glob("errors.proto")).read_text()
    for line in proto.splitlines():
        if found := re.search(r"// --- ([A-Z_]+)", line):
            heading = found[1]
        elif found := re.search(r"ERROR_REASON_(\w+) = [1-9]", line):
            headings[found[1]] = heading
    assert {reason.value: code.name for reason, code in CODES.items()} == headings


def test_every_reason_is_given_somewhere() -> None:
    python = "".join(
        path.read_text()
        for path in SOURCES.rglob("*.py")
        if path.name not in {"errors.py", "status.py"}
    )
    lua = "".join(path.read_text() for path in SOURCES.rglob("*.lua"))
    given = set(re.findall(r"Reason\.(\w+)", python)) | set(re.findall(r"refused\('(\w+)'", lua))
    given |= {"INVALID_FIELD"}  # by `invalid`
    assert names_of_proto() <= given


def test_a_status_tells_all_and_fits_into_headers() -> None:
    error = CoresiftError(
        Reason.OVERLOADED,
        "ü" * 100_000,
        field="labels[3].item_id",
        retry_after_s=1.5,
        item_id="ü" * 100_000,
    )
    status = to_status(error)
    assert status.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    [(key, details)] = status.trailing_metadata
    assert key == "grpc-status-details-bin"
    # Percent-encoded text and base64.
    assert 3 * len(status.details.encode()) + 4 / 3 * len(details) < 8_000
