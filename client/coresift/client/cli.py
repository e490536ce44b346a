"""The command `coresift`, assembled from the families that are installed."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points, version
from typing import Annotated

import typer

from coresift.client.commands.connection import add_connection_options
from coresift.client.commands.shared import Failure, complain, exit_code
from coresift.client.errors import CoresiftError

FAMILIES = "coresift.commands"


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    try:
        build()()
    except (CoresiftError, Failure) as error:
        complain(error)
        sys.exit(exit_code(error))


def build() -> typer.Typer:
    """The application with every family whose requirements are installed."""
    app = typer.Typer(
        help="Coresift: what to label next, and what to keep.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong input, 3 not found, 4 no server.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    app.callback()(common)
    for family in entry_points(group=FAMILIES):
        try:
            register = family.load()
        except ModuleNotFoundError as error:
            if _is_ours(error.name):
                typer.echo(f"coresift: the {family.name} commands are broken: {error}", err=True)
            continue  # else their extra is not installed
        register(app)
    add_connection_options(app)
    return app


def _is_ours(module: str | None) -> bool:
    return module is None or module.split(".")[0] == "coresift"


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"coresift {version('coresift')}")
        raise typer.Exit


def common(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Coresift: what to label next, and what to keep."""
