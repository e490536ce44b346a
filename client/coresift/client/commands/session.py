"""`coresift session`, `next`, `label`, `search`: labeling by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from coresift.client.calls.labels import RETRACT, UNSURE, Classes, Label, LabelValue
from coresift.client.calls.session import All, Candidates, HeadConfig, Progress, Seals, Session
from coresift.client.commands.shared import (
    DEFAULT_SERVER,
    JsonOption,
    ServerOption,
    connected,
    plain,
    print_facts,
    print_json,
    print_table,
    wrong,
)
from coresift.client.enums import ClassWeight, Task

Annotator = Annotated[str, typer.Option("--annotator", "-a", help="Who labels.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = typer.Typer(help="Create, show, list and delete sessions.", no_args_is_help=True)
    family.command("create")(create)
    family.command("show")(show)
    family.command("list")(list_)
    family.command("delete")(delete)
    app.add_typer(family, name="session")
    app.command("next")(next_)
    app.command("label")(label)
    app.command("search")(search)


def create(
    pool: Annotated[str, typer.Argument(help="Name of a served pool.")],
    task: Annotated[str, typer.Option(help="binary, multiclass or multilabel.")] = "binary",
    class_names: Annotated[
        list[str] | None,
        typer.Option("--class", help="A class name; repeat. Binary: the negative one first."),
    ] = None,
    strategy: Annotated[str, typer.Option(help="How candidates are scored.")] = "max_entropy",
    candidates: Annotated[str, typer.Option(help="all, seals or seals:K.")] = "seals",
    c: Annotated[float, typer.Option("--c", help="Inverse regularisation of the head.")] = 100.0,
    class_weight: Annotated[str, typer.Option(help="none or balanced.")] = "none",
    seed: Annotated[int, typer.Option(min=0, help="Fixes every random choice.")] = 0,
    votes: Annotated[int, typer.Option(min=1, help="Annotators an item.")] = 1,
    budget: Annotated[int | None, typer.Option(min=0, help="Limit of labels.")] = None,
    session_id: Annotated[str, typer.Option("--id", help="Your own session id.")] = "",
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Start a labeling effort on a pool."""
    policy = parse_candidates(candidates)
    if class_weight not in (ClassWeight.NONE, ClassWeight.BALANCED):
        raise wrong(f"--class-weight must be none or balanced, got {class_weight!r}")
    with connected(server) as client:
        session = client.create_session(
            pool,
            task,
            class_names or (),
            strategy=strategy,
            candidates=policy,
            head=HeadConfig(c, ClassWeight(class_weight)),
            seed=seed,
            votes_per_item=votes,
            label_budget=budget,
            session_id=session_id,
        )
    print_json(session) if as_json else print_facts(_facts(session))


