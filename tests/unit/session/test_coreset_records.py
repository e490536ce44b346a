"""Documents of core-set jobs: what goes in comes out, and other releases' are told apart."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from coresift.server.errors import CoresiftError, Reason
from coresift.server.session.coresets.coreset_records import (
    FORMAT,
    Failure,
    Heartbeat,
    JobRecord,
    Progress,
    Summary,
)
from coresift.server.session.coresets.coreset_requests import JobSpec, Pinned
from coresift.server.state.values import Request

SPEC = JobSpec(
    job_id="job",
    digest=b"digest",
    pool="pool",
    pool_version="1",
    method="ccs",
    params={"cut": 0.1, "by": "margin", "flag": True},
    sampler="ccs",
    sampler_params={},
    notes=("a", "b"),
    budget=None,
    seed=2**64 - 1,
    grace_s=60.0,
    config_version=3,
    revision=4,
    nonce=b"\0nonce",
    head_version="r4",
    signals=(Pinned("kinds", "ab" * 32, "class", ("kind",)),),
    items=100,
    expected_s=1.5,
    expected_bytes=10**12,
)
FAILURE = Failure("INVALID_FIELD", "class_budgets ask for 3", "class_budgets", {"limit": "2"})
SUMMARY = Summary(
    count=2,
    objective=-0.5,
    covering_radius=None,
    mean_max_similarity=0.25,
    measured_items=100,
    class_counts={0: 1, 7: 1},
    details={"threshold": 0.9},
    seconds={"select": 0.1},
    uri="file:///x.parquet",
    content_hash="cd" * 32,
)


@pytest.mark.parametrize(
    "record",
    [
        JobRecord(SPEC, "running"),
        JobRecord(SPEC, "cancelled"),
        JobRecord(SPEC, "finished", SUMMARY),
        JobRecord(SPEC, "failed", failure=FAILURE),
    ],
    ids=lambda record: record.status,
)
def test_a_job_round_trip(record: JobRecord) -> None:
    assert JobRecord.unpack(record.pack()) == record


def written_by(release: dict[str, Any]) -> bytes:
    content = msgpack.unpackb(JobRecord(SPEC, "running").pack())
    return bytes(msgpack.packb({name: v for name, v in (content | release).items() if v}))


@pytest.mark.parametrize(
    ("release", "reason", "word"),
    [
        ({"format": FORMAT + 1, "more": 1}, Reason.FORMAT_TOO_NEW, "newer"),
        ({"format": FORMAT - 1}, Reason.REQUEST_EXPIRED, "older"),
        ({"format": None}, Reason.REQUEST_EXPIRED, "older"),
    ],
)
def test_other_releases_jobs_are_refused(
    release: dict[str, Any], reason: Reason, word: str
) -> None:
    with pytest.raises(CoresiftError, match=word) as caught:
        JobRecord.unpack(written_by(release))
    assert caught.value.reason is reason


def test_a_heartbeat_round_trip() -> None:
    heartbeat = Heartbeat("me", Progress("graph", 0.5, 3.0))
    assert Heartbeat.unpack(heartbeat.pack()) == heartbeat
    longer = bytes(msgpack.packb([*msgpack.unpackb(heartbeat.pack()), "of a newer release"]))
    assert Heartbeat.unpack(longer) == heartbeat


def test_who_may_attach() -> None:
    mine, other = Request("job", b"digest"), Request("job", b"another")
    assert JobRecord(SPEC, "running").check(mine).spec is SPEC
    for status, request, reason in (
        ("running", other, Reason.REQUEST_ID_REUSED),
        ("cancelled", other, Reason.REQUEST_ID_REUSED),
        ("cancelled", mine, Reason.JOB_CANCELLED),
        ("failed", other, Reason.REQUEST_ID_REUSED),
        ("failed", mine, Reason.INVALID_FIELD),
    ):
        with pytest.raises(CoresiftError) as caught:
            JobRecord(SPEC, status, failure=FAILURE if status == "failed" else None).check(request)
        assert caught.value.reason is reason


def test_a_failure_is_the_error_again() -> None:
    error = CoresiftError(Reason.ITEM_NOT_FOUND, "no item", field="query", item_id="x")
    again = Failure.of(error).error()
    assert (again.reason, again.message) == (error.reason, error.message)
    assert (again.field, again.metadata) == (error.field, error.metadata)
    assert again.retry_after_s is None
