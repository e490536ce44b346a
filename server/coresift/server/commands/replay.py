"""``coresift replay``."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import typer

from coresift.server.config import default_data_dir
from coresift.server.errors import CoresiftError, StartError


def register(app: typer.Typer) -> None:
    """Add ``replay`` to the application."""
    app.command()(replay)


def replay(
    session: Annotated[str, typer.Argument(help="Id of the session.")],
    pool: Annotated[
        list[Path], typer.Option(help="Directory of the session's pool; again for more versions.")
    ],
    state: Annotated[
        str | None,
        typer.Option(help="URL of Redis. Without it the embedded one.", envvar="CORESIFT_STATE"),
    ] = None,
    data_dir: Annotated[
        Path, typer.Option(help="Where the embedded state lives.", envvar="CORESIFT_DATA")
    ] = default_data_dir(),
    artifacts: Annotated[
        str | None,
        typer.Option(
            help="Root of signals and core-sets: a folder or a URL that fsspec knows.",
            envvar="CORESIFT_ARTIFACTS",
        ),
    ] = None,
) -> None:
    """Repeat every NextBatch of a session's log and report any difference in the picks.

    With the embedded state, stop the server first.
    """
    try:
        asyncio.run(_replay(session, pool, state, data_dir, artifacts))
    except (StartError, CoresiftError) as error:
        typer.secho(f"coresift replay: {error}", fg="red", err=True)
        raise typer.Exit(1) from None


async def _replay(
    session: str, paths: list[Path], state: str | None, data_dir: Path, artifacts: str | None
) -> None:
    from coresift.server.artifacts import Artifacts
    from coresift.server.pool.parallel import limit_blas
    from coresift.server.pool.pool import Pool
    from coresift.server.session.replay import read_log, replay
    from coresift.server.session.setup.materials import Loader
    from coresift.server.session.setup.pools import Pools
    from coresift.server.state.embedded import EmbeddedRedis
    from coresift.server.state.redis_store import RedisStore

    limit_blas()  # as the server does: other thread counts round fits differently
    async with AsyncExitStack() as stack:
        pools = []
        for path in paths:
            pools.append(Pool.open(path))
            stack.callback(pools[-1].close)
        if state is None:
            redis = await stack.enter_async_context(EmbeddedRedis(data_dir / "state"))
            state = redis.url
        store = await RedisStore.connect(state, volatile=True)
        stack.push_async_callback(store.close)
        served = Pools(pools)
        loader = Loader(served, Artifacts(artifacts or str(data_dir / "artifacts")))
        report = replay(loader, await read_log(store, session))
    typer.echo(f"{report.batches} batches, {report.picks} picks replayed")
    for difference in report.differences:
        typer.secho(
            f"log entry {difference.offset}: granted rows {difference.granted}, "
            f"replayed {difference.replayed}",
            fg="red",
            err=True,
        )
    if report.differences:
        raise typer.Exit(1)
    typer.echo("no difference")