def show(
    session_id: str,
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Show a session's configuration and progress."""
    with connected(server) as client:
        session, progress = client.get_session(session_id), client.progress(session_id)
    if as_json:
        print_json({"session": session, "progress": progress})
    else:
        print_facts(_facts(session) | _progress_facts(progress))


def list_(server: ServerOption = DEFAULT_SERVER, as_json: JsonOption = False) -> None:
    """List the sessions."""
    with connected(server) as client:
        sessions = list(client.list_sessions(page_size=1000))
    if as_json:
        print_json(sessions)
        return
    rows = [
        (s.session_id, s.pool, s.task, s.strategy, s.basis.revision, f"{s.create_time:%F %T}")
        for s in sessions
    ]
    print_table(("session", "pool", "task", "strategy", "revision", "created (UTC)"), rows)


def delete(
    session_id: str, server: ServerOption = DEFAULT_SERVER, as_json: JsonOption = False
) -> None:
    """Delete a session; its data is kept for 24 hours."""
    with connected(server) as client:
        purge_time = client.delete_session(session_id)
    if as_json:
        print_json({"session_id": session_id, "purge_time": purge_time})
    else:
        typer.echo(f"{session_id} is deleted; its data goes for good at {purge_time:%F %T} UTC.")


def next_(
    session_id: str,
    annotator: Annotator,
    size: Annotated[int, typer.Option("--size", "-n", help="Items, 1..1000.")] = 10,
    lease_s: Annotated[
        float | None, typer.Option("--lease", help="Lease in seconds; else the session's.")
    ] = None,
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Lease the best items to label next."""
    if size < 1:
        raise wrong(f"--size must be 1..1000, got {size}")
    with connected(server) as client:
        batch = client.next_batch(session_id, annotator, size, lease_duration=lease_s)
    if as_json:
        print_json(batch)
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
    until = f"; leased until {batch.lease_deadline:%F %T} UTC" if batch.lease_deadline else ""
    again = batch.next_available_time
    typer.echo(f"{batch.phase}{until}" + (f"; ask again at {again:%T} UTC" if again else ""))


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
        Path | None, typer.Option(help="A file of lines ITEM=CLASS.", exists=True, dir_okay=False)
    ] = None,
    unsure: Annotated[list[str] | None, typer.Option(help="An item you cannot tell.")] = None,
    retract: Annotated[list[str] | None, typer.Option(help="An item to take back.")] = None,
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Record labels."""
    lines = list(labels or [])
    if file is not None:
        lines += [line for line in file.read_text().splitlines() if line.strip()]
    with connected(server) as client:
        task = client.get_session(session_id).task
        given = [parse_label(line, task) for line in lines]
        given += [Label(item, UNSURE) for item in unsure or []]
        given += [Label(item, RETRACT) for item in retract or []]
        if not given:
            raise wrong("give at least one ITEM=CLASS, --file, --unsure or --retract")
        result = client.add_labels(session_id, given, annotator)
    if as_json:
        print_json(result)
    else:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in result.counts.items())
        typer.echo(f"revision {result.revision}: {counts}")


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


def parse_candidates(text: str) -> Candidates:
    """``all``, ``seals`` or ``seals:K``."""
    kind, _, k = text.partition(":")
    if kind == "all" and not k:
        return All()
    if kind == "seals" and (not k or k.isdecimal()):
        return Seals(int(k)) if k else Seals()
    raise wrong(f"--candidates must be all, seals or seals:K, got {text!r}")


def parse_label(line: str, task: Task) -> Label:
    """``ITEM=CLASS``; for multilabel a list of classes, the absent ones with a minus."""
    item_id, equals, value = line.strip().rpartition("=")
    if not equals or not item_id or not value:
        raise wrong(f"a label is ITEM=CLASS, got {line!r}")
    parsed: LabelValue = value
    if task == Task.MULTILABEL:
        names = value.split(",")
        parsed = Classes(
            present=[name for name in names if not name.startswith("-")],
            absent=[name[1:] for name in names if name.startswith("-")],
        )
    return Label(item_id, parsed)


def _facts(session: Session) -> dict[str, object]:
    candidates = session.candidates
    return {
        "session": session.session_id,
        "pool": f"{session.pool} @ {session.pool_version[:12]}",
        "task": f"{session.task}: {', '.join(session.classes[:20])}"
        + (f" and {len(session.classes) - 20} more" if len(session.classes) > 20 else ""),
        "strategy": session.strategy,
        "candidates": "all" if isinstance(candidates, All) else f"seals:{candidates.k}",
        "head": f"C = {session.head.c:g}, class weight {session.head.class_weight}",
        "seed": session.seed,
        "votes per item": session.votes_per_item,
        "label budget": "none" if session.label_budget is None else session.label_budget,
        "lease": f"{session.lease_duration.total_seconds():g} s",
        "created": plain(session.create_time),
    }


def _progress_facts(progress: Progress) -> dict[str, object]:
    classes = sorted(progress.classes, key=lambda c: -c.positive)[:20]
    counts = ", ".join(f"{count.class_name} {count.positive}" for count in classes)
    return {
        "labelled": f"{progress.labelled_items} of {progress.pool_items} items ({counts})",
        "votes": f"{progress.votes} ({progress.unsure_votes} unsure)",
        "live leases": progress.live_leases,
        "considered": f"{progress.considered_share:.1%} of the pool",
        "revision": progress.basis.revision,
        "advice": progress.stop_advice,
    }
