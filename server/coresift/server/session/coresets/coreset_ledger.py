"""What the store knows of core-set jobs: every read and every write of it.

Three documents describe a job. ``jobs/<id>`` says what it is and, at the end, where its result
lies or why there is none; it is kept for 24 h. ``owners/<id>`` is the owner's heartbeat with its
progress; when it lapses, the next attacher becomes the owner and starts the job again from the
seed. ``attached/<id>`` says that somebody waits on another replica.
"""

from __future__ import annotations

import contextlib

from coresift.server.errors import CoresiftError
from coresift.server.session.coresets.coreset_records import Failure, Heartbeat, JobRecord, Summary
from coresift.server.session.coresets.coreset_requests import JobSpec
from coresift.server.state.store import Store
from coresift.server.state.values import ANSWER_MS

OWNER_TTL_MS = 8_000
ATTACHED_MS = 3_000


class Ledger:
    """Reads and writes jobs."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def find(self, job_id: str) -> JobRecord | None:
        """A job, None if there is none. FORMAT_TOO_NEW, REQUEST_EXPIRED."""
        document = await self._store.get_document("jobs", job_id)
        return None if document is None else JobRecord.unpack(document)

    async def begin(self, spec: JobSpec) -> JobRecord:
        """Enter a job, unless it is there: then what stands."""
        record = JobRecord(spec, "running")
        standing = await self._store.put_document(
            "jobs", spec.job_id, record.pack(), replaces=None, ttl_ms=ANSWER_MS
        )
        return JobRecord.unpack(standing) if standing else record

    async def end(
        self,
        job_id: str,
        status: str,
        summary: Summary | None = None,
        failure: Failure | None = None,
    ) -> str | None:
        """Write how a running job ended; returns the status that stands then, None for no job."""
        document = await self._store.get_document("jobs", job_id)
        if document is None or (record := JobRecord.unpack(document)).status != "running":
            return None if document is None else record.status
        ended = JobRecord(record.spec, status, summary, failure).pack()
        standing = await self._store.put_document(
            "jobs", job_id, ended, replaces=document, ttl_ms=ANSWER_MS
        )
        if standing is None:
            return status
        return JobRecord.unpack(standing).status if standing else None

    async def forget(self, job_id: str) -> None:
        """Remove a job that nobody wants, as long as it is said to run."""
        document = await self._store.get_document("jobs", job_id)
        if document is not None and JobRecord.unpack(document).status == "running":
            await self._store.delete_document("jobs", job_id, only=document)

    async def attend(self, job_id: str) -> None:
        """Tell the owner, on another replica, that somebody waits for the job."""
        before = await self._store.get_document("attached", job_id)
        await self._store.put_document(
            "attached", job_id, b"1", replaces=before, ttl_ms=ATTACHED_MS
        )

    async def is_attended(self, job_id: str) -> bool:
        """Whether somebody waits on another replica."""
        return await self._store.get_document("attached", job_id) is not None

    async def heartbeat(self, job_id: str) -> Heartbeat | None:
        """The owner's newest, None while there is no owner."""
        document = await self._store.get_document("owners", job_id)
        return Heartbeat.unpack(document) if document else None

    async def claim(self, job_id: str, heartbeat: Heartbeat) -> bool:
        """Become the owner; False if there is one."""
        there = await self._store.put_document(
            "owners", job_id, heartbeat.pack(), replaces=None, ttl_ms=OWNER_TTL_MS
        )
        return there is None

    async def renew(self, job_id: str, before: Heartbeat, fresh: Heartbeat) -> Heartbeat | None:
        """Replace one's heartbeat; returns what stands then, None if another is the owner."""
        standing: bytes | None = before.pack()
        for _ in range(2):
            there = await self._store.put_document(
                "owners", job_id, fresh.pack(), replaces=standing, ttl_ms=OWNER_TTL_MS
            )
            if there is None:
                return fresh
            if there and Heartbeat.unpack(there).owner != fresh.owner:
                return None
            standing = there or None  # a write of ours came through unanswered, or it lapsed
        return before

    async def disown(self, job_id: str, owner: str) -> None:
        """Be the owner no more; another's heartbeat stays."""
        with contextlib.suppress(CoresiftError):  # else it lapses by itself
            document = await self._store.get_document("owners", job_id)
            if document and Heartbeat.unpack(document).owner == owner:
                await self._store.delete_document("owners", job_id, only=document)
