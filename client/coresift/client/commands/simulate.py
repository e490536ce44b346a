"""`coresift simulate`: labeling campaigns with known answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from coresift.client.client import Client
from coresift.client.commands.shared import (
    Failure,
    JsonOption,
    connected,
    print_json,
    print_table,
    wrong,
)
from coresift.client.simulation import agreement, picks, plots, protocol, report
from coresift.client.simulation.campaign import Plan, Run, full_supervision, run
from coresift.client.simulation.dataset import Dataset, DatasetError, load
from coresift.client.simulation.server import ServerFailure, own_service, served_pool

METHODS = "Random-All,MaxEnt-All,MaxEnt-SEALS,MLP-SEALS"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("simulate")(simulate)


def simulate(
    dataset: Annotated[Path, typer.Argument(help="Folder with embeddings, labels, test split.")],
    server: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="A running service; else one is started."),
    ] = None,
    pool: Annotated[str | None, typer.Option(help="With --server: the pool's name.")] = None,
    use: Annotated[
        str | None, typer.Option(metavar="FILE", help="File in DATASET of the rows to use.")
    ] = None,
    methods: Annotated[str, typer.Option(help="Separated by commas.")] = METHODS,
    concepts: Annotated[
        int | None, typer.Option(min=1, help="Only the first N of the concepts.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seed sets 0 to N - 1.")] = 3,
    budget: Annotated[int, typer.Option(min=100, help="Labels a campaign.")] = 2000,
    batch: Annotated[int, typer.Option(min=1, max=1000, help="Labels between refits.")] = 100,
    full: Annotated[bool, typer.Option(help="Measure full supervision too.")] = True,
    picks_file: Annotated[
        Path | None,
        typer.Option("--picks", metavar="PICKS.json", help="Compare picks with a reference's."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out"),
    jobs: Annotated[int, typer.Option(min=1, help="Campaigns side by side.")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Label rare concepts of a data set by its own labels and measure what is learned."""
    try:
        chosen = [protocol.method(name.strip()) for name in methods.split(",")]
        use = use or (_use_of(dataset, picks_file) if picks_file else None)
        entries = picks.read(picks_file) if picks_file else None
        data = load(dataset, use)
    except (DatasetError, ValueError) as error:
        raise wrong(str(error)) from error
    if entries is None:
        _need_matplotlib()
    out.mkdir(parents=True, exist_ok=True)
    with _service(data, server, pool) as (client, served):
        if entries is not None:
            _picks(client, data, served, entries, out, as_json=as_json)
            return
        found = agreement.reference_for(dataset, use)
        wanted = protocol.concepts(data)[:concepts]
        if not wanted:
            raise wrong(f"{dataset} has no class with 25 members in the pool")
        plans = [
            Plan(concept, method, seed, draw, budget, batch)
            for concept in wanted
            for seed in range(seeds)
            for method in chosen
            for draw in range(method.draws)
        ]
        runs, full_ap = _campaigns(client, data, served, plans, full=full, jobs=jobs)
    result = report.curves(data, wanted, runs, full_ap)
    differences = agreement.differences(result["runs"], found[1]) if found else []
    if found and differences:
        result["agreement"] = report.agreement(found[0], differences)
    report.write(out / "curves.json", json.dumps(result, separators=(",", ":")) + "\n")
    plots.draw(result, out / "curves.png")
    if as_json:
        print_json(
            {key: result.get(key) for key in ("mean", "full_supervision", "latency_ms")}
            | {"agreement": result.get("agreement"), "out": str(out)}
        )
        return
    rows = [
        (name, n, f"{ap:.4f}", f"{recall:.1%}", f"{share:.1%}", f"{p50:.1f} ms")
        for name, n, ap, recall, share, p50 in report.table(result)
    ]
    counts = f"concepts {len(wanted)}, seeds {seeds}, pool of {len(data.labels):,} items"
    headings = ("method", "labels", "mAP", "recall", "considered", "NextBatch p50")
    print_table(headings, rows, f"{data.name}: {counts}")
    if full_ap:
        typer.echo(f"full supervision: mAP {result['full_supervision']['map_concepts']:.4f}")
    if found and differences:
        _print_agreement(found[0], differences)
    typer.echo(f"wrote {out / 'curves.json'} and {out / 'curves.png'}")


