"""The commands that an ACL must allow are those in use, no more and no fewer."""

from __future__ import annotations

import re
from importlib.resources import files

from coresift.server.state import scripts
from coresift.server.state.trial import COMMANDS

CALLED = re.compile(r"(?:redis\.p?call|in_batches)\('([A-Z]+)'")
PLAIN = re.compile(r"client\.(\w+)\(|written_plain\(\s*\"([A-Z]+)\"|\(\"([A-Z]+)\", ")
OUTSIDE_SCRIPTS = {"eval", "evalsha", "info", "wait"}


def used() -> set[str]:
    folder = files("coresift.server.state")
    found: set[str] = set()
    for script in (folder / "lua").iterdir():
        found |= {name.lower() for name in CALLED.findall(script.read_text("utf-8"))}
    for module in folder.iterdir():
        if module.name.endswith("_operations.py"):
            for names in PLAIN.findall(module.read_text("utf-8")):
                found |= {name.lower() for name in names if name}
    return found


def test_the_trial_tries_every_command_in_use() -> None:
    tried = {name.lower() for name in re.findall(r"\{'([A-Z]+)'", scripts.TRIAL.source)}
    assert tried == set(COMMANDS) - OUTSIDE_SCRIPTS
    assert used() - OUTSIDE_SCRIPTS == tried
