"""``coresift token``: the file of access tokens."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from coresift.server.access_tokens import (
    AccessToken,
    checked_name,
    digest_of,
    format_tokens,
    new_token,
    parse_tokens,
)
from coresift.server.caller import Caller, Scope

UNITS_S = {"m": 60, "h": 3_600, "d": 86_400}
FILE_HELP = "The file that `coresift serve --tokens` reads."

TokensFile = Annotated[Path, typer.Option("--file", help=FILE_HELP, envvar="CORESIFT_TOKENS")]


def register(app: typer.Typer) -> None:
    """Add ``token`` to the application."""
    family = typer.Typer(help="Access tokens: make, list and revoke them.", no_args_is_help=True)
    family.command("new")(new)
    family.command("list")(list_tokens)
    family.command("revoke")(revoke)
    app.add_typer(family, name="token")


def new(
    name: Annotated[str, typer.Option(help="Who uses it: what the server's log calls its calls.")],
    scope: Annotated[
        list[Scope],
        typer.Option(
            help="What it permits; give it again for more. None implies another: a labeling "
            "frontend that also shows progress needs label and read, one that makes sessions "
            "admin too."
        ),
    ],
    tenant: Annotated[
        str, typer.Option(help="Whose sessions and signals it sees. Without: the default tenant.")
    ] = "",
    pool: Annotated[
        list[str] | None, typer.Option(help="A pool that it sees; again for more. Without: all.")
    ] = None,
    expires: Annotated[
        str, typer.Option(help="How long it is good: 30m, 12h, 90d; or never.")
    ] = "90d",
    file: Annotated[
        Path | None,
        typer.Option(
            help=f"{FILE_HELP} Without it the entry is printed too.", envvar="CORESIFT_TOKENS"
        ),
    ] = None,
) -> None:
    """Make a token and print it, this once: the file holds only its hash."""
    token = new_token()
    with _told():
        checked_name("--name", name)
        if tenant:
            checked_name("--tenant", tenant)
        caller = Caller(name, tenant, frozenset(scope), frozenset(pool) if pool else None)
        entry = AccessToken(name, digest_of(token), _expiry_s(expires), caller)
        if file is not None:
            _add(file, entry)
    typer.echo(token)
    if file is None:
        typer.echo(json.dumps(entry.entry()))


def list_tokens(file: TokensFile) -> None:
    """List the tokens of a file: name, tenant, scopes, pools, when they end."""
    with _told():
        tokens = parse_tokens(file.read_text())
    now_s = time.time()
    for token in tokens:
        caller, expires = token.caller, "never expires"
        if token.expires_s is not None:
            moment = datetime.fromtimestamp(token.expires_s, UTC)
            expires = "expired" if token.has_expired(now_s) else f"expires {moment:%Y-%m-%d %H:%M}Z"
        tenant = caller.tenant or "(default tenant)"
        pools = "all pools" if caller.pools is None else ",".join(sorted(caller.pools))
        scopes = ",".join(sorted(caller.scopes))
        typer.echo("\t".join((token.name, tenant, scopes, pools, expires)))


def revoke(
    name: Annotated[str, typer.Argument(help="The name that the token was made with.")],
    file: TokensFile,
) -> None:
    """Take a token out of the file: a running server refuses it within seconds."""
    with _told(), _changing(file) as path:
        before = parse_tokens(file.read_text())
        after = [token for token in before if token.name != name]
        if len(after) == len(before):
            raise ValueError(f"{file} has no token {name!r}")
        path.write_text(format_tokens(after))
    typer.echo(f"revoked {name}")


def _add(file: Path, entry: AccessToken) -> None:
    with _changing(file) as path:
        before = parse_tokens(file.read_text()) if file.exists() else ()
        if any(token.name == entry.name for token in before):
            raise ValueError(f"{file} has a token {entry.name!r} already: revoke it first")
        path.write_text(format_tokens([*before, entry]))


@contextmanager
def _changing(file: Path) -> Iterator[Path]:
    """A new file, readable by its owner alone, that takes the place of ``file`` as a whole.

    Its name is the lock: of two commands at a time the second is told to wait.
    """
    partial = file.with_name(file.name + ".partial")
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise ValueError(
            f"{file} is being changed by another command; if there is none, remove {partial}"
        ) from None
    try:
        yield partial
        if file.exists():
            partial.chmod(file.stat().st_mode & 0o777)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _expiry_s(text: str) -> float | None:
    if text == "never":
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,4})([mhd])", text)
    if found is None:
        raise ValueError(f"--expires must be like 30m, 12h or 90d, or never; got {text!r}")
    return time.time() + int(found[1]) * UNITS_S[found[2]]


@contextmanager
def _told() -> Iterator[None]:
    """Say what is wrong in one line and end with exit code 1."""
    try:
        yield
    except (OSError, ValueError) as error:
        typer.secho(f"coresift token: {error}", fg="red", err=True)
        raise typer.Exit(1) from None
