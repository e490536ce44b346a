"""The command line without a server: parsing, errors, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from coresift.client import All, Classes, Label, Seals, Task
from coresift.client.commands.session import parse_candidates, parse_label
from coresift.client.commands.shared import Failure, plain


def coresift(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "coresift.client", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_version_and_help() -> None:
    assert coresift("--version").stdout.startswith("coresift 0.")
    done = coresift("--help")
    for family in ("session", "next", "label", "search", "coreset", "simulate"):
        assert family in done.stdout


def test_no_server_is_said_without_a_traceback() -> None:
    done = coresift("session", "list", "--server", "127.0.0.1:1")
    assert done.returncode == 4
    assert "no server answers at 127.0.0.1:1" in done.stderr
    assert "coresift serve" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("session", "create", "p", "--candidates", "ten"), "--candidates must be all"),
        (("session", "create", "p", "--task", "ranking"), "Task must be one of binary"),
        (("search", "p"), "either an item id or --vector"),
        (("coreset", "random", "5", "--out", "x.parquet"), "either --pool or --session"),
        (("coreset", "random", "5", "--out", "x.csv", "--pool", "p"), "a .parquet file"),
        (("simulate", "nowhere"), "does not exist"),
        (("simulate", "nowhere", "--methods", "BALD-All"), "unknown method 'BALD-All'"),
    ],
)
def test_wrong_input(words: tuple[str, ...], message: str) -> None:
    done = coresift(*words)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_parse_candidates() -> None:
    assert parse_candidates("all") == All()
    assert parse_candidates("seals") == Seals(100)
    assert parse_candidates("seals:7") == Seals(7)
    for text in ("seals:x", "all:3", ""):
        with pytest.raises(Failure):
            parse_candidates(text)


def test_parse_label() -> None:
    assert parse_label("a=b=cat", Task.BINARY) == Label("a=b", "cat")
    expected = Label("a", Classes(["cat", "dog"], ["cow"]))
    assert parse_label("a=cat,-cow,dog", Task.MULTILABEL) == expected
    for line in ("a", "=cat", "a="):
        with pytest.raises(Failure, match="ITEM=CLASS"):
            parse_label(line, Task.BINARY)


def test_plain_is_json() -> None:
    value = {
        "time": datetime(2026, 1, 2, tzinfo=UTC),
        "duration": timedelta(seconds=1.5),
        "token": b"\x00",
        "scores": np.array([1.0, np.nan]),
        "label": Label("a", "b"),
    }
    assert json.loads(json.dumps(plain(value))) == {
        "time": "2026-01-02T00:00:00+00:00",
        "duration": 1.5,
        "token": "AA==",
        "scores": [1.0, None],
        "label": {"item_id": "a", "value": "b", "lease_token": ""},
    }
