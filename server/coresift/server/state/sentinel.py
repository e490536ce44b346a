"""Sentinels say who is master."""

from __future__ import annotations

import asyncio
from collections import Counter

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from coresift.server.state.address import Address, StateUrl
from coresift.server.state.server import ask


async def find_master(url: StateUrl) -> Address:
    """The master that most of the sentinels which answer name.

    Raises:
        RedisConnectionError: none answers, they know no such master, or as many name another one
            (during a failover, or on both sides of a cut network: then nobody is trusted).
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
    (first, votes), *others = named.most_common(2)
    if others and others[0][1] == votes:
        raise RedisConnectionError(f"the sentinels disagree: {first} or {others[0][0]}")
    return first


async def _named_by(sentinel: Address, url: StateUrl) -> Address:
    command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", url.master_name)
    reply = await ask(sentinel, url, url.sentinel_options, *command)
    if reply is None:
        raise RedisConnectionError(f"{sentinel} knows no master {url.master_name!r}")
    host, port = reply
    return Address(host.decode(), int(port))
