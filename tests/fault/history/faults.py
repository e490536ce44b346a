"""Faults: each breaks something of the plant on entry and mends it on exit."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from tests.fault.history.plant import Plant

Fault = Callable[[Plant, random.Random], AbstractContextManager[None]]
"""A function of this module; its name is the fault's."""


@contextmanager
def server_killed(plant: Plant, rng: random.Random) -> Iterator[None]:
    """kill -9 of a server; it comes back on its port."""
    server = rng.choice(plant.servers)
    server.kill()
    try:
        yield
    finally:
        server.start()


@contextmanager
def server_stopped(plant: Plant, rng: random.Random) -> Iterator[None]:
    """SIGSTOP of a server: its calls hang, then go on."""
    server = rng.choice(plant.servers)
    server.pause()
    try:
        yield
    finally:
        server.resume()


@contextmanager
def redis_killed(plant: Plant, rng: random.Random) -> Iterator[None]:
    """kill -9 of Redis; it comes back on its port with what it had synced."""
    plant.redis.kill()
    try:
        yield
    finally:
        plant.redis.start()


@contextmanager
def redis_stopped(plant: Plant, rng: random.Random) -> Iterator[None]:
    """SIGSTOP of Redis: what was sent is done later, when nobody waits for it."""
    plant.redis.stall()
    try:
        yield
    finally:
        plant.redis.resume()


@contextmanager
def connections_killed(plant: Plant, rng: random.Random) -> Iterator[None]:
    """CLIENT KILL of every connection to Redis."""
    with plant.redis.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    yield


@contextmanager
def scripts_flushed(plant: Plant, rng: random.Random) -> Iterator[None]:
    """SCRIPT FLUSH: Redis knows no script any more."""
    with plant.redis.client() as client:
        client.script_flush()
    yield


@contextmanager
def state_delayed(plant: Plant, rng: random.Random) -> Iterator[None]:
    """Every piece between servers and Redis comes later."""
    plant.state_proxy.delay(rng.choice([5, 20, 60]))
    try:
        yield
    finally:
        plant.state_proxy.forward()


@contextmanager
def state_cut(plant: Plant, rng: random.Random) -> Iterator[None]:
    """Connections to Redis break, and for a while there are no new ones."""
    plant.state_proxy.refuse()
    try:
        yield
    finally:
        plant.state_proxy.forward()


@contextmanager
def state_replies_lost(plant: Plant, rng: random.Random) -> Iterator[None]:
    """Redis does what it is asked, but its replies are lost."""
    plant.state_proxy.lose_replies()
    try:
        yield
    finally:
        plant.state_proxy.forward()


@contextmanager
def state_stalled(plant: Plant, rng: random.Random) -> Iterator[None]:
    """Nothing passes between servers and Redis; connections stay open."""
    plant.state_proxy.stall()
    try:
        yield
    finally:
        plant.state_proxy.forward()


@contextmanager
def calls_delayed(plant: Plant, rng: random.Random) -> Iterator[None]:
    """Every piece between frontends and a server comes later."""
    proxy = rng.choice(plant.call_proxies)
    proxy.delay(rng.choice([5, 30, 100]))
    try:
        yield
    finally:
        proxy.forward()


@contextmanager
def calls_cut(plant: Plant, rng: random.Random) -> Iterator[None]:
    """Connections to a server break, and for a while there are no new ones."""
    proxy = rng.choice(plant.call_proxies)
    proxy.refuse()
    try:
        yield
    finally:
        proxy.forward()


@contextmanager
def calls_replies_lost(plant: Plant, rng: random.Random) -> Iterator[None]:
    """A server does what it is asked, but its answers are lost."""
    proxy = rng.choice(plant.call_proxies)
    proxy.lose_replies(linger_ms=rng.choice([20, 60]))
    try:
        yield
    finally:
        proxy.forward()


@contextmanager
def calls_stalled(plant: Plant, rng: random.Random) -> Iterator[None]:
    """Nothing passes between frontends and a server; connections stay open."""
    proxy = rng.choice(plant.call_proxies)
    proxy.stall()
    try:
        yield
    finally:
        proxy.forward()


@contextmanager
def failover(plant: Plant, rng: random.Random) -> Iterator[None]:
    """The master dies or stalls; sentinels promote its replica; the old one comes back as one."""
    sentinels = plant.sentinels
    old = sentinels.master()
    stalls = rng.random() < 0.3
    if stalls:
        old.stall()
    else:
        old.kill()
    new = sentinels.until_failed_over(old)
    try:
        yield
    finally:
        if stalls:
            old.resume()
        else:
            old.start(replica_of=new)
        sentinels.until_in_sync()


OF_STATE: tuple[Fault, ...] = (state_delayed, state_cut, state_replies_lost, state_stalled)
OF_CALLS: tuple[Fault, ...] = (calls_delayed, calls_cut, calls_replies_lost, calls_stalled)
OF_PROCESSES: tuple[Fault, ...] = (
    server_killed,
    server_stopped,
    redis_killed,
    redis_stopped,
    connections_killed,
    scripts_flushed,
)
