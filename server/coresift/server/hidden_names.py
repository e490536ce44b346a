"""A log without names: item ids, annotators and request ids as keyed hashes."""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from typing import Any

from structlog.types import EventDict, WrappedLogger

HASH_KEY_BYTES = 16
"""The least of a key."""
HASH_DIGITS = 16
NAMES = ("annotator", "item_id", "request_id", "x_request_id", "job_id")
"""Keys of events. Ids of requests are the caller's own, and may be made of the first two; a job has
that of its request."""

_QUOTED = re.compile(r"['\"`].*", re.DOTALL)
"""Messages quote what they name; behind the first quote anything may stand."""
_VALUES = re.compile(r"[\n'\"`<(\[{=:].*", re.DOTALL)
"""Where a library's message goes on with values: `Task exception was never retrieved\\n...`."""


class Hiding:
    """Takes the names out of an event, the last of the processors before it is written.

    Hashes are HMAC-SHA256 of the name under the key, their first 16 hexadecimal digits.

    Args:
        key: at least 16 bytes.
        unnamed: another key of events, under which an annotator may stand.
    """

    def __init__(self, key: bytes, unnamed: str) -> None:
        self._key, self._unnamed = key, unnamed

    def hash_of(self, name: str) -> str:
        """What the log says instead of a name."""
        digest = hmac.digest(self._key, name.encode(errors="surrogatepass"), "sha256")
        return digest.hex()[:HASH_DIGITS]

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """The event without names, as structlog asks its processors."""
        if self._unnamed in event:
            event["annotator"] = event.pop(self._unnamed)
        for key in NAMES:
            if key in event:
                event[key] = self.hash_of(str(event[key]))
        if "error" in event:
            event["error"] = _QUOTED.sub("...", str(event["error"]))
        if "_record" in event:
            event["event"] = _VALUES.sub("...", str(event["event"]))
        if "exception" in event:
            event["exception"] = self._without_values(event["exception"])
        return event

    def _without_values(self, traces: Any) -> Any:
        """Tracebacks with the kinds of exceptions and the lines of code, without their texts."""
        if not isinstance(traces, Sequence) or isinstance(traces, str):
            return self.hash_of(str(traces))
        for trace in traces:
            trace["exc_value"] = self.hash_of(trace["exc_value"])
            trace["exc_notes"] = []
            trace["syntax_error"] = None
            for inner in trace.get("exceptions", ()):
                self._without_values(inner)
        return traces
