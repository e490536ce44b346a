"""Trace headers of callers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coresift.server.rpc.audit import MAX_ID, parse_traceparent, traced

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = {"trace_id": TRACE, "span_id": SPAN}


def hexadecimal(digits: int) -> st.SearchStrategy[str]:
    return st.text("0123456789abcdef", min_size=digits, max_size=digits)


@given(hexadecimal(2), hexadecimal(32), hexadecimal(16), hexadecimal(2))
def test_what_is_a_traceparent_is_read(version: str, trace: str, span: str, flags: str) -> None:
    found = parse_traceparent(f"{version}-{trace}-{span}-{flags}")
    is_one = version != "ff" and set(trace) != {"0"} and set(span) != {"0"}
    assert found == ({"trace_id": trace, "span_id": span} if is_one else {})


@given(st.text())
def test_whatever_comes_only_hexadecimal_numbers_are_told(text: str) -> None:
    for key, value in parse_traceparent(text).items():
        assert len(value) == {"trace_id": 32, "span_id": 16}[key]
        assert set(value) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-01-more", False),
        (f"01-{TRACE}-{SPAN}-01-more", True),
        (f"01-{TRACE}-{SPAN}-01more", False),
        (f"ff-{TRACE}-{SPAN}-01", False),
        (f"00-{TRACE.upper()}-{SPAN}-01", False),
        (f"00-{TRACE}-{SPAN}", False),
        (f"00-{TRACE}-{SPAN}-01\n", False),
        (f" 00-{TRACE}-{SPAN}-01", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
    ],
)
def test_traceparents(text: str, is_one: bool) -> None:
    assert parse_traceparent(text) == (GOOD if is_one else {})


def test_headers() -> None:
    trace = ("traceparent", f"00-{TRACE}-{SPAN}-01")
    assert traced([trace, ("x-request-id", "abc"), ("x-other", "no")]) == {
        **GOOD,
        "x_request_id": "abc",
    }
    assert traced([trace, trace]) == {}
    assert traced([("x-request-id", "x" * 999)]) == {"x_request_id": "x" * MAX_ID}
    assert traced([("x-request-id", "a\nb")]) == {}
    assert traced([("traceparent", b"\xff")]) == {}
