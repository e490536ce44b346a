"""`coresift reconcile`: a session's labels against those that a platform has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from coresift.client.calls.labels import RETRACT, Classes, Label, LabelValue
from coresift.client.client import Client
from coresift.client.commands.label_files import Given, read_list
from coresift.client.commands.shared import (
    DEFAULT_SERVER,
    JsonOption,
    ServerOption,
    connected,
    print_json,
    wrong,
)

SHOWN = 5
"""Examples of each kind."""

Key = tuple[str, str]
"""item_id, annotator."""


@dataclass(frozen=True)
class Comparison:
    """What a list of labels and a session do not have in common, by (item_id, annotator)."""

    same: int
    missing: Sequence[Key]
    """The list has it, the session has not."""
    different: Sequence[Key]
    """Both have one, not the same; or it was taken back in the session."""
    only_here: Sequence[Key]
    """The session has it, the list has not."""
    unknown: Sequence[Key]
    """Of items that the pool lacks."""

    @property
    def agrees(self) -> bool:
        """Whether both say the same."""
        return not (self.missing or self.different or self.only_here or self.unknown)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("reconcile")(reconcile)


def reconcile(
    session_id: str,
    file: Annotated[
        Path,
        typer.Argument(
            help="The platform's labels: .csv, .jsonl or .parquet with item_id, annotator, label."
        ),
    ],
    apply: Annotated[
        bool, typer.Option("--apply", help="Add what the session lacks; change nothing else.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="With --apply: take the file's where both differ.")
    ] = False,
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Compare a session with a platform's list of labels, and add what is missing.

    Exit code 0: both say the same (with --apply: now), 1: they do not.
    """
    if overwrite and not apply:
        raise wrong("--overwrite needs --apply")
    with connected(server) as client:
        session = client.get_session(session_id)
        if session.pseudonymous:
            raise wrong(f"{session_id} keeps pseudonyms, which no list of names compares with")
        given = read_list(file, session.task)
        found = compare(given, _newest(client, session_id), _lacking(client, session.pool, given))
        added: list[Key] = []
        if apply:
            added = [*found.missing, *(found.different if overwrite else ())]
            _add(client, session_id, given, added)
    left = len(found.missing) + len(found.different) - len(added)
    agrees = not (left or found.only_here or found.unknown)
    if as_json:
        print_json({"comparison": found, "added": len(added), "agrees": agrees})
    else:
        _print(found, len(added))
    if not agrees:
        raise typer.Exit(1)


def compare(
    given: Mapping[Key, LabelValue], here: Mapping[Key, LabelValue], lacking: frozenset[str]
) -> Comparison:
    """Compare a list with a session's newest labels; ``lacking``: items that the pool lacks."""
    known = {key: value for key, value in given.items() if key[0] not in lacking}
    both = [key for key in known if key in here]
    same = [key for key in both if _plain(known[key]) == _plain(here[key])]
    return Comparison(
        same=len(same),
        missing=[key for key in known if key not in here],
        different=sorted(set(both) - set(same)),
        only_here=[key for key, value in here.items() if key not in given and value != RETRACT],
        unknown=[key for key in given if key[0] in lacking],
    )


def _plain(value: LabelValue) -> object:
    if isinstance(value, Classes):
        return frozenset(value.present), frozenset(value.absent)
    return value


def _newest(client: Client, session_id: str) -> dict[Key, LabelValue]:
    records = client.list_labels(session_id)
    return {(record.item_id, record.annotator): record.value for record in records}


def _lacking(client: Client, pool: str, given: Given) -> frozenset[str]:
    item_ids = list(dict.fromkeys(item_id for item_id, _ in given))
    return frozenset(client.get_items(pool, item_ids).missing) if item_ids else frozenset()


def _add(client: Client, session_id: str, given: Given, keys: Sequence[Key]) -> None:
    by_annotator: dict[str, list[Label]] = {}
    for item_id, annotator in keys:
        by_annotator.setdefault(annotator, []).append(Label(item_id, given[item_id, annotator]))
    for annotator, labels in by_annotator.items():
        client.import_labels(session_id, labels, annotator)


def _print(found: Comparison, added: int) -> None:
    typer.echo(f"{found.same} labels are the same")
    for what, keys in (
        ("missing here", found.missing),
        ("different", found.different),
        ("only here", found.only_here),
        ("of items that the pool lacks", found.unknown),
    ):
        shown = ", ".join(f"{item_id} by {annotator}" for item_id, annotator in keys[:SHOWN])
        more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
        typer.echo(f"{len(keys)} {what}" + (f": {shown}{more}" if keys else ""))
    if added:
        typer.echo(f"{added} labels added")
