"""`coresift health`: ask a server's standard health service, as probes do."""

from __future__ import annotations

from typing import Annotated, Any

import grpc
import typer

from coresift.client.calls.health import SERVING
from coresift.client.channel import HEALTH_CHECK
from coresift.client.commands.connection import client_of
from coresift.client.commands.shared import DEFAULT_SERVER, Failure, wrong

LONGEST_NAME = 127
"""In bytes, so that its length takes one."""


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
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the answer.")] = 5.0,
    server: Annotated[
        str,
        typer.Option("--server", envvar="CORESIFT_SERVER", metavar="HOST:PORT", help="One server."),
    ] = DEFAULT_SERVER,
) -> None:
    """Ask whether a server serves: exit code 0 if it does, 1 if not, 4 if none answers."""
    request = _request(service)
    try:
        channel = _channel(server)
    except (ValueError, OSError) as error:
        raise wrong(str(error)) from error
    with channel:
        try:
            check: Any = channel.unary_unary(HEALTH_CHECK)
            reply: bytes = check(request, timeout=timeout)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                raise Failure(f"{server} knows no {service!r}", 3) from error
            raise Failure(f"{server} does not answer: {error.details()}", 4) from error
    typer.echo(f"{service}: {'SERVING' if reply == SERVING else 'NOT_SERVING'}")
    if reply != SERVING:
        raise typer.Exit(1)


def _request(service: str) -> bytes:
    """The bytes of a HealthCheckRequest: the client does without the health package."""
    name = service.encode()
    if len(name) > LONGEST_NAME:
        raise wrong(f"no service has so long a name: {service}")
    return b"\n" + bytes([len(name)]) + name


def _channel(server: str) -> grpc.Channel:
    """To one server, whatever its health: a client's own channels leave one that does not serve.

    The client says what the command's connection options mean.
    """
    access = client_of(server)._access
    options = [("grpc.enable_http_proxy", 0 if access.direct else 1)]
    if access.channel is None:
        return grpc.insecure_channel(server, options)
    return grpc.secure_channel(server, access.channel, options)
