"""Tables, printed as they come and written as one Markdown page."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of texts; the first column is of names."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


class Page:
    """Grids in the order in which they were added."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._grids: list[Grid] = []

    def add(self, grid: Grid) -> None:
        """Print a grid and keep it for the page."""
        self._grids.append(grid)
        self.show(grid)

    def show(self, grid: Grid) -> None:
        """Print a grid."""
        table = Table(title=grid.title)
        for column, heading in enumerate(grid.headings):
            table.add_column(heading, justify="right" if column else "left", no_wrap=not column)
        for row in grid.rows:
            table.add_row(*row)
        self._console.print(table)
        if grid.note:
            self.say(grid.note)

    def say(self, text: str) -> None:
        """Print a line that is not kept."""
        self._console.print(text, markup=False)

    def doing(self, text: str) -> AbstractContextManager[object]:
        """Show what is being measured while the block runs."""
        return self._console.status(text)

    def write(self, path: Path, heading: str, first: Grid) -> None:
        """Write ``first`` and what was added as Markdown."""
        parts = [heading, *(_markdown(grid) for grid in (first, *self._grids))]
        path.write_text("\n\n".join(parts) + "\n")


def number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"


def _markdown(grid: Grid) -> str:
    rows = [grid.headings, ["---"] * len(grid.headings), *grid.rows]
    lines = [f"| {' | '.join(cell or ' ' for cell in row)} |" for row in rows]
    note = ["", grid.note] if grid.note else []
    return "\n".join([f"### {grid.title}", "", *lines, *note])
