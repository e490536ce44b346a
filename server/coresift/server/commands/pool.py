"""`coresift pool`: build, append, info, verify, push, pull."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from coresift.server.config import resolve_device
from coresift.server.errors import CoresiftError, StartError
from coresift.server.pool.download import Incomplete
from coresift.server.pool.failures import BuildError
from coresift.server.pool.manifest import Manifest, read_manifest
from coresift.server.pool.places import Unreachable

commands = typer.Typer(no_args_is_help=True, help="Build, extend and check pools of embeddings.")


class MetricName(StrEnum):
    """Metrics on the command line."""

    cosine = "cosine"
    ip = "ip"
    l2 = "l2"


class IndexName(StrEnum):
    """Index kinds on the command line."""

    auto = "auto"
    flat = "flat"
    ivf = "ivf"


class DtypeName(StrEnum):
    """Number types on the command line."""

    float16 = "float16"
    float32 = "float32"


EmbeddingsArgument = Annotated[
    Path,
    typer.Argument(help="[items, dimension]: .npy, or .parquet/.arrow/.feather with lists."),
]
IdsOption = Annotated[
    Path | None,
    typer.Option("--ids", help="One id a line (also .gz), or a table with --id-column."),
]
OutOption = Annotated[Path, typer.Option("--out", help="Directory to make; must not exist.")]
MetadataOption = Annotated[
    Path | None,
    typer.Option(help="Parquet, Arrow, Feather or JSON lines (also .gz) with --id-column."),
]
RowsOption = Annotated[
    Path | None, typer.Option(help=".npy of row numbers: take only these, in this order.")
]
IdColumnOption = Annotated[str, typer.Option(help="Column of the ids in tables.")]
DeviceOption = Annotated[
    str,
    typer.Option(
        help="Where the neighbour table is computed: auto, cpu, cuda or cuda:NUMBER.",
        envvar="CORESIFT_DEVICE",
    ),
]
EmbeddingColumnOption = Annotated[str, typer.Option(help="Column of the vectors in a table.")]


def register(app: typer.Typer) -> None:
    """Add the group `pool` to the application."""
    app.add_typer(commands, name="pool")


@commands.command()
def build(
    embeddings: EmbeddingsArgument,
    out: OutOption,
    ids: IdsOption = None,
    name: Annotated[str | None, typer.Option(help="Default: the last part of --out.")] = None,
    metadata: MetadataOption = None,
    metric: Annotated[MetricName, typer.Option(help="Similarity.")] = MetricName.cosine,
    index: Annotated[
        IndexName, typer.Option(help="auto: flat (exact) up to 2 million items, else ivf.")
    ] = IndexName.auto,
    neighbours: Annotated[
        int, typer.Option(min=0, max=1000, help="Store each item's nearest ones; 0: none.")
    ] = 0,
    neighbours_recall: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of the true neighbours that the table must hold on average; 1: all, "
            "which takes the square of the items in time.",
        ),
    ] = 1.0,
    dtype: Annotated[DtypeName | None, typer.Option(help="Default: the input's.")] = None,
    device: DeviceOption = "auto",
    rows: RowsOption = None,
    id_column: IdColumnOption = "id",
    embedding_column: EmbeddingColumnOption = "embedding",
) -> None:
    """Build a pool from embeddings and ids.

    Run again after it was stopped, it goes on with the neighbour table where that was.
    """
    from coresift.server.pool.builder import BuildOptions, build_pool
    from coresift.server.pool.input_files import InputFiles

    files = InputFiles(embeddings, ids, metadata, rows, id_column, embedding_column)
    with _plain_errors(), _Bar() as bar:
        options = BuildOptions(
            files=files,
            out=out,
            name=name,
            metric=metric.value,
            index=index.value,
            neighbours=neighbours,
            neighbours_recall=neighbours_recall,
            dtype=None if dtype is None else dtype.value,
            device=resolve_device(device),
        )
        manifest = build_pool(options, bar.report)
    _say_made(out, manifest)


@commands.command()
def append(
    pool: Annotated[Path, typer.Argument(help="The pool to extend; it stays as it is.")],
    embeddings: EmbeddingsArgument,
    out: OutOption,
    ids: IdsOption = None,
    metadata: MetadataOption = None,
    device: DeviceOption = "auto",
    rows: RowsOption = None,
    id_column: IdColumnOption = "id",
    embedding_column: EmbeddingColumnOption = "embedding",
) -> None:
    """Make a pool's next version: its items keep their place, new ones follow."""
    from coresift.server.pool.builder import AppendOptions, append_pool
    from coresift.server.pool.input_files import InputFiles

    files = InputFiles(embeddings, ids, metadata, rows, id_column, embedding_column)
    with _plain_errors(), _Bar() as bar:
        options = AppendOptions(pool, files, out, resolve_device(device))
        manifest = append_pool(options, bar.report)
    _say_made(out, manifest)


