"""Where a call is sent, and what is done when it fails."""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from google.protobuf.message import Message

from coresift.client.affinity import SILENT_S
from coresift.client.errors import CoresiftError, Reason, Unavailable
from coresift.client.steps import Open, Send, Settings, Sleep, metadata

PATIENCE_S = 3.0
"""How long a unary call waits before it asks whether its replica is still there."""
LEAST_S = 1.0
"""No call is interrupted sooner."""


class Retry:
    """Decides where a call is sent and, after a failure, whether and when it is sent again.

    Exponential backoff with full jitter on top of what google.rpc.RetryInfo asks for; never
    beyond the deadline of the call. A replica that fails without an answer, or is draining, is
    left at once for another: only when all have been tried that counts as a failure.

    A replica may also stop without closing its connections. Where there are others, a unary
    call is therefore interrupted once, after a few seconds, to ask whether the replica is still
    there: if so it is sent there again with all the time that is left, else elsewhere. Streams
    and uploads rely on the keepalive of the connection.
    """

    def __init__(self, settings: Settings, *, timed: bool, key: str = "") -> None:
        self._settings, self._routes, self._key = settings, settings.routes, key
        self._deadline = settings.clock() + settings.timeout_s if timed else None
        self._failures = 0
        self._address = self._routes.pick(key)
        self._tried: set[str] = set()
        self._trusted = self._short = False

    def send(self, name: str, request: Message | Iterable[Message], session_id: str) -> Send:
        """The next attempt of a call with one answer."""
        left = self.left_s()
        self._short = False
        if left is not None and not self._trusted and self._routes.has_others({self._address}):
            patience = min(PATIENCE_S, left / 2)
            self._short = patience >= LEAST_S
            left = patience if self._short else left
        return Send(name, request, metadata(session_id), left, self._address)

    def open(self, name: str, request: Message, session_id: str) -> Open:
        """The next attempt of a call that answers with a stream."""
        return Open(name, request, metadata(session_id), self._address)

    def left_s(self) -> float | None:
        """Seconds left for an attempt; None without a deadline."""
        if self._deadline is None:
            return None
        return max(self._deadline - self._settings.clock(), 0.001)

    def reset(self) -> None:
        """Forget earlier failures: the server has made progress since."""
        self._failures = 0
        self._tried.clear()

    def was_interrupted(self, error: CoresiftError) -> bool:
        """Whether the attempt ended only because we want to ask."""
        return self._short and error.code is grpc.StatusCode.DEADLINE_EXCEEDED

    def trust(self) -> None:
        """The replica is there: the next attempt goes to it and is not interrupted."""
        self._trusted = True

    def silence(self) -> CoresiftError:
        """The failure of a replica that has stopped; calls keep away from it for longer."""
        self._routes.avoid(self._address, SILENT_S)
        message = f"{self._address} has stopped answering"
        return Unavailable(None, message, code=grpc.StatusCode.UNAVAILABLE)

    def blame(self, error: CoresiftError) -> bool:
        """Keep calls away from the replica if it is gone; whether another may do better."""
        if error.code is not grpc.StatusCode.UNAVAILABLE:
            return False
        if error.reason in (None, Reason.DRAINING):
            self._routes.avoid(self._address)
            return True
        # The replicas are being moved to another pool version: another one may hold it.
        return error.reason is Reason.POOL_VERSION_NOT_LOADED

    def pause(self, error: CoresiftError) -> Sleep:
        """The wait before the next attempt; raises ``error`` if there must be none."""
        self._trusted = False
        if self.blame(error):
            self._tried.add(self._address)
            if self._routes.has_others(self._tried):
                self._address = self._routes.pick(self._key, self._tried)
                return Sleep(0)
        self._tried.clear()
        self._address = self._routes.pick(self._key)
        self._failures += 1
        if not error.retryable or self._failures >= self._settings.max_attempts:
            raise error
        doubled = self._settings.backoff_first_s * 2 ** (self._failures - 1)
        seconds = self._settings.jitter() * min(doubled, self._settings.backoff_most_s)
        if error.retry_after is not None:
            seconds += error.retry_after.total_seconds()
        left = self.left_s()
        if left is not None and seconds >= left:
            raise error
        return Sleep(seconds)


def affinity_key(request: object, session_id: str) -> str:
    """What a call's replica is chosen by: the session, else the request_id; empty: nothing."""
    return session_id or str(getattr(request, "request_id", ""))
