"""`coresift next`, `label`, `consensus`, `search`: labeling by hand."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from coresift.client.calls.consensus import ItemConsensus
from coresift.client.calls.labels import RETRACT, UNSURE, Classes, Label
from coresift.client.commands.parse import parse_label, read_labels
from coresift.client.commands.shared import (
    DEFAULT_SERVER,
    JsonOption,
    ServerOption,
    connected,
    print_json,
    print_table,
    wrong,
)
from coresift.client.enums import Purpose

Annotator = Annotated[str, typer.Option("--annotator", "-a", help="Who labels.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("next")(next_)
    app.command("label")(label)
    app.command("consensus")(consensus)
    app.command("search")(search)


def next_(
    session_id: str,
    annotator: Annotator,
    size: Annotated[int, typer.Option("--size", "-n", help="Items, 1..1000.")] = 10,
    review: Annotated[
        bool, typer.Option("--review", help="Labelled items that are worth a second look.")
    ] = False,
    lease_s: Annotated[
        float | None, typer.Option("--lease", help="Lease in seconds; else the session's.")
    ] = None,
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Lease the best items to label next."""
    if size < 1:
        raise wrong(f"--size must be 1..1000, got {size}")
    purpose = Purpose.REVIEW if review else Purpose.NEW
    with connected(server) as client:
        batch = client.next_batch(
            session_id, annotator, size, lease_duration=lease_s, purpose=purpose
        )
    if as_json:
        print_json(batch)
        return
    if review and not batch:
        typer.echo(f"nothing to review: {annotator!r} gets only what others have labelled")
        return
    columns = sorted({key for pick in batch for key in pick.metadata})
    rows = [
        (
            p.item_id,
            f"{p.score:.4g}",
            p.predicted_class,
            p.reason,
            *(p.metadata.get(column, "") for column in columns),
        )
        for p in batch
    ]
    print_table(("item", "score", "predicted", "reason", *columns), rows)
    details = "".join(f", {name} {value:.4g}" for name, value in sorted(batch.details.items()))
    until = f"; leased until {batch.lease_deadline:%F %T} UTC" if batch.lease_deadline else ""
    again = batch.next_available_time
    later = f"; ask again at {again:%T} UTC" if again else ""
    typer.echo(f"{batch.phase} by {batch.strategy}{details}{until}{later}")


def label(
    session_id: str,
    labels: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ITEM=CLASS...",
            help="Multilabel: ITEM=present1,present2,-absent1.",
            show_default=False,
        ),
    ] = None,
    annotator: Annotator = ...,  # type: ignore[assignment]  # typer's "required"
    file: Annotated[
        Path | None,
        typer.Option(
            help="A file of lines ITEM=CLASS, or a .csv with the columns item_id and label.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    unsure: Annotated[list[str] | None, typer.Option(help="An item you cannot tell.")] = None,
    retract: Annotated[list[str] | None, typer.Option(help="An item to take back.")] = None,
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Record labels, those of a file too."""
    if not (labels or file or unsure or retract):
        raise wrong("give at least one ITEM=CLASS, --file, --unsure or --retract")
    with connected(server) as client:
        task = client.get_session(session_id).task
        # All are read before any is sent: a wrong line must not leave half a file recorded.
        given = list(
            chain(
                (parse_label(line, task) for line in labels or []),
                read_labels(file, task) if file is not None else (),
                (Label(item, UNSURE) for item in unsure or []),
                (Label(item, RETRACT) for item in retract or []),
            )
        )
        if not given:
            raise wrong(f"{file} has no labels")
        result = client.import_labels(session_id, given, annotator)
    if as_json:
        print_json(result)
    else:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in result.counts.items())
        typer.echo(f"revision {result.revision}: {counts}")


def consensus(
    session_id: str,
    conflicts: Annotated[
        bool, typer.Option("--conflicts", help="Only items whose labels disagree.")
    ] = False,
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Show what the annotators say together, and how each agrees with the others."""
    with connected(server) as client:
        items = list(client.list_consensus(session_id, only_conflicts=conflicts, page_size=1000))
        annotators = client.annotator_agreement(session_id)
    if as_json:
        print_json({"items": items, "annotators": annotators})
        return
    print_table(
        ("item", "votes", "unsure", "consensus", "agreement", "conflict"),
        [
            (
                item.item_id,
                item.votes,
                item.unsure_votes,
                _consensus(item),
                f"{item.agreement:.0%}",
                "yes" if item.is_conflict else "",
            )
            for item in items
        ],
    )
    print_table(
        ("annotator", "votes", "unsure", "compared", "agrees"),
        [
            (
                a.annotator,
                a.votes,
                a.unsure_votes,
                a.compared,
                f"{a.agreed / a.compared:.0%}" if a.compared else "",
            )
            for a in annotators
        ],
    )


def search(
    pool: str,
    item_id: Annotated[str | None, typer.Argument(help="Neighbours of this item.")] = None,
    vector: Annotated[
        Path | None, typer.Option(help="Or of the vector in this .npy file.", exists=True)
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", help="1..1000.")] = 10,
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Find the items nearest to an item or a vector."""
    if (item_id is None) == (vector is None):
        raise wrong("give either an item id or --vector FILE.npy")
    if count < 1:
        raise wrong(f"--count must be 1..1000, got {count}")
    query = None
    if vector is not None:
        try:
            query = np.load(vector, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise wrong(f"{vector} is not a .npy file: {error}") from error
    with connected(server) as client:
        found = client.search_pool(pool, item_id=item_id, vector=query, count=count)
    if as_json:
        print_json(found)
        return
    columns = sorted({key for neighbour in found for key in neighbour.metadata})
    rows = [
        (n.item_id, f"{n.similarity:.4f}", *(n.metadata.get(column, "") for column in columns))
        for n in found
    ]
    print_table(("item", "similarity", *columns), rows)


def _consensus(item: ItemConsensus) -> str:
    if isinstance(item.value, Classes):
        return ", ".join([*item.value.present, *(f"-{name}" for name in item.value.absent)])
    return item.value or ""
