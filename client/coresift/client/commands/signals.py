"""`coresift signals`: upload, list, delete columns of per-item numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coresift.client.commands.shared import (
    DEFAULT_SERVER,
    JsonOption,
    ServerOption,
    connected,
    print_json,
    print_table,
    wrong,
)
from coresift.client.commands.signal_files import read_columns
from coresift.client.enums import SignalKind

KINDS = ("number", "class", "probabilities")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = typer.Typer(
        help="Upload, list and delete signals: numbers of a pool's items.", no_args_is_help=True
    )
    family.command("put")(put)
    family.command("list")(list_)
    family.command("delete")(delete)
    app.add_typer(family, name="signals")


def put(
    pool: Annotated[str, typer.Argument(help="Name of a served pool.")],
    name: Annotated[str, typer.Argument(help="Of the signal; it never changes once it is there.")],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.parquet",
            help="Every item of the pool once, in any order: its id and its numbers. Files of "
            "TrainingDynamics.save as they are.",
            exists=True,
            dir_okay=False,
        ),
    ],
    kind: Annotated[
        str, typer.Option(help="number, class (whole numbers from 0) or probabilities.")
    ] = "number",
    id_column: Annotated[str, typer.Option(help="The column of the item ids.")] = "item_id",
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="The columns to upload. Default: all, of a recording its scores.",
        ),
    ] = None,
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Upload columns of a Parquet file as a signal."""
    if kind not in KINDS:
        raise wrong(f"--kind must be number, class or probabilities, got {kind!r}")
    wanted = [] if columns is None else [column.strip() for column in columns.split(",")]
    found = read_columns(file, id_column, wanted)
    if kind == SignalKind.CLASS and len(found.names) > 1:
        raise wrong(
            f"classes are one column, got {', '.join(found.names)}: name one with --columns"
        )
    with connected(server) as client:
        signal = client.put_signals(
            pool, name, found.item_ids, found.values, kind=kind, columns=found.names
        )
    if as_json:
        print_json(signal)
    else:
        typer.echo(
            f"{signal.name}: {', '.join(signal.columns)} ({signal.kind}) of {signal.count} items"
        )


def list_(
    pool: Annotated[str, typer.Argument(help="Name of a served pool.")],
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """List the signals of a pool."""
    with connected(server) as client:
        signals = list(client.list_signals(pool, page_size=1000))
    if as_json:
        print_json(signals)
        return
    rows = [
        (s.name, s.kind, ", ".join(s.columns), s.count, f"{s.create_time:%F %T}") for s in signals
    ]
    print_table(("signal", "kind", "columns", "items", "created (UTC)"), rows)


def delete(
    pool: Annotated[str, typer.Argument(help="Name of a served pool.")],
    name: Annotated[str, typer.Argument(help="Of the signal.")],
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Delete a signal."""
    with connected(server) as client:
        client.delete_signals(pool, name)
    typer.echo(f"{name} is deleted.")
