"""`coresift export`, `import`, `undelete`, `erase-annotator`: sessions as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coresift.client.commands.facts import session_facts
from coresift.client.commands.session_files import export_sessions, folder_at
from coresift.client.commands.session_restore import import_sessions
from coresift.client.commands.shared import (
    DEFAULT_SERVER,
    Failure,
    JsonOption,
    ServerOption,
    connected,
    print_facts,
    print_json,
    wrong,
)

LONG_S = 600.0
"""For what takes as long as the session has labels."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("export")(export)
    app.command("import")(import_)
    app.command("undelete")(undelete)
    app.command("erase-annotator")(erase_annotator)


def export(
    out: Annotated[
        str,
        typer.Option(
            "--out", "-o", help="The file to write; with --all a folder or an fsspec URI."
        ),
    ],
    session_id: Annotated[str, typer.Argument(show_default=False)] = "",
    every: Annotated[
        bool, typer.Option("--all", help="Every session, a file each; those there stay.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="With --all: also those whose file is there.")
    ] = False,
    keep: Annotated[
        int | None,
        typer.Option(min=1, help="With --all: files of a session that stay; else all."),
    ] = None,
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Write a session to a file, or every session: a backup, or for another cluster.

    Each file is consistent at one moment, also while people label. Keep it as safe as the labels:
    it holds the annotators' names and the key of the lease tokens. --all goes on after a failure
    and then ends with 1.
    """
    if every == bool(session_id):
        raise wrong("give either a session's id or --all")
    if not every and (again or keep is not None):
        raise wrong("--again and --keep need --all")
    if every:
        _export_all(out, again, keep, server, as_json)
    else:
        _export_one(session_id, Path(out), server, as_json)


def _export_one(session_id: str, out: Path, server: str, as_json: bool) -> None:
    try:
        with connected(server) as client:
            size = client.export_session(session_id, out)
    except OSError as error:
        raise Failure(f"cannot write {out}: {error}") from error
    if as_json:
        print_json({"session_id": session_id, "file": str(out), "bytes": size})
    else:
        typer.echo(f"{session_id} is in {out} ({size:,} bytes)")


def _export_all(out: str, again: bool, keep: int | None, server: str, as_json: bool) -> None:
    try:
        folder = folder_at(out)
        with connected(server) as client:
            done = export_sessions(client, folder, again=again, keep=keep)
    except OSError as error:
        raise Failure(f"cannot write to {out}: {error}") from error
    if as_json:
        print_json(done)
    else:
        typer.echo(f"{len(done.exported)} sessions exported to {out} ({done.size:,} bytes)")
        typer.echo(f"{len(done.unchanged)} unchanged, {len(done.removed)} older files removed")
    if done.failed:
        lines = [f"{session_id}: {why}" for session_id, why in done.failed.items()]
        raise Failure("\n  ".join([f"{len(lines)} sessions are not exported:", *lines]))


def import_(
    file: Annotated[
        str,
        typer.Argument(
            help="What `coresift export` wrote: a file; of --all the folder or an fsspec URI."
        ),
    ],
    session_id: Annotated[
        str, typer.Option("--session-id", help="Another id than that in the file.")
    ] = "",
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Make a session of an exported file, or sessions of a folder of them.

    Of a folder it takes the newest file of each session. Sessions that are there already stay as
    they are; after a failure it goes on with the others, and then ends with 1.
    """
    if "://" in file or Path(file).is_dir():
        if session_id:
            raise wrong("--session-id is for one file")
        _import_all(file, server, as_json)
        return
    if not Path(file).is_file():
        raise wrong(f"there is no file {file}")
    with connected(server) as client:
        session = client.import_session(file, session_id=session_id)
    print_json(session) if as_json else print_facts(session_facts(session))


def _import_all(source: str, server: str, as_json: bool) -> None:
    try:
        folder = folder_at(source)
        with connected(server) as client:
            done = import_sessions(client, folder)
    except OSError as error:
        raise Failure(f"cannot read {source}: {error}") from error
    if as_json:
        print_json(done)
    else:
        typer.echo(f"{len(done.imported)} sessions imported from {source}")
        typer.echo(f"{len(done.there)} were there already and stay as they are")
    if done.failed:
        lines = [f"{session_id}: {why}" for session_id, why in done.failed.items()]
        raise Failure("\n  ".join([f"{len(lines)} sessions are not imported:", *lines]))
    if not done.imported and not done.there:
        raise Failure(f"{source} has no file that `coresift export --all` wrote")


def undelete(
    session_id: str, server: ServerOption = DEFAULT_SERVER, as_json: JsonOption = False
) -> None:
    """Bring a session back that was deleted less than 24 hours ago."""
    with connected(server) as client:
        session = client.undelete_session(session_id)
    print_json(session) if as_json else print_facts(session_facts(session))


def erase_annotator(
    session_id: str,
    annotator: Annotated[str, typer.Argument(help="As the list of labels shows it.")],
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Take an annotator's name out of a session for good; the labels stay."""
    with connected(server) as client:
        erased = client.with_timeout(LONG_S).erase_annotator(session_id, annotator)
    if as_json:
        print_json(erased)
    elif erased.entries:
        typer.echo(f"{erased.entries} log entries say {erased.replacement} instead")
    else:
        typer.echo(f"{session_id} has nothing of {annotator!r}")
