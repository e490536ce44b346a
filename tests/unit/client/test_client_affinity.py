"""Which replica gets a call: targets, rendezvous hashing, what a failure changes. No I/O."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.client.driver import Clock, Driver, failing, unavailable

from coresift.client import CoresiftError, DeadlineExceeded, Reason, Unavailable
from coresift.client.affinity import AVOIDED_S, LOOK_UP_S, SILENT_S, Routes, ranking
from coresift.client.calls import labels, leases, pools, session
from coresift.client.endpoints import look_up, parse
from coresift.client.steps import Send, Settings
from coresift.v1 import selection_pb2 as pb

THREE = ("10.0.0.1:50051", "10.0.0.2:50051", "10.0.0.3:50051")
SESSIONS = [f"session-{n}" for n in range(3_000)]


@pytest.mark.parametrize(
    ("text", "addresses", "name"),
    [
        ("127.0.0.1:50051", ("127.0.0.1:50051",), None),
        ("a:1, b:2,a:1,", ("a:1", "b:2"), None),
        ("ipv4:10.0.0.1:1,10.0.0.2:2", ("10.0.0.1:1", "10.0.0.2:2"), None),
        ("ipv6:[::1]:1,[::2]:2", ("[::1]:1", "[::2]:2"), None),
        ("[::1]:50051", ("[::1]:50051",), None),
        ("coresift:50051", ("coresift:50051",), ("coresift", 50051)),
        ("dns:///coresift:50051", ("dns:///coresift:50051",), ("coresift", 50051)),
        ("dns:coresift:50051", ("dns:coresift:50051",), ("coresift", 50051)),
        ("dns://8.8.8.8/coresift:50051", ("dns://8.8.8.8/coresift:50051",), None),
        ("dns:///10.0.0.1:50051", ("dns:///10.0.0.1:50051",), None),
        ("unix:/run/a,b", ("unix:/run/a,b",), None),
        ("xds:///coresift", ("xds:///coresift",), None),
        ("coresift", ("coresift",), None),
    ],
)
def test_targets(text: str, addresses: tuple[str, ...], name: tuple[str, int] | None) -> None:
    found = parse(text)
    assert (found.addresses, found.name) == (addresses, name)


def test_an_empty_target() -> None:
    for text in ("", " , ", "ipv4:"):
        with pytest.raises(ValueError, match="a target is HOST:PORT"):
            parse(text)


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("localhost:1", True),
        ("127.0.0.2:1,[::1]:2", True),
        ("ipv4:127.0.0.1:1", True),
        ("dns:///localhost:50051", True),
        ("unix:/run/coresift", True),
        ("127.0.0.1:1,10.0.0.1:1", False),
        ("localhost.example:1", False),
        ("127.0.0.1.example:1", False),
        ("coresift:1", False),
        ("dns://8.8.8.8/localhost:1", False),
        ("xds:///localhost", False),
    ],
)
def test_what_is_local(text: str, local: bool) -> None:
    assert parse(text).is_local is local


def test_looking_a_name_up() -> None:
    assert look_up(("127.0.0.1", 7)) == ("127.0.0.1:7",)
    assert look_up(("::1", 7)) == ("[::1]:7",)
    with pytest.raises(OSError, match=r"."):
        look_up(("no-such-host.invalid", 7))


@pytest.mark.parametrize("first", [4, 6])
def test_a_name_with_both_families(monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    """The system's order counts: it knows what this machine can reach."""
    four = [(socket.AF_INET, 1, 6, "", (f"10.0.0.{n}", 7)) for n in (2, 1, 2)]
    six = [(socket.AF_INET6, 1, 6, "", (f"fd00::{n}", 7, 0, 0)) for n in (2, 1)]
    found = four + six if first == 4 else six + four
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    wanted = {4: ("10.0.0.1:7", "10.0.0.2:7"), 6: ("[fd00::1]:7", "[fd00::2]:7")}
    assert look_up(("coresift", 7)) == wanted[first]


@given(st.permutations(THREE), st.text())
def test_every_client_ranks_the_same(order: list[str], key: str) -> None:
    assert ranking(order, key) == ranking(THREE, key)


def test_sessions_spread_and_only_those_of_a_lost_replica_move() -> None:
    before = {key: Routes(",".join(THREE)).pick(key) for key in SESSIONS}
    assert all(900 < count < 1_100 for count in Counter(before.values()).values())
    routes = Routes(",".join(THREE))
    routes.avoid(THREE[0])
    after = {key: routes.pick(key) for key in SESSIONS}
    assert {key for key in SESSIONS if before[key] != after[key]} == {
        key for key in SESSIONS if before[key] == THREE[0]
    }
    moved = Counter(after[key] for key in SESSIONS if before[key] == THREE[0])
    assert set(moved) == set(THREE[1:])
    assert min(moved.values()) > 400


