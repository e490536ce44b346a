"""Every RPC has a rule of admission."""

from __future__ import annotations

import pytest

from coresift.server.rpc.call_classes import LIMITS, RULES, CallClass
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
