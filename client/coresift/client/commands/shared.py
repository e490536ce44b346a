"""What the commands have in common: connecting, printing, failing."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coresift.client.channel import DEFAULT_TARGET
from coresift.client.client import Client
from coresift.client.commands.connection import client_of
from coresift.client.errors import CoresiftError, InvalidInput, NotFound, Unavailable

ServerOption = Annotated[
    str,
    typer.Option(
        "--server",
        envvar="CORESIFT_SERVER",
        metavar="HOST:PORT",
        help="The service; several replicas with commas.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
DEFAULT_SERVER = DEFAULT_TARGET


class Failure(Exception):  # noqa: N818 - what the command ends with
    """A command cannot go on; the message says why and what to do."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def wrong(message: str) -> Failure:
    """The user's input is wrong."""
    return Failure(message, 2)


@contextmanager
def connected(server: str, *, own: bool = False) -> Iterator[Client]:
    """A client of the server, and what to do if there is none; ``own``: we have started it."""
    try:
        made = client_of(server, own=own)
    except (ValueError, OSError) as error:
        raise wrong(str(error)) from error
    with made as client:
        try:
            yield client
        except ValueError as error:  # the client's own checks of its arguments
            raise wrong(str(error)) from error
        except Unavailable as error:
            if error.reason is not None:
                raise
            raise Failure(
                f"no server answers at {server} ({error.message}).\n"
                "Start one with: coresift serve --pool DIR, or name another with --server.\n"
                "One that has TLS needs --tls or --ca.",
                4,
            ) from error


def complain(error: CoresiftError | Failure) -> None:
    """Say on stderr what went wrong."""
    err = Console(stderr=True, soft_wrap=True)
    err.print(Text("Error: ", style="bold red") + Text(str(error)))
    for note in getattr(error, "__notes__", []):
        err.print(Text(f"  {note}"))
    if isinstance(error, CoresiftError):
        for violation in error.field_violations:
            if violation.field not in error.message:
                err.print(Text(f"  {violation.field}: {violation.description}"))
        if error.reason is not None:
            err.print(Text(f"  reason {error.reason}", style="dim"))


def exit_code(error: CoresiftError | Failure) -> int:
    """The process's exit code."""
    match error:
        case Failure():
            return error.code
        case InvalidInput():
            return 2
        case NotFound():
            return 3
        case Unavailable():
            return 4
        case _:
            return 1


def print_json(value: object) -> None:
    """Print a value of the client as JSON."""
    sys.stdout.write(json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n")


def plain(value: Any) -> Any:  # noqa: PLR0911 - a case a type
    """A value of the client in JSON's types: times as ISO 8601, durations in seconds."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    match value:
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes():
            return base64.b64encode(value).decode()
        case str() | int() | None:
            return value
        case float():
            return value if np.isfinite(value) else None
        case np.ndarray():
            return plain(value.tolist())
        case Mapping():
            return {str(key): plain(entry) for key, entry in value.items()}
        case Sequence():
            return [plain(entry) for entry in value]
        case _:
            return str(value)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """Print rows for a person."""
    table = Table(title=title or None, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    Console().print(table)


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names and values for a person."""
    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        grid.add_row(Text(name, style="dim"), Text(str(value)))
    Console().print(grid)
