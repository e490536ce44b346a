"""Options of every command that speaks to a server: who calls, and whom it trusts."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from coresift.client.client import Client
from coresift.client.credentials import TokenFile

PEM: dict[str, Any] = {"exists": True, "dir_okay": False, "metavar": "FILE.pem"}

OPTIONS: dict[str, tuple[Any, Any]] = {
    "token": (
        Annotated[
            str | None,
            typer.Option(
                envvar="CORESIFT_TOKEN",
                show_default=False,
                help="Who calls. Others on this machine can see it: better in the environment.",
            ),
        ],
        None,
    ),
    "token_file": (
        Annotated[
            Path | None,
            typer.Option(
                envvar="CORESIFT_TOKEN_FILE", exists=True, dir_okay=False, help="Holds the token."
            ),
        ],
        None,
    ),
    "tls": (
        Annotated[bool, typer.Option("--tls", envvar="CORESIFT_TLS", help="Encrypt.")],
        False,
    ),
    "ca": (
        Annotated[
            Path | None,
            typer.Option(envvar="CORESIFT_CA", help="Authorities to trust; implies --tls.", **PEM),
        ],
        None,
    ),
    "cert": (
        Annotated[
            Path | None,
            typer.Option(envvar="CORESIFT_CERT", help="Our own certificate; implies --tls.", **PEM),
        ],
        None,
    ),
    "key": (
        Annotated[Path | None, typer.Option(envvar="CORESIFT_KEY", help="Of --cert.", **PEM)],
        None,
    ),
    "insecure_token": (
        Annotated[
            bool,
            typer.Option(
                "--insecure-token",
                envvar="CORESIFT_INSECURE_TOKEN",
                help="Send the token without TLS to other machines too.",
            ),
        ],
        False,
    ),
}
"""Types and defaults of the options, by parameter."""

_given: ContextVar[dict[str, Any] | None] = ContextVar("connection options", default=None)


def add_connection_options(app: typer.Typer) -> None:
    """Give every command that takes a ``server`` the options of `OPTIONS` too."""
    for command in app.registered_commands:
        if command.callback and "server" in inspect.signature(command.callback).parameters:
            command.callback = _with_options(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            add_connection_options(group.typer_instance)


def _with_options(callback: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(callback)
    def command(*args: Any, **kwargs: Any) -> Any:
        given = {name: kwargs.pop(name) for name in OPTIONS}
        before = _given.set(given)
        try:
            return callback(*args, **kwargs)
        finally:
            _given.reset(before)

    signature = inspect.signature(callback)
    hints = get_type_hints(callback, include_extras=True)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in OPTIONS.items()
    ]
    own = [each.replace(annotation=hints[name]) for name, each in signature.parameters.items()]
    command.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    command.__annotations__ = hints | {name: kind for name, (kind, _) in OPTIONS.items()}
    return command


def client_of(server: str, *, own: bool = False) -> Client:
    """A client of a server as the command's options say; ``own``: one that we have started.

    Raises ValueError: the options contradict each other. OSError: a file cannot be read.
    """
    given = {} if own else _given.get() or {}
    cert, key = given.get("cert"), given.get("key")
    if (cert is None) != (key is None):
        raise ValueError("give --cert and --key together")
    token_file = given.get("token_file")
    return Client(
        server,
        token=given.get("token") or (token_file and TokenFile(token_file)),
        tls=given.get("tls", False),
        ca=given.get("ca"),
        certificate=None if cert is None or key is None else (cert, key),
        insecure_token=given.get("insecure_token", False),
        # A person waits: a few attempts, not the patience of a service.
        max_attempts=4,
    )
