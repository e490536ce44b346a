"""``coresift serve``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from coresift.server.config import ServeConfig, default_data_dir
from coresift.server.errors import StartError


def register(app: typer.Typer) -> None:
    """Add ``serve`` to the application."""
    app.command()(serve)


def serve(
    pool: Annotated[list[Path], typer.Option(help="Directory of a pool; give it again for more.")],
    listen: Annotated[
        str,
        typer.Option(help="HOST:PORT of gRPC; port 0 takes a free one.", envvar="CORESIFT_LISTEN"),
    ] = "127.0.0.1:50051",
    metrics_listen: Annotated[
        str, typer.Option(help="HOST:PORT of /metrics.", envvar="CORESIFT_METRICS_LISTEN")
    ] = "127.0.0.1:9464",
    state: Annotated[
        str | None,
        typer.Option(
            help="redis://, rediss:// or unix:// URL. Without it a private Redis is started.",
            envvar="CORESIFT_STATE",
        ),
    ] = None,
    state_volatile: Annotated[
        bool, typer.Option(help="Accept a Redis that keeps nothing on disk.")
    ] = False,
    artifacts: Annotated[
        str | None,
        typer.Option(
            help="Root of signals and core-sets, any fsspec URI; replicas share it.",
            envvar="CORESIFT_ARTIFACTS",
        ),
    ] = None,
    data_dir: Annotated[
        Path,
        typer.Option(help="Where the embedded state and artifacts live.", envvar="CORESIFT_DATA"),
    ] = default_data_dir(),
    device: Annotated[
        str, typer.Option(help="auto, cpu or cuda.", envvar="CORESIFT_DEVICE")
    ] = "auto",
    reflection: Annotated[bool, typer.Option(help="Serve gRPC reflection.")] = False,
    ready_file: Annotated[
        Path | None, typer.Option(help="Written as JSON once the server serves.")
    ] = None,
) -> None:
    """Serve pools over gRPC until SIGTERM or Ctrl-C."""
    from coresift.server.app import run
    from coresift.server.logs import configure_logs

    configure_logs()
    config = ServeConfig(
        pools=tuple(pool),
        listen=listen,
        metrics_listen=metrics_listen,
        state_url=state,
        state_volatile=state_volatile,
        artifacts=artifacts,
        data_dir=data_dir,
        device=device,
        reflection=reflection,
        ready_file=ready_file,
    )
    try:
        asyncio.run(run(config))
    except StartError as error:
        typer.secho(f"coresift serve: {error}", fg="red", err=True)
        raise typer.Exit(1) from None
