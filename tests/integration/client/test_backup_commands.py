"""`coresift export`, `import`, `undelete`, `erase-annotator`, `reconcile` against a server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from tests.fixtures.servers import ServerProcess

from coresift.client import RETRACT, Client

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def coresift(service: ServerProcess) -> Run:
    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "coresift.client", *map(str, words)]
        command += ["--server", service.listen]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    return run


def test_a_session_goes_and_comes_back(coresift: Run, client: Client, tmp_path: Path) -> None:
    session = client.create_session("things", session_id=f"s-{uuid4()}").session_id
    client.add_labels(session, {"item-1": "positive"}, "ann")
    file = tmp_path / "session.coresift"
    said = coresift("export", session, "--out", file)
    assert f"{session} is in {file}" in said.stdout
    assert file.stat().st_mode & 0o777 == 0o600
    assert coresift("import", file).returncode == 1  # the id is taken
    copy = f"copy-{uuid4()}"
    shown = json.loads(coresift("import", file, "--session-id", copy, "--json").stdout)
    assert shown["session_id"] == copy
    assert coresift("session", "delete", session).returncode == 0
    assert coresift("undelete", session).returncode == 0
    assert coresift("undelete", session).returncode == 3
    said = coresift("erase-annotator", session, "ann")
    assert said.stdout.startswith("1 log entries say erased-")
    assert "has nothing of 'ann'" in coresift("erase-annotator", session, "ann").stdout
    file.write_bytes(b"no session")
    broken = coresift("import", file, "--session-id", f"copy-{uuid4()}")
    assert (broken.returncode, "INVALID_BACKUP" in broken.stderr) == (2, True)
    assert coresift("import", tmp_path / "none").returncode == 2
    assert coresift("export", session, "--out", tmp_path / "no" / "folder").returncode == 1


def test_reconcile(coresift: Run, client: Client, tmp_path: Path) -> None:
    session = client.create_session("things", votes_per_item=2).session_id
    here = {"item-1": "positive", "item-2": "negative", "item-3": "positive"}
    client.add_labels(session, here, "ann")
    client.add_labels(session, {"item-3": RETRACT}, "ann")
    file = tmp_path / "labels.csv"
    rows = ["item-1,ann,positive", "item-2,ann,positive", "item-3,ann,positive"]
    more = ["item-2,bob,negative", "item-4,bob,positive", "item-9999,bob,positive"]
    file.write_text("\n".join(["item_id,annotator,label", *rows, *more]))

    said = coresift("reconcile", session, file)
    assert said.returncode == 1
    assert said.stdout.splitlines() == [
        "1 labels are the same",
        "2 missing here: item-2 by bob, item-4 by bob",
        "2 different: item-2 by ann, item-3 by ann",
        "0 only here",
        "1 of items that the pool lacks: item-9999 by bob",
    ]
    assert client.get_session(session).basis.revision == 3
    said = coresift("reconcile", session, file, "--apply")
    assert (said.returncode, said.stdout.splitlines()[-1]) == (1, "2 labels added")
    labels = {(r.item_id, r.annotator): r.value for r in client.list_labels(session)}
    assert labels["item-2", "bob"] == "negative"
    assert labels["item-2", "ann"] == "negative"  # not overwritten
    assert labels["item-3", "ann"] is RETRACT
    file.write_text("\n".join(["item_id,annotator,label", *rows, *more[:2]]))
    found = json.loads(coresift("reconcile", session, file, "--apply", "--json").stdout)
    assert (found["added"], found["agrees"]) == (0, False)
    assert coresift("reconcile", session, file, "--apply", "--overwrite").returncode == 0
    revision = client.get_session(session).basis.revision
    assert coresift("reconcile", session, file, "--apply", "--overwrite").returncode == 0
    assert client.get_session(session).basis.revision == revision


def test_reconcile_refuses(coresift: Run, client: Client, tmp_path: Path) -> None:
    session = client.create_session("things", pseudonymous=True).session_id
    file = tmp_path / "labels.csv"
    file.write_text("item_id,annotator,label\n")
    assert "pseudonyms" in coresift("reconcile", session, file).stderr
    assert "--overwrite needs --apply" in coresift("reconcile", session, file, "--overwrite").stderr
    assert coresift("reconcile", "no-such-session", file).returncode == 3
