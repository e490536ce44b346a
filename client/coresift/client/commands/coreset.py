"""`coresift coreset`: select a core-set into a Parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from coresift.client.calls.coreset_values import Coreset, CoresetMethod, CoresetProgress, Sampler
from coresift.client.commands.coreset_text import (
    parse_class_budgets,
    plan_line,
    read_item_ids,
    read_targets,
    result_facts,
)
from coresift.client.commands.parse import parse_params
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
from coresift.client.parquet import import_pyarrow, string_array, write_table


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("coreset")(coreset)


def coreset(
    method: Annotated[
        str,
        typer.Argument(
            help="By geometry: k_center, facility_location, query, herding, k_means_medoids, "
            "semdedup, moderate. By scores: max_entropy, margin, least_confidence, forgetting, "
            "el2n, grand, aum. And random. What each does and takes: METHODS.md of the server."
        ),
    ],
    budget: Annotated[
        int | None,
        typer.Argument(help="Size of the core-set; none where the parameters decide it."),
    ] = None,
    *,
    out: Annotated[
        Path, typer.Option(help="Parquet file: item_id, rank, score, and weight, bucket if any.")
    ],
    pool: Annotated[str | None, typer.Option(help="Select from this pool,")] = None,
    session: Annotated[
        str | None, typer.Option(help="or from this session's pool, with its head as the proxy.")
    ] = None,
    params: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="NAME=VALUE", help="Of the method; repeat."),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="How items are taken by a score: top, ccs or d2.")
    ] = None,
    sampler_params: Annotated[
        list[str] | None,
        typer.Option("--sampler-param", metavar="NAME=VALUE", help="Of the sampler; repeat."),
    ] = None,
    class_signal: Annotated[
        str | None,
        typer.Option(metavar="SIGNAL", help="Uploaded classes of the pool's items (signals put)."),
    ] = None,
    predicted_classes: Annotated[
        bool,
        typer.Option(
            "--predicted-classes", help="Or the classes that the session's head predicts."
        ),
    ] = False,
    class_budgets: Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            help="Budgets by class: balanced, proportional, or CLASS=ITEMS,... by number.",
        ),
    ] = None,
    start_items: Annotated[
        Path | None,
        typer.Option(help="k_center: file of item ids covered already, one a line.", exists=True),
    ] = None,
    start_from_labels: Annotated[
        bool, typer.Option("--start-from-labels", help="k_center: labelled items are covered too.")
    ] = False,
    query: Annotated[
        Path | None,
        typer.Option(help="query: more like these: ids one a line, or .npy vectors.", exists=True),
    ] = None,
    avoid: Annotated[
        Path | None, typer.Option(help="query: less like these, likewise.", exists=True)
    ] = None,
    pacing_buckets: Annotated[
        int, typer.Option(min=0, help="Number so many equal parts of the order, for curricula.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Fixes random choices.")] = 0,
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Select a core-set: the items to keep."""
    if (pool is None) == (session is None):
        raise wrong("give either --pool or --session")
    if budget is not None and budget < 1:
        raise wrong(f"BUDGET must be at least 1, got {budget}")
    if out.suffix != ".parquet":
        raise wrong(f"--out must name a .parquet file, got {out}")
    if not out.parent.is_dir():  # found out now, and not when the job is done
        raise wrong(f"--out: there is no folder {out.parent}")
    if sampler_params and sampler is None:
        raise wrong("--sampler-param needs --sampler")
    chosen = CoresetMethod(method, **parse_params("--param", params or ()))
    taken = None
    if sampler is not None:
        taken = Sampler(sampler, **parse_params("--sampler-param", sampler_params or ()))
    budgets = None if class_budgets is None else parse_class_budgets(class_budgets)
    start_ids = [] if start_items is None else read_item_ids(start_items)
    more, less = read_targets(query), read_targets(avoid)
    try:
        import_pyarrow()
    except ModuleNotFoundError as error:
        raise Failure(str(error)) from error
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with (
        connected(server) as client,
        Progress(*columns, console=Console(stderr=True), disable=as_json) as bar,
    ):

        def show(progress: CoresetProgress) -> None:
            if not bar.tasks:
                plan = plan_line(progress.plan)
                bar.console.print(plan, soft_wrap=True, highlight=False, markup=False)
                bar.add_task("starting", total=1.0)
            [task] = bar.task_ids
            bar.update(task, description=progress.phase, completed=progress.share)

        result = client.score_coreset(
            chosen,
            budget,
            pool=pool,
            session=session,
            sampler=taken,
            class_signal=class_signal,
            predicted_classes=predicted_classes,
            class_budgets=budgets,
            start_item_ids=start_ids,
            start_from_labels=start_from_labels,
            query=more,
            avoid=less,
            pacing_buckets=pacing_buckets,
            seed=seed,
            on_progress=None if as_json else show,
        )
        for task in bar.task_ids:
            bar.update(task, description="done", completed=1.0)
    write_parquet(result, out)
    if as_json:
        print_json({"out": str(out), "plan": result.plan, "summary": result.summary})
    else:
        print_facts(result_facts(result) | {"file": out})


def write_parquet(result: Coreset, out: Path) -> None:
    """Write a core-set as a Parquet file, whole or not at all, with the server's columns."""
    columns = {
        "item_id": string_array(result.item_ids),
        "rank": result.ranks,
        "score": result.scores,
        "weight": result.weights,
        "bucket": result.buckets,
    }
    there = {name: values for name, values in columns.items() if values is not None}
    try:
        write_table(import_pyarrow().table(there), out)
    except OSError as error:
        raise Failure(f"cannot write {out}: {error}") from error
