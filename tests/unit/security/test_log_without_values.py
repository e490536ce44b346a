"""The log of an incident has no values of variables."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import logging
import structlog
from coresift.server.logs import configure_logs

def fails(lease_token):
    raise ValueError("sea")

configure_logs()
try:
    fails("that nobody" + " sees")
except ValueError as error:
    structlog.get_logger().error("incident", exc_info=error)
    logging.getLogger("asyncio").error("Task exception was never retrieved", exc_info=error)
"""


def test_an_incident_shows_no_locals() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["incident", "Task exception was never retrieved"]
    for line in lines:
        [error] = line["exception"]
        assert (error["exc_type"], error["exc_value"]) == ("ValueError", "sea")
        assert [frame["name"] for frame in error["frames"]][-1] == "fails"
    assert "that nobody sees" not in done.stderr
