"""Tokens and TLS as the client's arguments say: what is refused, what is kept secret."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import Any

import grpc
import pytest
import typer
from typer.testing import CliRunner

from coresift.client import AsyncClient, Client, TokenFile
from coresift.client.commands.connection import OPTIONS, add_connection_options, client_of
from coresift.client.commands.shared import DEFAULT_SERVER, ServerOption
from coresift.client.credentials import access

SECRET = "s3cret-Token_0.~+/=="  # noqa: S105 - of no one
AWAY = "10.0.0.1:50051"


def shown(*values: Any) -> str:
    return " ".join(text for value in values for text in (repr(value), str(value)))


def test_a_token_goes_with_every_call() -> None:
    assert access(is_local=True).metadata() == ()
    wanted = (("authorization", f"Bearer {SECRET}"),)
    assert access(is_local=True, token=SECRET).metadata() == wanted
    assert access(is_local=True, token=lambda: SECRET).metadata() == wanted


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_no_token_travels_unencrypted(kind: type[Client]) -> None:
    for target in (AWAY, f"127.0.0.1:1,{AWAY}", "dns:///coresift:50051"):
        with pytest.raises(ValueError, match="would travel unencrypted") as caught:
            kind(target, token=SECRET)
        assert SECRET not in "".join(traceback.format_exception(caught.value))
        kind(target, token=SECRET, insecure_token=True)
        kind(target, token=SECRET, tls=True)
        kind(target)
    kind("localhost:50051", token=SECRET)


@pytest.mark.parametrize("token", ["", "two words", "line\n", "ümlaut"])
def test_what_is_no_token_is_not_shown(token: str) -> None:
    with pytest.raises(ValueError, match="a token is made of letters") as caught:
        Client(token=token)
    assert not token or token not in str(caught.value)
    with pytest.raises(ValueError, match="a token is made of letters"):
        access(is_local=True, token=lambda: token).metadata()


def test_contradictions(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not both"):
        Client(tls=True, credentials=grpc.ssl_channel_credentials())
    with pytest.raises(OSError, match="no-such"):
        Client(ca=tmp_path / "no-such.pem")


def test_secrets_stay_out_of_reprs(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(SECRET)
    source = TokenFile(file)
    assert source() == SECRET
    with Client(token=SECRET) as one, Client(token=source) as other:
        for client in (one, other):
            seen = shown(client, client._settings, client._access, vars(client), source)
            assert SECRET not in seen


def test_a_token_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """As Kubernetes does it: the file is a link to a folder that is replaced."""
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "token").write_text(f"{version}\n")
    current = tmp_path / "current"
    current.symlink_to(tmp_path / "one")
    token = TokenFile(current / "token")
    assert [token(), token()] == ["one", "one"]
    (tmp_path / "next").symlink_to(tmp_path / "two")
    (tmp_path / "next").replace(current)
    assert token() == "two"
    current.unlink()
    assert token() == "two"  # it is being replaced
    with pytest.raises(OSError, match="absent"):
        TokenFile(tmp_path / "absent")()


def run(*words: str, **environment: str) -> Any:
    """A command that says how it would connect."""
    app = typer.Typer(pretty_exceptions_enable=False)
    family = typer.Typer()

    @family.command()
    def show(server: ServerOption = DEFAULT_SERVER) -> None:
        with client_of(server) as client:
            bearer = dict(client._access.metadata()).get("authorization", "none")
            typer.echo(f"{client.target} {bearer} {client._access.channel is not None}")

    @family.command()
    def local() -> None:
        typer.echo("local")

    app.add_typer(family, name="session")
    add_connection_options(app)
    return CliRunner().invoke(app, ["session", *words], env=environment, terminal_width=200)


def test_options_of_the_command_line(tmp_path: Path) -> None:
    assert run("show").output == f"{DEFAULT_SERVER} none False\n"
    assert run("show", "--token", "a").output == f"{DEFAULT_SERVER} Bearer a False\n"
    file = tmp_path / "token"
    file.write_text("b\n")
    assert "Bearer b " in run("show", "--token-file", str(file)).output
    assert "Bearer b " in run("show", CORESIFT_TOKEN_FILE=str(file)).output
    assert "Bearer c " in run("show", CORESIFT_TOKEN="c").output  # noqa: S106
    away = ("show", "--server", AWAY, "--token", "d")
    assert isinstance(run(*away).exception, ValueError)
    assert run(*away, "--tls").output == f"{AWAY} Bearer d True\n"
    assert run(*away, "--insecure-token").output == f"{AWAY} Bearer d False\n"
    assert "together" in str(run("show", "--cert", str(file)).exception)
    assert run("local").output == "local\n"
    assert run("local", "--token", "a").exit_code == 2


def test_help_shows_no_secret() -> None:
    text = run("show", "--help", CORESIFT_TOKEN=SECRET).output
    assert SECRET not in text
    for name in OPTIONS:
        assert f"--{name.replace('_', '-')}" in text
        assert f"CORESIFT_{name.upper()}" in text


def test_a_callable_token_is_asked_each_time() -> None:
    tokens = iter(("one", "two"))
    shows = access(is_local=True, token=lambda: next(tokens))
    assert [dict(shows.metadata())["authorization"] for _ in range(2)] == [
        "Bearer one",
        "Bearer two",
    ]
    assert os.environ.get("CORESIFT_TOKEN") is None
