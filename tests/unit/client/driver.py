"""Performs the steps of a flow with scripted answers. No I/O, no waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf.message import Message

from coresift.client.errors import CoresiftError, Unavailable
from coresift.client.steps import Ask, Emit, Open, Probe, Receive, Send, Settings, Sleep


class Clock:
    """A clock that only sleeping and sending move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Driver:
    """Performs steps with scripted answers; records what was sent and slept."""

    def __init__(self, answer: Callable[[str, Any], Any], settings: Settings | None = None) -> None:
        self.clock = Clock()
        self.settings = settings or Settings(clock=self.clock, jitter=lambda: 0.5)
        self.answer = answer
        self.sent: list[Send | Open] = []
        self.probed: list[str] = []
        self.slept: list[float] = []
        self.emitted: list[Any] = []

    def run(self, flow: Any) -> Any:
        reply: Any = None
        failure: CoresiftError | None = None
        try:
            while True:
                step = flow.send(reply) if failure is None else flow.throw(failure)
                reply = failure = None
                try:
                    reply = self.perform(step)
                except CoresiftError as error:
                    failure = error
        except StopIteration as stop:
            return stop.value

    def perform(self, step: Any) -> Any:  # noqa: PLR0911 - a case a step
        match step:
            case Ask():
                return self.settings
            case Send():
                self.sent.append(step)
                return self.answer(step.name, step.request)
            case Open():
                self.sent.append(step)
                return Messages(self.answer(step.name, step.request))
            case Probe():
                self.probed.append(step.address)
                return self.answer("Check", step)
            case Receive():
                return step.stream.read()  # type: ignore[attr-defined]
            case Sleep():
                self.slept.append(step.seconds)
                self.clock.now += step.seconds
                return None
            case Emit():
                self.emitted.append(step.value)
                return None


class Messages:
    """A stream of messages; an exception among them is raised in its turn."""

    def __init__(self, messages: Iterator[Any]) -> None:
        self._messages = iter(messages)
        self.cancelled = False

    def read(self) -> Message | None:
        message = next(self._messages, None)
        if isinstance(message, CoresiftError):
            raise message
        return message

    def cancel(self) -> bool:
        self.cancelled = True
        return True


def unavailable(retry_after: float | None = None) -> Unavailable:
    after = None if retry_after is None else timedelta(seconds=retry_after)
    return Unavailable(None, "gone", retry_after=after, code=grpc.StatusCode.UNAVAILABLE)


def failing(failures: list[CoresiftError], reply: Message) -> Callable[[str, Any], Message]:
    def answer(_name: str, _request: Any) -> Message:
        if failures:
            raise failures.pop(0)
        return reply

    return answer
