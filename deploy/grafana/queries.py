"""The queries of a dashboard as Grafana would send them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ALL = ".*"
"""What the variables stand for while All is chosen."""


def panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The panels that show something, rows left out."""
    yield from (panel for panel in dashboard["panels"] if panel["type"] != "row")


def filled(
    expr: str, *, rate: str, whole: str, chosen: Mapping[str, str | Sequence[str]] | None = None
) -> str:
    """PromQL without variables.

    Args:
        rate: for ``$__rate_interval``, such as 1m.
        whole: for ``$__range``.
        chosen: values of the variables; those that are not here are All.
    """
    values = {"namespace": ALL, "pod": ALL, "pool": ALL}
    for name, value in (chosen or {}).items():
        several = [value] if isinstance(value, str) else value
        escaped = [re.escape(one).replace("\\", "\\\\") for one in several]
        values[name] = escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"
    expr = expr.replace("$__rate_interval", rate).replace("$__range", whole)
    for name, text in values.items():
        expr = expr.replace(f"${name}", text)
    return expr


def legend(format_: str, labels: Mapping[str, str]) -> str:
    """A series' name in the legend."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), format_).strip()
