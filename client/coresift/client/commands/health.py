"""`coresift health`: ask a server's standard health service, as probes do."""

from __future__ import annotations

from typing import Annotated

import typer

from coresift.client.commands.connection import client_of
from coresift.client.commands.shared import DEFAULT_SERVER, Failure, wrong
from coresift.client.errors import CoresiftError, NotFound


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("health")(health)


def health(
    service: Annotated[
        str,
        typer.Argument(
            help="readiness: takes calls; liveness: should not be restarted; state: Redis answers."
        ),
    ] = "readiness",
    *,
    timeout_s: Annotated[
        float, typer.Option(min=0.1, help="Seconds to wait for the answer.")
    ] = 5.0,
    server: Annotated[
        str,
        typer.Option("--server", envvar="CORESIFT_SERVER", metavar="HOST:PORT", help="One server."),
    ] = DEFAULT_SERVER,
) -> None:
    """Ask whether a server serves: exit code 0 if it does, 1 if not, 4 if none answers."""
    try:
        with client_of(server) as client:
            serves = client.with_timeout(timeout_s).check_health(service)
    except (ValueError, OSError) as error:
        raise wrong(str(error)) from error
    except NotFound as error:
        raise Failure(f"{server} knows no {service!r}", 3) from error
    except CoresiftError as error:
        raise Failure(f"{server} does not answer: {error.message}", 4) from error
    typer.echo(f"{service}: {'SERVING' if serves else 'NOT_SERVING'}")
    if not serves:
        raise typer.Exit(1)
