"""Who makes a call, and of which trace it is, for its line in the log."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from coresift.server.caller import CALLER

MAX_ID = 128
"""Characters of an ``x-request-id``; a UUID has 36."""
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_FIRST_VERSION, _NO_VERSION = "00", "ff"


def audited(context: Any) -> dict[str, str]:
    """The principal and its tenant: the token's name, else the client certificate's.

    Read while the call is alive: gRPC frees it some time later.
    """
    caller = CALLER.get()
    principal = caller.principal
    if not principal:
        names = (context.auth_context() or {}).get("x509_common_name", ())
        principal = b"".join(names[:1]).decode(errors="replace")
    return {"principal": principal, "tenant": caller.tenant}


def traced(metadata: Iterable[tuple[str, str | bytes]]) -> dict[str, str]:
    """``trace_id`` and ``span_id`` of W3C's ``traceparent``, and ``x_request_id``.

    What is not as it should be is left out, so is a header that comes twice.
    """
    traces, ids = [], []
    for key, value in metadata:
        if key == "traceparent":
            traces.append(value)
        elif key == "x-request-id":
            ids.append(value)
    facts: dict[str, str] = {}
    if len(traces) == 1:
        facts |= parse_traceparent(str(traces[0]))
    if len(ids) == 1 and str(ids[0]).isprintable():
        facts["x_request_id"] = str(ids[0])[:MAX_ID]
    return facts


def parse_traceparent(text: str) -> dict[str, str]:
    """Trace and parent span of a ``traceparent``; nothing where it is none.

    Later versions may have more behind a further hyphen, the first may not.
    """
    match = _TRACEPARENT.fullmatch(text)
    if match is None:
        return {}
    version, trace_id, span_id, more = match.groups()
    if version == _NO_VERSION or (version == _FIRST_VERSION and more is not None):
        return {}
    if not int(trace_id, 16) or not int(span_id, 16):
        return {}
    return {"trace_id": trace_id, "span_id": span_id}
