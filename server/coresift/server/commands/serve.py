"""``coresift serve``."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from coresift.server.config import Calls, Level, LogConfig, ServeConfig, default_data_dir
from coresift.server.errors import StartError


def register(app: typer.Typer) -> None:
    """Add ``serve`` to the application."""
    app.command()(serve)


def serve(
    pool: Annotated[
        list[str],
        typer.Option(
            help="Directory or URI (s3://, gs://, ...) of a pool version, or of a root folder of "
            "versions; give it again for more."
        ),
    ],
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
            help="redis://, unix://, redis+sentinel://HOST,HOST/NAME or redis+cluster://HOST,HOST "
            "(rediss: TLS). Without it a private Redis is started.",
            envvar="CORESIFT_STATE",
        ),
    ] = None,
    state_volatile: Annotated[
        bool, typer.Option(help="Accept a Redis that keeps nothing on disk.")
    ] = False,
    state_min_replicas: Annotated[
        int,
        typer.Option(
            help="Acknowledge labels once this many replicas of Redis have them.",
            envvar="CORESIFT_STATE_MIN_REPLICAS",
            min=0,
            max=10,
        ),
    ] = 0,
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
        str, typer.Option(help="auto, cpu, cuda or cuda:NUMBER.", envvar="CORESIFT_DEVICE")
    ] = "auto",
    reflection: Annotated[
        bool, typer.Option(help="Serve gRPC reflection; with --tokens to whoever has one.")
    ] = False,
    tokens: Annotated[
        Path | None,
        typer.Option(
            help="File of access tokens (`coresift token new`): every call needs one.",
            envvar="CORESIFT_TOKENS",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            help="Certificate chain, PEM. Reread when it changes.", envvar="CORESIFT_TLS_CERT"
        ),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="Its key, PEM.", envvar="CORESIFT_TLS_KEY")
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            help="Clients must show a certificate of this authority, PEM.",
            envvar="CORESIFT_TLS_CLIENT_CA",
        ),
    ] = None,
    allow_plaintext: Annotated[
        bool,
        typer.Option(
            help="Serve an address that other machines reach without TLS.",
            envvar="CORESIFT_ALLOW_PLAINTEXT",
        ),
    ] = False,
    health_listen: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT of a second, plain port that answers health checks alone.",
            envvar="CORESIFT_HEALTH_LISTEN",
        ),
    ] = None,
    drain_s: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Seconds that calls may take after SIGTERM before they are ended.",
            envvar="CORESIFT_DRAIN_S",
        ),
    ] = 7.0,
    default_deadline_s: Annotated[
        float,
        typer.Option(
            min=0.001,
            help="Seconds for a call with one answer whose client sets no deadline.",
            envvar="CORESIFT_DEFAULT_DEADLINE_S",
        ),
    ] = 60.0,
    max_connection_age_s: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Seconds after which clients connect anew, so that new replicas get their share; "
            "0: never.",
            envvar="CORESIFT_MAX_CONNECTION_AGE_S",
        ),
    ] = 1800.0,
    log_level: Annotated[
        Level,
        typer.Option(
            help="Log what is so grave or graver; calls are info.", envvar="CORESIFT_LOG_LEVEL"
        ),
    ] = Level.INFO,
    log_calls: Annotated[
        Calls,
        typer.Option(help="Which calls have a line in the log.", envvar="CORESIFT_LOG_CALLS"),
    ] = Calls.ALL,
    log_hash: Annotated[
        bool,
        typer.Option(
            help="Log item ids, annotators and request ids as hashes under the key in "
            "CORESIFT_LOG_HASH_KEY, which all replicas share.",
            envvar="CORESIFT_LOG_HASH",
        ),
    ] = False,
    pool_cache: Annotated[
        Path | None,
        typer.Option(
            help="Where pool versions from object stores are kept; replicas may share it. "
            "Default: pools in --data-dir.",
            envvar="CORESIFT_POOL_CACHE",
        ),
    ] = None,
    pool_cache_bytes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Bytes that --pool-cache may hold; a new version that does not fit is not "
            "loaded. Default: what the disk has.",
            envvar="CORESIFT_POOL_CACHE_BYTES",
        ),
    ] = None,
    pool_refresh_s: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Seconds between two looks for new pool versions; 0: none after the start.",
            envvar="CORESIFT_POOL_REFRESH_S",
        ),
    ] = 30.0,
    ready_file: Annotated[
        Path | None, typer.Option(help="Written as JSON once the server serves.")
    ] = None,
) -> None:
    """Serve pools over gRPC until SIGTERM or Ctrl-C."""
    from coresift.server.app import run
    from coresift.server.logs import configure_logs

    logs = LogConfig(log_level, log_calls, log_hash, os.environ.get("CORESIFT_LOG_HASH_KEY", ""))
    config = ServeConfig(
        pools=tuple(pool),
        listen=listen,
        metrics_listen=metrics_listen,
        state_url=state,
        state_volatile=state_volatile,
        state_min_replicas=state_min_replicas,
        artifacts=artifacts,
        data_dir=data_dir,
        device=device,
        reflection=reflection,
        tokens=tokens,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        allow_plaintext=allow_plaintext,
        health_listen=health_listen,
        drain_s=drain_s,
        default_deadline_s=default_deadline_s,
        max_connection_age_s=max_connection_age_s,
        pool_cache=pool_cache,
        pool_cache_bytes=pool_cache_bytes,
        pool_refresh_s=pool_refresh_s,
        ready_file=ready_file,
    )
    try:
        configure_logs(logs)
        asyncio.run(run(config))
    except StartError as error:
        typer.secho(f"coresift serve: {error}", fg="red", err=True)
        raise typer.Exit(1) from None