def test_the_choice_never_changes() -> None:
    """Clients of other versions must pick the same replica."""
    assert [ranking(THREE, key)[0][7] for key in ("a", "b", "c", "d", "e", "f")] == list("332313")


def test_calls_without_a_key_take_turns() -> None:
    routes = Routes(",".join(THREE))
    assert set(Counter(routes.pick("") for _ in range(300)).keys()) == set(THREE)


def test_a_replica_is_avoided_for_a_while() -> None:
    clock = Clock()
    routes = Routes(",".join(THREE), clock=clock)
    first, second, third = ranking(THREE, "s")
    routes.avoid(first, SILENT_S)
    routes.avoid(first)  # does not make it shorter
    assert routes.pick("s") == second
    assert routes.pick("s", {second}) == third
    assert routes.pick("s", {second, third}) == first
    clock.now += AVOIDED_S
    assert routes.pick("s") == second
    clock.now += SILENT_S
    assert routes.pick("s") == first
    for address in THREE:
        routes.avoid(address)
    assert routes.pick("s") == first


class Names:
    """A name's addresses; ``asked`` counts the look-ups, ``done`` waits for one."""

    def __init__(self) -> None:
        self.found: tuple[str, ...] | OSError = THREE
        self.asked = threading.Semaphore(0)

    def __call__(self) -> tuple[str, ...]:
        self.asked.release()
        if isinstance(self.found, OSError):
            raise self.found
        return self.found

    def settle(self, routes: Routes) -> None:
        """Wait for a look-up and what it changes."""
        assert self.asked.acquire(timeout=10)
        for thread in threading.enumerate():
            if thread.name == "coresift-look-up":
                thread.join()


def test_a_name_is_looked_up_beside_the_calls() -> None:
    clock, names = Clock(), Names()
    routes = Routes("dns:///coresift:50051", clock=clock, resolve=names)
    assert routes.addresses == ("dns:///coresift:50051",)
    routes.pick("s")
    names.settle(routes)
    assert routes.addresses == THREE
    assert routes.known == set(THREE)
    assert routes.authority_of(THREE[0]) == "coresift:50051"
    assert routes.authority_of("dns:///coresift:50051") == ""
    routes.pick("s")
    assert not names.asked.acquire(blocking=False)  # not again so soon
    clock.now += LOOK_UP_S
    names.found = OSError("no answer")
    routes.pick("s")
    names.settle(routes)
    assert routes.addresses == THREE  # they may still be there
    names.found = THREE[1:]
    clock.now += 2
    routes.avoid(THREE[0])  # a failure asks again early
    routes.pick("s")
    names.settle(routes)
    assert routes.addresses == THREE[1:]
    names.found = THREE[:1]
    clock.now += LOOK_UP_S
    routes.pick("s")
    names.settle(routes)
    assert routes.addresses == ("dns:///coresift:50051",)  # one replica needs no choice


def test_a_name_is_called_itself_when_none_of_its_addresses_answers() -> None:
    """gRPC looks it up in its own way: both families."""
    clock, names, name = Clock(), Names(), "dns:///coresift:50051"
    routes = Routes(name, clock=clock, resolve=names)
    assert not routes.has_others({name})
    routes.pick("s")
    names.settle(routes)
    first, *others = ranking(THREE, "s")
    assert routes.has_others(THREE)
    assert not routes.has_others({*THREE, name})
    assert routes.pick("s", THREE) == name
    for address in THREE:
        assert name not in routes.known
        routes.avoid(address)
    assert (routes.pick("s"), routes.known) == (name, {*THREE, name})
    assert routes.pick("s", {name}) == first
    routes.avoid(name)
    assert routes.pick("s") == first
    assert routes.pick("s", {first, name}) == others[0]
    clock.now += AVOIDED_S
    assert (routes.pick("s"), routes.known) == (first, set(THREE))


def test_one_that_is_pinned_keeps_the_channels_of_the_others() -> None:
    whole = Routes(",".join(THREE))
    one = whole.pinned(THREE[1])
    assert {one.pick(key) for key in "abcdef"} == {THREE[1]}
    assert not one.has_others({THREE[1]})
    assert one.known == whole.known == set(THREE)
    assert whole.pinned("10.9.9.9:1").known == {*THREE, "10.9.9.9:1"}


def three_replicas(answer: Any) -> Driver:
    clock = Clock()
    routes = Routes(",".join(THREE), clock=clock)
    driver = Driver(answer, Settings(clock=clock, jitter=lambda: 0.5, routes=routes))
    driver.clock = clock
    return driver


def addresses(driver: Driver) -> list[str]:
    return [step.address for step in driver.sent]


def test_calls_of_a_session_go_to_one_replica() -> None:
    driver = three_replicas(failing([], pb.NextBatchResponse(phase=pb.PHASE_SELECTING)))
    for _ in range(5):
        driver.run(leases.next_batch("s", "ann"))
    assert set(addresses(driver)) == {ranking(THREE, "s")[0]}


