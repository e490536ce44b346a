"""The tokens' file: what it may say, how it is reread, and the commands that write it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import structlog
import typer
from typer.testing import CliRunner

from coresift.server.access_tokens import (
    PREFIX,
    AccessToken,
    AccessTokens,
    digest_of,
    format_tokens,
    new_token,
    parse_tokens,
)
from coresift.server.caller import Caller, Scope
from coresift.server.commands.token import register
from coresift.server.errors import StartError

GOOD: dict[str, Any] = {
    "name": "frontend",
    "sha256": "ab" * 32,
    "tenant": "acme",
    "scopes": ["label", "read"],
    "pools": ["things"],
    "expires": "2027-01-31T00:00:00+00:00",
}


def file_of(*entries: dict[str, Any]) -> str:
    return json.dumps({"tokens": entries})


def run(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, output and error output of ``coresift token ...``."""
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, ["token", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_an_entry_says_who_calls() -> None:
    [token] = parse_tokens(file_of(GOOD))
    assert token.caller == Caller(
        "frontend", "acme", frozenset({Scope.LABEL, Scope.READ}), frozenset({"things"})
    )
    assert token.digest == b"\xab" * 32
    assert token.expires_s == 1801353600
    assert not token.has_expired(1801353599)
    assert token.has_expired(1801353600)
    assert parse_tokens(format_tokens([token])) == (token,)


def test_what_may_be_absent() -> None:
    [token] = parse_tokens(file_of({"name": "a", "sha256": "0" * 64, "scopes": ["admin"]}))
    assert token == AccessToken("a", bytes(32), None, Caller("a", "", frozenset({Scope.ADMIN})))
    assert parse_tokens(file_of()) == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "a|b"}, "name must have"),
        ({"name": None}, "name must have"),
        ({"tenant": "a/b"}, "tenant must have"),
        ({"tenant": "a|b"}, "tenant must have"),
        ({"tenant": 7}, "tenant must have"),
        ({"sha256": "ab"}, "64 lower-case"),
        ({"sha256": new_token()}, "64 lower-case"),
        ({"scopes": []}, "read, label, admin"),
        ({"scopes": ["write"]}, "read, label, admin"),
        ({"scopes": "read"}, "read, label, admin"),
        ({"pools": "things"}, "list of names"),
        ({"expires": "2027-01-31T00:00:00"}, "with its zone"),
        ({"expires": "soon"}, "with its zone"),
        ({"expires": 1801353600}, "with its zone"),
        ({"scope": ["read"]}, "unknown fields: scope"),
    ],
)
def test_one_wrong_entry_is_all(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parse_tokens(file_of({**GOOD, "name": "b", "sha256": "cd" * 32}, GOOD | change))
    assert str(caught.value).startswith("tokens[1] ")
    assert PREFIX not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"tokens": {}}',
        '{"tokens": [7]}',
        '{"tokens": [], "more": 1}',
        file_of(GOOD, GOOD | {"name": "b"}),
        file_of(GOOD, GOOD | {"sha256": "cd" * 32}),
    ],
)
def test_what_is_no_file_of_tokens(text: str) -> None:
    with pytest.raises(ValueError, match=r"JSON|tokens"):
        parse_tokens(text)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with one entry, whose token is "one"."""
    path = tmp_path / "tokens.json"
    path.write_text(file_of(GOOD | {"sha256": digest_of("one").hex()}))
    path.chmod(0o600)
    return path


def test_find(file: Path) -> None:
    tokens = AccessTokens(file)
    found = tokens.find("one")
    assert found is not None
    assert found.name == "frontend"
    for wrong in ("", "One", "one ", "two", digest_of("one").hex()):
        assert tokens.find(wrong) is None


def test_reload_of_a_changed_file(file: Path) -> None:
    seen: list[bool] = []
    tokens = AccessTokens(file, seen.append)
    tokens.reload()
    assert seen == []
    fresh = file.with_name("fresh")
    fresh.write_text(file_of(GOOD | {"sha256": digest_of("two").hex()}))
    fresh.replace(file)
    with structlog.testing.capture_logs() as logs:
        tokens.reload()
        tokens.reload()
    assert tokens.find("one") is None
    assert tokens.find("two") is not None
    assert seen == [True]
    assert [event["event"] for event in logs if event["log_level"] == "info"] == [
        "access tokens reloaded"
    ]


def test_reload_follows_a_swapped_link(file: Path, tmp_path: Path) -> None:
    """As Kubernetes replaces a mounted secret: ``..data`` is a link to a folder."""
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        text = file_of(GOOD | {"sha256": digest_of(version).hex()})
        (tmp_path / version / "tokens.json").write_text(text)
    data = tmp_path / "..data"
    data.symlink_to("1")
    tokens = AccessTokens(tmp_path / "..data" / "tokens.json")
    swapped = tmp_path / "..next"
    swapped.symlink_to("2")
    swapped.replace(data)
    tokens.reload()
    assert tokens.find("1") is None
    assert tokens.find("2") is not None


@pytest.mark.parametrize("text", ["", '{"tokens": [', file_of({"name": "a"}), None])
def test_a_broken_file_changes_nothing(file: Path, text: str | None) -> None:
    seen: list[bool] = []
    tokens = AccessTokens(file, seen.append)
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    with structlog.testing.capture_logs() as logs:
        tokens.reload()
        tokens.reload()
    assert tokens.find("one") is not None
    assert seen == [False]
    [error] = [event for event in logs if event["log_level"] == "error"]
    assert error["event"] == "access tokens not reloaded"
    file.write_text(file_of())
    tokens.reload()
    assert seen == [False, True]
    assert len(tokens) == 0


async def test_watch_sees_a_change(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coresift.server.access_tokens.POLL_S", 0.001)
    reloaded, loop = asyncio.Event(), asyncio.get_running_loop()

    def observe(ok: bool) -> None:
        loop.call_soon_threadsafe(reloaded.set)

    tokens = AccessTokens(file, observe)
    watching = asyncio.create_task(tokens.watch())
    try:
        await asyncio.to_thread(file.write_text, file_of())
        await asyncio.wait_for(reloaded.wait(), 10)
    finally:
        watching.cancel()
    assert tokens.find("one") is None


@pytest.mark.parametrize(
    ("mode", "warns"), [(0o600, False), (0o640, False), (0o604, True), (0o620, True)]
)
def test_a_file_that_others_can_read_or_change(file: Path, mode: int, warns: bool) -> None:
    file.chmod(mode)
    with structlog.testing.capture_logs() as logs:
        AccessTokens(file)
    assert bool(logs) is warns


def test_a_server_does_not_start_without_its_tokens(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="No such file"):
        AccessTokens(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("sea")
    with pytest.raises(StartError, match="is no JSON"):
        AccessTokens(tmp_path / "bad.json")


def test_tokens_differ_and_can_be_recognised() -> None:
    made = {new_token() for _ in range(100)}
    assert len(made) == 100
    assert all(token.startswith(PREFIX) and len(token) == len(PREFIX) + 43 for token in made)


def test_commands(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    options = ("--tenant", "acme", "--scope", "label", "--scope", "read", "--pool", "things")
    code, out, _ = run("new", "--name", "ui", *options, "--expires", "12h", "--file", file)
    assert code == 0
    token = out.strip()
    assert token not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    code, _, _ = run(
        "new", "--name", "ops", "--scope", "admin", "--expires", "never", "--file", file
    )
    assert code == 0
    found = AccessTokens(file).find(token)
    assert found is not None
    assert found.caller == Caller(
        "ui", "acme", frozenset({Scope.LABEL, Scope.READ}), frozenset({"things"})
    )
    code, out, _ = run("list", "--file", file)
    first, second = out.splitlines()
    assert first.startswith("ui\tacme\tlabel,read\tthings\texpires 2")
    assert second == "ops\t(default tenant)\tadmin\tall pools\tnever expires"
    assert run("revoke", "ui", "--file", file)[0] == 0
    assert AccessTokens(file).find(token) is None
    assert len(AccessTokens(file)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.json"]


def test_a_token_without_a_file_comes_with_its_entry() -> None:
    code, out, _ = run("new", "--name", "ui", "--scope", "read")
    token, entry = out.splitlines()
    assert code == 0
    [parsed] = parse_tokens(file_of(json.loads(entry)))
    assert parsed.digest == digest_of(token)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("new", "--name", "a|b", "--scope", "read"), "--name must have"),
        (("new", "--name", "a", "--scope", "read", "--tenant", "a/b"), "--tenant must have"),
        (("new", "--name", "a", "--scope", "read", "--expires", "5y"), "--expires must be"),
        (("new", "--name", "frontend", "--scope", "read"), "already"),
        (("revoke", "nobody"), "has no token 'nobody'"),
    ],
)
def test_commands_that_are_refused(file: Path, arguments: tuple[str, ...], words: str) -> None:
    before = file.read_text()
    code, out, error = run(*arguments, "--file", file)
    assert (code, out) == (1, "")
    assert words in error
    assert file.read_text() == before


def test_two_commands_at_a_time(file: Path) -> None:
    before = file.read_text()
    file.with_name("tokens.json.partial").touch()
    code, _, error = run("revoke", "frontend", "--file", file)
    assert code == 1
    assert "being changed by another command" in error
    assert file.read_text() == before
