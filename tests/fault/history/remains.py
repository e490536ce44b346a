"""Reads what a run left: the logs, the keys, and what a replay of the logs picks."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import msgpack
import redis
import scipy.linalg  # noqa: F401 - its BLAS must be there to be limited
from tests.fault.history.record import History, Remains

from coresift.server.artifacts import Artifacts
from coresift.server.errors import CoresiftError
from coresift.server.pool.parallel import limit_blas
from coresift.server.pool.pool import Pool
from coresift.server.session.replay import Report, read_log, replay
from coresift.server.session.setup.materials import Loader
from coresift.server.session.setup.pools import Pools
from coresift.server.state.entries import unpack_entry
from coresift.server.state.keys import SessionKeys
from coresift.server.state.redis_store import RedisStore

FEW_ENTRIES = 2_000
PROCESSES = 2


async def read_remains(history: History, state_url: str, master_url: str) -> None:
    """Read every session of the history that is there, through the store and as it lies."""
    store = await RedisStore.connect(state_url)
    try:
        names = sorted({attempt.session for attempt in history.attempts})
        with redis.Redis.from_url(master_url, protocol=2) as client:
            for session in names:
                try:
                    uid = (await store.read(session)).uid
                except CoresiftError:
                    continue  # it was never made
                remains = await asyncio.to_thread(_remains, client, session, uid)
                entries = [unpack_entry(n, blob) for n, blob in enumerate(remains.entries, 1)]
                if await read_log(store, session) != entries:
                    raise AssertionError(f"the store reads another log of {session}")
                history.sessions[session] = remains
    finally:
        await store.close()


def _remains(client: Any, session: str, uid: str) -> Remains:
    names = SessionKeys(uid).of_script()
    meta, log, leases, hands, held, votes, skips, _, extra, _ = names
    entries = client.xrange(log)
    ids = [entry_id for entry_id, _ in entries]
    if ids != [b"%d-0" % n for n in range(1, len(ids) + 1)]:
        raise AssertionError(f"the log of {session} has gaps: {ids}")
    live = {
        member.decode(): deadline
        for member, deadline in client.zrange(leases, 0, -1, withscores=True)
    }
    holders = {lease.partition(":")[2] for lease in live}
    return Remains(
        session=session,
        entries=tuple(fields[b"e"] for _, fields in entries),
        meta={name.decode(): value for name, value in client.hgetall(meta).items()},
        leases=live,
        held={int(row): int(count) for row, count in client.hgetall(held).items()},
        votes={int(row): _votes(packed) for row, packed in client.hgetall(votes).items()},
        skips=frozenset(member.decode() for member in client.smembers(skips)),
        extra={int(row): int(count) for row, count in client.hgetall(extra).items()},
        hands={
            name: frozenset(map(int, client.smembers(f"{hands}{name}"))) for name in sorted(holders)
        },
    )


def _votes(packed: bytes) -> dict[str, bytes]:
    votes: dict[bytes, bytes] = msgpack.unpackb(packed, raw=True)
    return {name.decode(): value for name, value in votes.items()}


def replay_all(history: History, pool_directory: Path, artifacts: Path) -> Mapping[str, Report]:
    """Repeat every NextBatch of every log; of many, in two processes."""
    logs = [(name, remains.entries) for name, remains in history.sessions.items()]
    if sum(len(entries) for _, entries in logs) < FEW_ENTRIES:
        return _replayed(logs, pool_directory, artifacts)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, context) as processes:
        shares = [
            processes.submit(_replayed, logs[n::PROCESSES], pool_directory, artifacts)
            for n in range(PROCESSES)
        ]
        return {name: report for share in shares for name, report in share.result().items()}


def _replayed(
    logs: Sequence[tuple[str, Sequence[bytes]]], pool_directory: Path, artifacts: Path
) -> dict[str, Report]:
    limit_blas()  # as in the server: on a busy machine BLAS threads wait for each other
    pool = Pool.open(pool_directory, device="cpu")
    loader = Loader(Pools([pool]), Artifacts(str(artifacts)))
    return {
        name: replay(loader, [unpack_entry(n, blob) for n, blob in enumerate(entries, 1)])
        for name, entries in logs
    }