@commands.command()
def info(
    pool: Annotated[Path, typer.Argument(help="A pool directory.")],
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Show what a pool holds."""
    with _plain_errors():
        manifest = read_manifest(pool)
    if as_json:
        typer.echo(json.dumps(asdict(manifest)))
        return
    table = Table(show_header=False, box=None)
    for name, value in _facts(manifest).items():
        table.add_row(name, escape(value))
    Console().print(table)


@commands.command()
def verify(pool: Annotated[Path, typer.Argument(help="A pool directory.")]) -> None:
    """Check every byte of a pool."""
    from coresift.server.pool.pool import verify_pool
    from coresift.server.pool.progress import Counter

    with _plain_errors(), _Bar() as bar:
        total = sum(size for size, _ in read_manifest(pool).files.values())
        manifest = verify_pool(pool, Counter(bar.report, "checksums", total).add)
    typer.echo(f"{pool}: all {len(manifest.files)} files of version {manifest.version} are whole")


@commands.command()
def push(
    pool: Annotated[Path, typer.Argument(help="A pool directory.")],
    root: Annotated[
        str, typer.Argument(help="Folder of versions (s3://bucket/photos): becomes ROOT/VERSION.")
    ],
) -> None:
    """Copy a pool version to where servers find it, whole or not at all."""
    from coresift.server.pool.transfer import push_pool

    with _plain_errors(), _Bar() as bar:
        place = push_pool(pool, root, bar.report)
    typer.echo(f"{place}: version {read_manifest(pool).version} is there")


@commands.command()
def pull(
    source: Annotated[str, typer.Argument(help="URI of a pool version, or of a root of versions.")],
    out: Annotated[Path, typer.Argument(help="Becomes OUT/POOL/VERSION, as in --pool-cache.")],
    version: Annotated[str | None, typer.Option(help="Default: the newest.")] = None,
) -> None:
    """Bring a pool version to this machine, verified; again: only what is missing."""
    from coresift.server.pool.transfer import pull_pool

    with _plain_errors(), _Bar() as bar:
        directory, manifest = pull_pool(source, out, version, bar.report)
    _say_made(directory, manifest)


def _facts(manifest: Manifest) -> dict[str, str]:
    size = sum(size for size, _ in manifest.files.values())
    index = f"ivf, {manifest.probes} lists probed" if manifest.index == "ivf" else "flat (exact)"
    return {
        "name": manifest.name,
        "version": manifest.version,
        "parent": manifest.parent or "none",
        "items": f"{manifest.items:,}",
        "dimension": f"{manifest.dimension} {manifest.dtype}",
        "metric": manifest.metric,
        "index": index,
        "clusters": f"{manifest.clusters:,}",
        "neighbours": _table_facts(manifest),
        "metadata": ", ".join(manifest.metadata_columns) or "none",
        "segments": str(len(manifest.segments)),
        "size": f"{size / 2**20:,.1f} MiB",
    }


def _table_facts(manifest: Manifest) -> str:
    if not manifest.neighbours:
        return "no table"
    recall = manifest.neighbours_recall
    return f"{manifest.neighbours}, {'exact' if recall == 1 else f'recall {recall:g} or more'}"


def _say_made(out: Path, manifest: Manifest) -> None:
    typer.echo(
        f"{out}: pool {manifest.name}, version {manifest.version}, "
        f"{manifest.items:,} items of dimension {manifest.dimension}"
    )


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Say what is wrong in one line and leave with 1."""
    try:
        yield
    except (BuildError, StartError, CoresiftError, Incomplete, Unreachable) as problem:
        message = str(problem)
    except OSError as problem:
        message = f"{problem.filename or 'file'}: {problem.strerror or problem}"
    else:
        return
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(1)


class _Bar:
    """One line a phase on standard error; silent where that is no terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._phase = ""

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._finish()
        self._progress.stop()

    def report(self, phase: str, share: float) -> None:
        """Progress of a build: a new phase ends the one before."""
        if phase != self._phase or self._task is None:
            self._finish()
            self._task = self._progress.add_task(phase, total=1.0)
            self._phase = phase
        self._progress.update(self._task, completed=share)

    def _finish(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=1.0)
