"""Hashes in place of names in the log."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coresift.server.config import LogConfig
from coresift.server.errors import StartError
from coresift.server.hidden_names import Hiding
from coresift.server.logs import UNNAMED, configure_logs

KEY = b"0123456789abcdef"
NAME = "ann-whom-nobody-sees"


def hidden(**event: Any) -> dict[str, Any]:
    return dict(Hiding(KEY, UNNAMED)(None, "info", dict(event)))


@given(st.text())
def test_the_hash_is_hmac_sha256(name: str) -> None:
    wanted = hmac.new(KEY, name.encode(), hashlib.sha256).hexdigest()[:16]
    assert Hiding(KEY, UNNAMED).hash_of(name) == wanted


def test_names_have_the_same_hash_wherever_they_stand() -> None:
    shown = hidden(annotator=NAME, item_id=NAME, request_id=NAME, session_id="s", ms=1.5)
    assert len({shown["annotator"], shown["item_id"], shown["request_id"]}) == 1
    assert (shown["session_id"], shown["ms"]) == ("s", 1.5)
    assert hidden(unnamed=NAME) == {"annotator": shown["annotator"]}
    assert Hiding(KEY[::-1], UNNAMED).hash_of(NAME) != shown["annotator"]


@pytest.mark.parametrize("quote", ["'", '"', "`"])
def test_messages_end_at_the_first_quote(quote: str) -> None:
    shown = hidden(error=f"no item {quote}{NAME}\n{quote} or {NAME}")
    assert shown == {"error": "no item ..."}


@pytest.mark.parametrize(
    "text",
    [f"Task exception was never retrieved\nfuture: <Task {NAME}>", f"lost {NAME!r}", f"a <{NAME}>"],
)
def test_messages_of_libraries_keep_their_beginning(text: str) -> None:
    shown = hidden(_record=object(), event=text)
    assert shown["event"].endswith("...")
    assert NAME not in shown["event"]


def test_short_keys_are_refused() -> None:
    with pytest.raises(StartError, match="at least 16 bytes, got 3"):
        configure_logs(LogConfig(hashes=True, hash_key="abc"))
    assert "abc" not in repr(LogConfig(hash_key="abc"))


SCRIPT = f"""
import asyncio, gc, json, logging, os, sys, threading, warnings
import structlog
from coresift.server.config import LogConfig
from coresift.server.logs import configure_logs

NAME = "{NAME}"
configure_logs(LogConfig(**json.loads(sys.argv[1]), hash_key=os.environ.get("KEY", "")))
log = structlog.get_logger()

def fail(name):
    raise LookupError(name) from KeyError(name)

async def fail_later(name):
    fail(name)

async def main():
    asyncio.get_running_loop().call_soon(fail, NAME)
    task = asyncio.create_task(fail_later(NAME), name=NAME)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task
    gc.collect()

class Bad:
    def __del__(self):
        fail(NAME)

asyncio.run(main())
thread = threading.Thread(target=fail, args=(NAME,))
thread.start()
thread.join()
Bad()
warnings.warn("odd: " + NAME)
logging.getLogger("library").error("lost %s", [NAME])
log.info("call", code="OK", unnamed=NAME)
log.info("call", code="NOT_FOUND", item_id=NAME)
try:
    try:
        raise ExceptionGroup(NAME, [ValueError(NAME), KeyError(NAME)])
    except ExceptionGroup as error:
        error.add_note(NAME)
        raise
except ExceptionGroup as error:
    log.error("incident", exc_info=error)
fail(NAME)
"""


def logged(key: str = "", **config: Any) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"KEY": key},
    )
    assert done.returncode == 1
    return [json.loads(line) for line in done.stderr.splitlines()]


EVENTS = ["an exception that nobody can catch", "call", "call", "incident", "crashed"]


def test_whatever_fails_the_log_is_json_without_names() -> None:
    lines = logged(KEY.decode(), hashes=True)
    assert NAME not in json.dumps(lines)
    events = [line["event"] for line in lines]
    assert {*EVENTS, "a thread crashed", "Task exception was never retrieved..."} <= set(events)
    assert lines[-1]["exception"][0]["exc_type"] == "LookupError"
    assert lines[-1]["exception"][0]["frames"][-1]["name"] == "fail"
    [good] = [line for line in lines if line.get("code") == "OK"]
    assert good["annotator"] == Hiding(KEY, UNNAMED).hash_of(NAME)


def test_without_hashes_texts_stand_there_and_what_may_not_be_named_does_not() -> None:
    lines = logged()
    [good] = [line for line in lines if line.get("code") == "OK"]
    assert good.keys() == {"event", "code", "level", "timestamp"}
    assert lines[-1]["exception"][0]["exc_value"] == NAME


def test_without_a_key_each_process_has_its_own_and_says_so() -> None:
    one, two = logged(hashes=True), logged(hashes=True)
    assert "CORESIFT_LOG_HASH_KEY" in one[0]["event"]
    hashes = [next(x["item_id"] for x in lines if "item_id" in x) for lines in (one, two)]
    assert len(set(hashes)) == 2


def test_only_failed_calls_and_only_grave_events() -> None:
    calls = [line["code"] for line in logged(calls="failed") if line["event"] == "call"]
    assert calls == ["NOT_FOUND"]
    assert {line["level"] for line in logged(level="error")} == {"error", "critical"}
