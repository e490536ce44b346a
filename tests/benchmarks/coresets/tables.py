"""Figures beside what is promised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured number and what is promised of it; empty: nothing."""

    name: str
    value: float
    promised: str = ""


def print_figures(console: Console, title: str, figures: Sequence[Figure]) -> None:
    """A table of figures."""
    table = Table("figure", "measured", "promised", title=title)
    for figure in figures:
        table.add_row(figure.name, f"{figure.value:,.4g}", figure.promised)
    console.print(table)
