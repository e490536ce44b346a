"""`coresift coreset`: select a core-set into a Parquet file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from coresift.client.calls.coreset import Coreset, CoresetProgress
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


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("coreset")(coreset)


def coreset(
    method: Annotated[str, typer.Argument(help="random, k_center or max_entropy.")],
    budget: Annotated[int, typer.Argument(help="Size of the core-set.")],
    out: Annotated[Path, typer.Option(help="Parquet file: item_id, rank, score, weight.")],
    pool: Annotated[str | None, typer.Option(help="Select from this pool,")] = None,
    session: Annotated[
        str | None, typer.Option(help="or from this session's pool, with its head as the proxy.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Fixes random choices.")] = 0,
    start: Annotated[
        Path | None,
        typer.Option(help="k_center: file of item ids covered already, one a line.", exists=True),
    ] = None,
    server: ServerOption = DEFAULT_SERVER,
    as_json: JsonOption = False,
) -> None:
    """Select a core-set: the items to keep."""
    if (pool is None) == (session is None):
        raise wrong("give either --pool or --session")
    if budget < 1:
        raise wrong(f"BUDGET must be at least 1, got {budget}")
    if out.suffix != ".parquet":
        raise wrong(f"--out must name a .parquet file, got {out}")
    _need_pyarrow()
    start_ids = start.read_text().splitlines() if start else []
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
        task = bar.add_task("starting", total=1.0)

        def show(progress: CoresetProgress) -> None:
            bar.update(task, description=progress.phase, completed=progress.share)

        result = client.score_coreset(
            method,
            budget,
            pool=pool,
            session=session,
            seed=seed,
            start_item_ids=start_ids,
            on_progress=show,
        )
        bar.update(task, description="done", completed=1.0)
    write_parquet(result, out)
    if as_json:
        print_json({"out": str(out), "plan": result.plan, "summary": result.summary})
        return
    summary = result.summary
    facts: dict[str, object] = {
        "core-set": f"{summary.count} of {result.plan.pool_items} items by {result.plan.method}",
        "file": out,
    }
    if summary.covering_radius is not None:
        facts["covering radius"] = f"{summary.covering_radius:.4f}"
    times = (f"{phase} {spent.total_seconds():.2f} s" for phase, spent in summary.durations.items())
    print_facts(facts | {"time": ", ".join(times)})


def write_parquet(result: Coreset, out: Path) -> None:
    """Write a core-set as a Parquet file, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = pa.LargeStringArray.from_buffers(
        len(result),
        pa.py_buffer(result.item_ids.offsets.tobytes()),
        pa.py_buffer(result.item_ids.data),
    )
    weights = pa.nulls(len(result), pa.float64()) if result.weights is None else result.weights
    table = pa.table(
        {"item_id": ids, "rank": result.ranks, "score": result.scores, "weight": weights}
    )
    partial = out.with_name(out.name + ".partial")
    try:
        pq.write_table(table, partial)
        os.replace(partial, out)
    except OSError as error:
        raise Failure(f"cannot write {out}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _need_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError as error:
        raise Failure("Parquet files need pyarrow: pip install 'coresift[simulate]'") from error
