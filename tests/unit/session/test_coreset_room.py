"""Places and memory for core-set jobs, and what one tenant may have of them."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest
from tests.unit.session.test_coreset_records import SPEC

from coresift.server.caller import Caller, tenant_of
from coresift.server.errors import CoresiftError, Reason
from coresift.server.memory_promises import MemoryPromises
from coresift.server.session.coresets.coreset_requests import JobSpec
from coresift.server.session.coresets.coreset_room import Room

GB = 10**9


def a_job(tenant: str, needs: int = 1) -> JobSpec:
    job_id = Caller(tenant=tenant).kept_as(f"job-{uuid4()}")
    return replace(SPEC, job_id=job_id, expected_bytes=needs)


def a_room(turns: int, queued: int, free: int) -> Room:
    return Room(turns, MemoryPromises(lambda: free), queued)


def is_refused(room: Room, job: JobSpec, others: list[JobSpec]) -> bool:
    try:
        room.check(job, others)
    except CoresiftError as error:
        if error.reason is not Reason.OVERLOADED or error.retry_after_s is None:
            raise
        return True
    return False


def fill(room: Room, jobs: list[JobSpec], tenant: str, needs: int = 1) -> int:
    """Add jobs of a tenant until one is refused; returns how many it has."""
    while not is_refused(room, job := a_job(tenant, needs), jobs):
        jobs.append(job)
    return sum(tenant_of(other.job_id) == tenant for other in jobs)


def test_without_tenants_all_places_are_taken() -> None:
    assert fill(a_room(2, 16, GB), [], "") == 18


def test_a_tenant_alone_leaves_places_for_others() -> None:
    jobs: list[JobSpec] = []
    room = a_room(2, 16, GB)
    assert fill(room, jobs, "a") == 14
    assert fill(room, jobs, "b") == 4
    for job in [job for job in jobs if job.job_id.startswith("a|")][:8]:
        jobs.remove(job)
    assert fill(room, jobs, "b") == 9  # half, now that there are two
    assert fill(room, jobs, "a") == 9


def test_many_tenants_have_a_place_each() -> None:
    jobs: list[JobSpec] = []
    room = a_room(1, 4, GB)
    assert [fill(room, jobs, tenant) for tenant in "abcde"] == [4, 1, 0, 0, 0]
    del jobs[:4]
    assert [fill(room, jobs, tenant) for tenant in "bcdea"] == [4, 1, 0, 0, 0]
    jobs[:] = [a_job(tenant) for tenant in "abcd"]
    assert fill(room, jobs, "a") == 1
    assert fill(room, jobs, "e") == 1


def test_memory_is_shared_while_others_have_jobs() -> None:
    room, jobs = a_room(2, 16, 12 * GB), [a_job("b", GB)]
    assert fill(room, jobs, "a", 2 * GB) == 3  # 6 GB each
    assert fill(room, jobs, "b", 2 * GB) == 3


def test_a_first_job_may_be_larger_than_any_share() -> None:
    room, jobs = a_room(2, 16, 12 * GB), [a_job("b", GB)]
    room.check(a_job("a", 10 * GB), jobs)
    with pytest.raises(CoresiftError, match="besides"):
        room.check(a_job("a", 6 * GB), [*jobs, a_job("a", GB)])
    room.check(a_job("a", 6 * GB), [a_job("a", GB)])  # alone it needs no share
