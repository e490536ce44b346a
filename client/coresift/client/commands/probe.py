"""`coresift probe`: a canary that labels two items in a session of its own."""

from __future__ import annotations

import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import typer

from coresift.client.client import Client
from coresift.client.commands.connection import client_of
from coresift.client.commands.shared import (
    DEFAULT_SERVER,
    Failure,
    JsonOption,
    ServerOption,
    complain,
    print_json,
    print_table,
    wrong,
)
from coresift.client.endpoints import look_up, parse
from coresift.client.enums import Phase
from coresift.client.errors import CoresiftError, NotFound

T = TypeVar("T")

ANNOTATOR = "canary"
LEASE_S = 60.0
CLEAN_UP_SHARE = 0.2
"""Of the time, kept for the deletion where a step takes too long."""


class _FailedError(Exception):
    """A step did not do what it should."""


@dataclass(frozen=True)
class Step:
    """A step of a probe."""

    step: str
    ms: float
    error: str = ""
    """Empty: it did what it should."""


@dataclass
class Probed:
    """A probe of a server, or of one of its replicas."""

    server: str
    session_id: str
    steps: list[Step] = field(default_factory=list)
    left_behind: bool = False
    """Whether the session may still be there."""

    @property
    def ok(self) -> bool:
        """Whether every step did what it should."""
        return not any(step.error for step in self.steps)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step, and keep what it fails with. Raises _FailedError."""
        began, error = time.perf_counter(), ""
        try:
            yield
        except Exception as failure:  # whatever it is, the session must go, and a canary reports
            error = _words(failure)
            raise _FailedError from failure
        except BaseException:
            error = "broken off"
            raise
        finally:
            ms = round(1e3 * (time.perf_counter() - began), 2)
            self.steps.append(Step(name, ms, error))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(probe)


def probe(
    pool: Annotated[str, typer.Option(help="Name of a served pool; else the first listed.")] = "",
    timeout_s: Annotated[
        float, typer.Option(min=0.1, help="Seconds for all steps of a probe together.")
    ] = 10.0,
    every: Annotated[
        bool, typer.Option("--all", help="Probe each replica: those listed, or of the name.")
    ] = False,
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Prove that the service labels: ready, create, next, label, next, progress, delete.

    The session is its own and is always deleted: nobody else's items are leased. Exits with 0 if
    every step did what it should, else with 1. A token needs the scopes read, label and admin.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the session is deleted
    try:
        client = client_of(server)
        addresses = _addresses(server) if every else [""]
    except (ValueError, OSError) as error:
        raise wrong(str(error)) from error
    with client:
        results = [_probed(client, server, address, pool, timeout_s) for address in addresses]
    if as_json:
        shown = [_plain(result) for result in results]
        print_json(shown if every else shown[0])
    else:
        for result in results:
            rows = [(step.step, f"{step.ms:.1f}", step.error or "ok") for step in result.steps]
            title = f"{result.server}  {result.session_id}"
            print_table(("step", "ms", "outcome"), rows, title)
    for result in results:
        for step in result.steps:
            if step.error:
                complain(Failure(f"{result.server}: {step.step} failed: {step.error}"))
        if result.left_behind:
            complain(Failure(f"remove it later: coresift session delete {result.session_id}"))
    if not all(result.ok for result in results):
        raise typer.Exit(1)


def _probed(client: Client, server: str, address: str, pool: str, timeout_s: float) -> Probed:
    """Probe the service, or the replica at an address."""
    result = Probed(address or server, f"canary-{secrets.token_hex(8)}")
    if address:
        client = client.with_address(address)
    ends = time.monotonic() + timeout_s

    def left_s() -> float:
        left = ends - CLEAN_UP_SHARE * timeout_s - time.monotonic()
        if left <= 0:
            raise _FailedError(f"no time is left of {timeout_s:g} s")
        return left

    def timed() -> Client:
        return client.with_timeout(left_s())

    try:
        with result.step("ready"):
            _check(timed().check_health(), "no replica is ready: it starts or drains")
        with result.step("pool"):
            chosen = pool or _first_pool(timed())
            timed().get_pool(chosen)
        _label(result, chosen, timed)
    except _FailedError:
        pass
    finally:
        if result.left_behind:
            _delete(result, client.with_timeout(max(0.1, ends - time.monotonic())))
    return result


def _label(result: Probed, pool: str, timed: Callable[[], Client]) -> None:
    """From creation to progress. Raises _FailedError."""
    session = result.session_id
    with result.step("create"):
        able, result.left_behind = timed(), True
        try:
            able.create_session(pool, session_id=session, lease_duration=LEASE_S)
        except CoresiftError as error:
            # One that was refused was not made; one whose answer is lost may have been.
            result.left_behind = error.reason is None or error.retryable
            raise
    with result.step("next"):
        first = timed().next_batch(session, ANNOTATOR, size=2)
        _check(len(first) == 2, f"{len(first)} of 2 items were offered")
    labels = dict(zip(first.item_ids, ("positive", "negative"), strict=True))
    with result.step("label"):
        timed().add_labels(session, labels, ANNOTATOR, batch=first)
    with result.step("next again"):
        second = timed().next_batch(session, ANNOTATOR, size=2)
        _check(second.phase in (Phase.SELECTING, Phase.EXHAUSTED), f"the phase is {second.phase}")
        _check(not labels.keys() & set(second.item_ids), "a labelled item is offered again")
    with result.step("progress"):
        labelled = timed().progress(session).labelled_items
        _check(labelled == 2, f"{labelled} of 2 labelled items are there")


def _delete(result: Probed, client: Client) -> None:
    was_made = all(not step.error for step in result.steps if step.step == "create")
    try:
        with result.step("delete"):
            try:
                client.delete_session(result.session_id)
            except NotFound:
                _check(not was_made, "the session is not there any more")
        result.left_behind = False
    except _FailedError:
        pass


def _first_pool(client: Client) -> str:
    for pool in client.list_pools(page_size=1):
        return pool.name
    raise _FailedError("no pool is served, or none that the token may see")


def _check(fine: bool, otherwise: str) -> None:
    if not fine:
        raise _FailedError(otherwise)


def _words(error: Exception) -> str:
    match error:
        case CoresiftError():
            return f"{error.message} ({error.reason or error.code.name})"
        case _FailedError():
            return str(error)
        case _:
            return repr(error)


def _addresses(server: str) -> list[str]:
    """Each replica that a target lists, or that its name stands for. Raises OSError."""
    target = parse(server)
    return list(look_up(target.name) if target.name else target.addresses)


def _plain(result: Probed) -> dict[str, Any]:
    return {
        "server": result.server,
        "ok": result.ok,
        "session_id": result.session_id,
        "left_behind": result.left_behind,
        "steps": result.steps,
    }