def test_a_retry_goes_elsewhere_at_once() -> None:
    driver = three_replicas(failing([unavailable()] * 2, pb.DeleteSessionResponse()))
    driver.run(session.delete_session("s"))
    assert addresses(driver) == ranking(THREE, "s")
    assert driver.slept == [0, 0]
    assert len({step.request.request_id for step in driver.sent}) == 1  # type: ignore[union-attr]
    driver.run(session.delete_session("s"))  # the others are avoided
    assert addresses(driver)[-1] == ranking(THREE, "s")[2]


def test_only_when_all_have_failed_it_is_an_attempt() -> None:
    driver = three_replicas(failing([unavailable()] * 99, pb.DeleteSessionResponse()))
    with pytest.raises(Unavailable):
        driver.run(session.delete_session("s"))
    assert len(driver.sent) == 3 * driver.settings.max_attempts
    assert driver.slept[:6] == [0, 0, 0.05, 0, 0, 0.1]


@pytest.mark.parametrize(
    ("reason", "elsewhere"),
    [
        (Reason.DRAINING, True),
        (Reason.POOL_VERSION_NOT_LOADED, True),
        (Reason.STATE_UNAVAILABLE, False),
        (Reason.STATE_NOT_REPLICATED, False),
    ],
)
def test_what_another_replica_would_answer_too(reason: Reason, elsewhere: bool) -> None:
    refusal = Unavailable(reason, "no", code=grpc.StatusCode.UNAVAILABLE)
    driver = three_replicas(failing([refusal], pb.DeleteSessionResponse()))
    driver.run(session.delete_session("s"))
    first, second, _ = ranking(THREE, "s")
    assert addresses(driver) == [first, second if elsewhere else first]
    assert driver.slept == ([0] if elsewhere else [0.05])


def test_a_stream_goes_elsewhere_before_its_first_message() -> None:
    streams: list[list[Any]] = [[unavailable()], [pb.ListLabelsResponse()]]
    driver = three_replicas(lambda _name, _request: streams.pop(0))
    driver.run(labels.list_labels("s"))
    assert addresses(driver) == ranking(THREE, "s")[:2]


class Stopped:
    """Some replicas hold calls until their deadline; of those some answer a probe."""

    def __init__(self, stopped: list[str], alive: list[str]) -> None:
        self.stopped, self.alive = stopped, alive
        self.driver = three_replicas(self)

    def __call__(self, name: str, step: Any) -> Any:
        if name == "Check":
            if step.address in self.alive:
                return b""
            self.driver.clock.now += step.timeout_s
            raise DeadlineExceeded(None, "late", code=grpc.StatusCode.DEADLINE_EXCEEDED)
        sent = self.driver.sent[-1]
        assert isinstance(sent, Send)
        if sent.address in self.stopped:
            assert sent.timeout_s is not None
            self.driver.clock.now += min(sent.timeout_s, 5)
            if sent.timeout_s < 5:
                raise DeadlineExceeded(None, "late", code=grpc.StatusCode.DEADLINE_EXCEEDED)
        return pb.DeleteSessionResponse()


def test_a_replica_that_stops_is_left_for_another() -> None:
    first, second, _ = ranking(THREE, "s")
    case = Stopped([first], [])
    case.driver.run(session.delete_session("s"))
    assert addresses(case.driver) == [first, second]
    assert case.driver.probed == [first]
    sent = [step.timeout_s for step in case.driver.sent if isinstance(step, Send)]
    assert sent == [3, 3]
    case.driver.run(session.delete_session("s"))
    assert addresses(case.driver) == [first, second, second]


def test_a_slow_replica_gets_all_the_time_that_is_left() -> None:
    first = ranking(THREE, "s")[0]
    case = Stopped([first], [first])
    case.driver.run(session.delete_session("s"))
    assert addresses(case.driver) == [first, first]
    sent = [step.timeout_s for step in case.driver.sent if isinstance(step, Send)]
    assert sent == [3, 27]
    assert case.driver.probed == [first]


def test_one_replica_is_never_interrupted() -> None:
    driver = Driver(failing([], pb.GetPoolResponse()))
    driver.run(pools.get_pool("p"))
    assert [step.timeout_s for step in driver.sent if isinstance(step, Send)] == [30]


def test_a_deadline_of_the_call_is_final() -> None:
    late = DeadlineExceeded(None, "late", code=grpc.StatusCode.DEADLINE_EXCEEDED)
    driver = three_replicas(failing([late], pb.DeleteSessionResponse()))
    short = Settings(timeout_s=1, routes=driver.settings.routes, clock=driver.clock)
    driver.settings = short
    with pytest.raises(CoresiftError):
        driver.run(session.delete_session("s"))
    assert driver.probed == []
