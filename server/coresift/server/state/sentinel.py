"""Sentinels say who is master."""

from __future__ import annotations

import asyncio
from collections import Counter

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from coresift.server.state.address import Address, StateUrl
from coresift.server.state.server import ask


async def find_master(url: StateUrl) -> Address:
    """The master that more than half of the sentinels name.

    Raises:
        RedisConnectionError: fewer answer, know such a master or agree on one (during a failover,
            or on the wrong side of a cut network: a sentinel there names the old one for ever).
    """
    answers = await asyncio.gather(
        *(_named_by(sentinel, url) for sentinel in url.addresses), return_exceptions=True
    )
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, RedisError | OSError):
            raise answer
    named = Counter(answer for answer in answers if isinstance(answer, Address))
    if not named:
        raise RedisConnectionError(f"no sentinel names a master: {answers[0]}")
    ((first, votes),) = named.most_common(1)
    if 2 * votes <= len(answers):
        raise RedisConnectionError(f"only {votes} of {len(answers)} sentinels name {first}")
    return first


async def _named_by(sentinel: Address, url: StateUrl) -> Address:
    command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", url.master_name)
    reply = await ask(sentinel, url, url.sentinel_options, *command)
    if reply is None:
        raise RedisConnectionError(f"{sentinel} knows no master {url.master_name!r}")
    host, port = reply
    return Address(host.decode(), int(port))