@contextmanager
def _service(data: Dataset, server: str | None, pool: str | None) -> Iterator[tuple[Client, str]]:
    """A client and the name of the data set's pool, on a named or an own service."""
    try:
        if server is not None:
            with connected(server) as client:
                yield client, served_pool(client, data, pool)
        else:
            with ExitStack() as stack:
                with Console(stderr=True).status("building the pool, starting a server"):
                    target = stack.enter_context(own_service(data, data.name))
                yield stack.enter_context(connected(target)), data.name
    except ServerFailure as error:
        raise Failure(str(error)) from error


def _campaigns(
    client: Client, data: Dataset, pool: str, plans: list[Plan], *, full: bool, jobs: int
) -> tuple[list[Run], dict[str, float]]:
    """Run all plans, several side by side; and full supervision of each concept."""
    place = {item_id: position for position, item_id in enumerate(data.item_ids)}
    concepts = {plan.concept.name: plan.concept for plan in plans}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with (
        Progress(*columns, console=Console(stderr=True)) as bar,
        ThreadPoolExecutor(jobs) as workers,
    ):
        labels = bar.add_task("labels", total=sum(plan.budget for plan in plans))
        done = [
            workers.submit(
                run, client, data, pool, place, plan, on_labels=lambda n: bar.advance(labels, n)
            )
            for plan in plans
        ]
        supervised = {
            name: workers.submit(full_supervision, client, data, pool, place, concept)
            for name, concept in concepts.items()
            if full
        }
        try:
            everything: list[Future[Run] | Future[float]] = [*done, *supervised.values()]
            for future in as_completed(everything):
                future.result()
        except BaseException:
            workers.shutdown(wait=False, cancel_futures=True)
            raise
    return [f.result() for f in done], {name: f.result() for name, f in supervised.items()}


def _picks(
    client: Client,
    data: Dataset,
    pool: str,
    entries: list[picks.Entry],
    out: Path,
    *,
    as_json: bool,
) -> None:
    """Compare picks, write picks_agreement.json, print the agreement."""
    try:
        with Progress(console=Console(stderr=True)) as bar:
            task = bar.add_task("picks", total=len(entries))
            found = picks.compare(client, data, pool, entries, lambda _: bar.advance(task))
    except DatasetError as error:
        raise wrong(str(error)) from error
    written = [
        {"concept": f.concept, "method": f.method, "n": f.n, "agree": f.agree} for f in found
    ]
    report.write(out / "picks_agreement.json", json.dumps(written, indent=1) + "\n")
    if as_json:
        print_json(written)
        return
    rows = [(f.concept, f.method, f.n, f"{f.agree} of {f.of}") for f in found]
    print_table(("concept", "method", "labels", "same picks"), rows)
    worst = min(found, key=lambda f: f.agree / f.of)
    typer.echo(
        f"{len(found)} entries, the worst: {worst.agree} of {worst.of} picks agree. "
        f"Wrote {out / 'picks_agreement.json'}"
    )


def _print_agreement(reference: Path, found: list[agreement.Difference]) -> None:
    rows = [
        (
            d.method,
            d.measure,
            d.n,
            f"{d.ours:.4f}",
            f"{d.reference:.4f}",
            f"{d.tolerance:.4f}",
            "yes" if d.agrees else "NO",
        )
        for d in found
    ]
    headings = ("method", "measure", "labels", "here", "reference", "tolerance", "agrees")
    print_table(headings, rows, f"Where the curves come closest to leaving {reference.name}")


def _use_of(dataset: Path, picks_file: Path) -> str | None:
    """``reference_picks_X.json`` belongs to the rows of ``use_index_X.npy``."""
    variant = picks_file.stem.removeprefix("reference_picks")
    name = f"use_index{variant}.npy"
    return name if variant and (dataset / name).is_file() else None


def _need_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise Failure("curves need matplotlib: pip install 'coresift[simulate]'") from error
