"""`coresift simulate`: labeling campaigns with known answers."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from coresift.client.client import Client
from coresift.client.commands.shared import (
    Failure,
    JsonOption,
    connected,
    print_json,
    print_table,
    wrong,
)
from coresift.client.simulation import agreement, methods, picks, plots, protocol, report, studies
from coresift.client.simulation.comparison import compared
from coresift.client.simulation.crew import Crew
from coresift.client.simulation.dataset import Dataset, DatasetError, load
from coresift.client.simulation.methods import Method
from coresift.client.simulation.protocol import Concept
from coresift.client.simulation.publish import publish
from coresift.client.simulation.results import Results, ResultsError
from coresift.client.simulation.server import ServerFailure, own_service, served_pool

METHODS = "Random-All,MaxEnt-All,MaxEnt-SEALS,MLP-SEALS"
BUDGET = 2000


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
    names: Annotated[
        str,
        typer.Option(
            "--methods",
            metavar="A,B,...",
            help="Strategy, batch policy and candidates, like bald(samples=32)/badge@seals:10, or "
            "bald alone; all: every strategy on every candidate policy.",
        ),
    ] = METHODS,
    concepts: Annotated[
        int | None, typer.Option(min=1, help="Only the first N of the concepts.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seed sets 0 to N - 1.")] = 3,
    budget: Annotated[
        int | None, typer.Option(min=100, help="Labels a campaign: 2000, with --compare 1000.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=1000, help="Labels between refits.")] = 100,
    cold: Annotated[
        bool, typer.Option("--cold", help="No seed set: the methods start by themselves.")
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare with random and max_entropy: RESULTS.md.")
    ] = False,
    full: Annotated[bool, typer.Option(help="Measure full supervision too.")] = True,
    picks_file: Annotated[
        Path | None,
        typer.Option("--picks", metavar="PICKS.json", help="Compare picks with a reference's."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on: OUT/runs.jsonl says what is done.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Campaigns side by side.")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Label rare concepts of a data set by its own labels and measure what is learned."""
    try:
        chosen = studies.everything() if names == "all" else methods.methods(names)
        use = use or (_use_of(dataset, picks_file) if picks_file else None)
        entries = picks.read(picks_file) if picks_file else None
        data = load(dataset, use)
        if entries is None:
            _need_matplotlib()
            out.mkdir(parents=True, exist_ok=True)
            results = Results(out / "runs.jsonl", data, resume=resume)
    except (DatasetError, ResultsError, ValueError) as error:
        raise wrong(str(error)) from error
    if entries is not None:
        with _service(data, server, pool) as (client, served):
            _picks(client, data, served, entries, out, as_json=as_json)
        return
    wanted = protocol.concepts(data)[:concepts]
    if not wanted:
        raise wrong(f"{dataset} has no class with 25 members in the pool")
    if compare:
        study = _study(chosen, wanted, seeds, budget or studies.BUDGET, batch, cold=cold)
        chosen, plans = list(study.methods), study.plans
    else:
        plans = tuple(studies.campaigns(chosen, wanted, seeds, budget or BUDGET, batch, cold=cold))
    with _service(data, server, pool) as (client, served):
        crew = Crew(client, data, served, results, jobs)
        crew.check(chosen)
        runs = crew.campaigns(plans)
        full_ap = crew.full_supervision(wanted) if full else {}
    of_main = runs[: len(study.main)] if compare else runs
    result = report.curves(data, wanted, of_main, full_ap)
    reference = None if cold else agreement.reference_for(dataset, use)
    found = _differences(result, chosen, reference[1]) if reference else []
    against = report.agreement(reference[0], found) if reference and found else None
    if compare:
        given = {"dataset": dataset.resolve(), "use": use, "methods": names, "concepts": concepts}
        given |= {"seeds": seeds, "budget": plans[0].budget, "batch": batch}
        publish(compared(data, wanted, study, runs, full_ap), out, _again(given), against)
        written = "RESULTS.md, its pictures and curves.json"
    else:
        if against is not None:
            result["agreement"] = against
        report.write(out / "curves.json", json.dumps(result, separators=(",", ":")) + "\n")
        plots.draw(result, out / "curves.png")
        written = "curves.json and curves.png"
    if as_json:
        print_json(
            {key: result.get(key) for key in ("mean", "full_supervision", "latency_ms")}
            | {"agreement": against, "out": str(out)}
        )
        return
    _print_table(result, seeds)
    if reference and found:
        _print_agreement(reference[0], found)
    typer.echo(f"wrote {written} to {out}")


def _study(
    chosen: list[Method],
    concepts: list[Concept],
    seeds: int,
    budget: int,
    batch: int,
    *,
    cold: bool,
) -> studies.Study:
    """The campaigns of a comparison."""
    if cold:
        raise wrong("--compare has its own campaigns without a seed set: leave out --cold")
    measured = {*range(studies.SEEDED, budget, batch), budget}
    if not measured & set(studies.MARKS):
        raise wrong("--compare looks at 200, 500 and 1,000 labels: --budget and --batch reach none")
    return studies.comparison(chosen, concepts, seeds, budget, batch)


def _again(given: dict[str, Any]) -> str:
    """The command line that makes a comparison again."""
    words = ["coresift", "simulate", given["dataset"].name, "--compare"]
    for name in ("use", "methods", "concepts", "seeds", "budget", "batch"):
        if given[name] is not None:
            words += [f"--{name}", str(given[name])]
    return shlex.join(words)


def _differences(
    result: dict[str, Any], chosen: list[Method], reference: dict[str, Any]
) -> list[agreement.Difference]:
    """The curves against the reference's, which knows some methods by names of its own."""
    if result["protocol"]["batch"] != reference["protocol"]["batch"]:
        return []
    names = {method.name: method.in_reference for method in chosen}
    runs = [{**run, "method": names[run["method"]]} for run in result["runs"]]
    return agreement.differences(runs, reference)


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
                yield stack.enter_context(connected(target, own=True)), data.name
    except ServerFailure as error:
        raise Failure(str(error)) from error


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


def _print_table(result: dict[str, Any], seeds: int) -> None:
    rows = [
        (name, n, f"{ap:.4f}", f"{recall:.1%}", f"{share:.1%}", f"{p50:.1f} ms")
        for name, n, ap, recall, share, p50 in report.table(result)
    ]
    counts = f"concepts {len(result['concepts'])}, seeds {seeds}, pool of {result['pool']:,} items"
    headings = ("method", "labels", "mAP", "recall", "considered", "NextBatch p50")
    print_table(headings, rows, f"{result['dataset']}: {counts}")
    if full := result["full_supervision"]:
        typer.echo(f"full supervision: mAP {full['map_concepts']:.4f}")


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
