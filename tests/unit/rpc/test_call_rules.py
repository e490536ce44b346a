"""Every RPC has a rule of admission, and the loop's share follows its waits."""

from __future__ import annotations

import pytest

from coresift.server.rpc.call_classes import LIMITS, RULES, CallClass
from coresift.server.rpc.loop_guard import LATE_S, LEAST, PATIENCE_S, LoopGuard
from coresift.v1 import selection_pb2 as pb

METHODS = list(pb.DESCRIPTOR.services_by_name["SelectionService"].methods)


def test_every_rpc_has_a_rule_and_no_rule_is_left_over() -> None:
    assert {method.name for method in METHODS} == set(RULES)
    assert set(LIMITS) == set(CallClass)


@pytest.mark.parametrize("method", METHODS, ids=[method.name for method in METHODS])
def test_streams_do_not_share_permits_with_short_calls(method: object) -> None:
    rule = RULES[method.name]  # type: ignore[attr-defined]
    short = {CallClass.STATE, CallClass.SELECTING}
    if method.client_streaming:  # type: ignore[attr-defined]
        assert rule.call_class is CallClass.UPLOADING
    elif not method.server_streaming:  # type: ignore[attr-defined]
        assert rule.call_class in short


def test_a_chance_delay_refuses_nobody() -> None:
    guard = LoopGuard()
    guard.judge(1.0, 10.0)
    guard.judge(0.001, 10.1)
    guard.judge(1.0, 10.0 + PATIENCE_S)
    assert guard.share == 1.0


def test_a_standing_queue_lets_in_fewer_until_it_is_gone() -> None:
    guard, shares = LoopGuard(), []
    for tick in range(100):
        guard.judge(2 * LATE_S, tick / 10)
        shares.append(guard.share)
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1.0
    assert shares[-1] == LEAST
    for tick in range(100):
        guard.judge(LATE_S / 2, 100 + tick / 10)
    assert guard.share == 1.0
    assert guard.has_time()
