"""`coresift session`: create, show, list, move, delete sessions."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from coresift.client.calls.config import BatchPolicy, Groups, HeadConfig, StopRule
from coresift.client.commands import backup, labeling, reconcile
from coresift.client.commands.facts import progress_facts, session_facts
from coresift.client.commands.parse import parse_candidates, parse_params, parse_strategy
from coresift.client.commands.shared import (
    DEFAULT_SERVER,
    JsonOption,
    ServerOption,
    connected,
    print_facts,
    print_json,
    print_table,
    wrong,
)
from coresift.client.enums import ClassWeight


def register(app: typer.Typer) -> None:
    """Add the commands, and those of labeling by hand."""
    family = typer.Typer(help="Create, show, list, move and delete sessions.", no_args_is_help=True)
    family.command("create")(create)
    family.command("show")(show)
    family.command("progress")(progress)
    family.command("list")(list_)
    family.command("move")(move)
    family.command("delete")(delete)
    app.add_typer(family, name="session")
    labeling.register(app)
    backup.register(app)
    reconcile.register(app)


def create(
    pool: Annotated[str, typer.Argument(help="Name of a served pool.")],
    task: Annotated[str, typer.Option(help="binary, multiclass or multilabel.")] = "binary",
    class_names: Annotated[
        list[str] | None,
        typer.Option("--class", help="A class name; repeat. Binary: the negative one first."),
    ] = None,
    strategy: Annotated[str, typer.Option(help="How candidates are scored.")] = "max_entropy",
    params: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="NAME=VALUE", help="Of the strategy; repeat."),
    ] = None,
    mix: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SHARE",
            help="Several strategies instead of one; repeat. NAME:PARAM=VALUE,...=SHARE too.",
        ),
    ] = None,
    candidates: Annotated[
        str, typer.Option(help="all, seals[:K], random_subset[:M] or anchors[:M].")
    ] = "seals",
    condition: Annotated[
        str, typer.Option("--filter", help="Only such items: 'split == \"train\" and camera == 3'.")
    ] = "",
    batch: Annotated[str, typer.Option(help="top, cluster_margin, badge, gist or power.")] = "top",
    batch_params: Annotated[
        list[str] | None,
        typer.Option("--batch-param", metavar="NAME=VALUE", help="Of the batch policy; repeat."),
    ] = None,
    max_similarity: Annotated[
        float | None, typer.Option(help="No two items of a batch are so similar, in (0, 1].")
    ] = None,
    group_column: Annotated[
        str | None, typer.Option(help="Items with one value in this column belong together.")
    ] = None,
    max_per_group: Annotated[int, typer.Option(min=1, help="Items of a group in a batch.")] = 1,
    one_lease: Annotated[bool, typer.Option("--one-lease", help="One lease a group.")] = False,
    one_label: Annotated[bool, typer.Option("--one-label", help="One label a group.")] = False,
    c: Annotated[float, typer.Option("--c", help="Inverse regularisation of the head.")] = 100.0,
    class_weight: Annotated[str, typer.Option(help="none or balanced.")] = "none",
    seed: Annotated[int, typer.Option(min=0, help="Fixes every random choice.")] = 0,
    votes: Annotated[int, typer.Option(min=1, help="Annotators an item.")] = 1,
    budget: Annotated[int | None, typer.Option(min=0, help="Limit of labels.")] = None,
    explore: Annotated[float, typer.Option(help="Random share of each batch, 0..1.")] = 0.0,
    validation: Annotated[
        int, typer.Option(min=0, help="Random items labelled first, to measure the head.")
    ] = 0,
    target_recall: Annotated[
        float | None, typer.Option(help="Advise to stop at this recall, in (0, 1].")
    ] = None,
    target_class: Annotated[
        str, typer.Option(help="The class whose recall counts; binary: the positive one.")
    ] = "",
    pseudonymous: Annotated[
        bool, typer.Option("--pseudonymous", help="Keep pseudonyms instead of annotators' names.")
    ] = False,
    session_id: Annotated[str, typer.Option("--id", help="Your own session id.")] = "",
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Start a labeling effort on a pool."""
    if class_weight not in (ClassWeight.NONE, ClassWeight.BALANCED):
        raise wrong(f"--class-weight must be none or balanced, got {class_weight!r}")
    if group_column is None and (one_lease or one_label or max_per_group != 1):
        raise wrong("--max-per-group, --one-lease and --one-label need --group-column")
    groups = None
    if group_column is not None:
        groups = Groups(group_column, max_per_group, one_lease, one_label)
    rule = StopRule(target_recall, class_name=target_class)
    policy = parse_params("--batch-param", batch_params or ())
    chosen = parse_strategy(strategy, params or (), mix or ())
    kept = parse_candidates(candidates)
    with connected(server) as client:
        session = client.create_session(
            pool,
            task,
            class_names or (),
            strategy=chosen,
            candidates=kept,
            filter=condition,
            batch=BatchPolicy(batch, max_similarity=max_similarity, class_shares=None, **policy),
            groups=groups,
            head=HeadConfig(c, ClassWeight(class_weight)),
            seed=seed,
            votes_per_item=votes,
            label_budget=budget,
            explore_fraction=explore,
            validation_size=validation,
            stop=rule,
            pseudonymous=pseudonymous,
            session_id=session_id,
        )
    print_json(session) if as_json else print_facts(session_facts(session))


def show(
    session_id: str,
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Show a session's configuration and progress."""
    with connected(server) as client:
        session, found = client.get_session(session_id), client.progress(session_id)
    if as_json:
        print_json({"session": session, "progress": found})
    else:
        print_facts(session_facts(session) | progress_facts(found))


def progress(
    session_id: str,
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Show how far a session is, how well its head does, and whether to stop."""
    with connected(server) as client:
        found = client.progress(session_id)
    print_json(found) if as_json else print_facts(progress_facts(found))


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


def move(
    session_id: str,
    pool: Annotated[str, typer.Option(help="The pool to move to: new embeddings of the items.")],
    new_id: Annotated[str, typer.Option("--id", help="Id of the new session.")] = "",
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out labels of items that POOL lacks.")
    ] = False,
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Make a session on another pool with the same configuration and labels.

    Run it again after a failure: it goes on where it stopped.
    """
    with (
        connected(server) as client,
        Progress(console=Console(stderr=True), disable=as_json) as bar,
    ):
        task = bar.add_task("labels", total=None)
        session = client.move_session(
            session_id,
            pool,
            session_id=new_id,
            skip_missing=skip_missing,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
        found = client.progress(session)
    if as_json:
        print_json({"session": session, "progress": found})
    else:
        print_facts(session_facts(session) | progress_facts(found))


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
        typer.echo(f"Until then: coresift undelete {session_id}")
