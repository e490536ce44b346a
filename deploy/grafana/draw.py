"""Draws the dashboards from a Prometheus: ``python -m deploy.grafana.draw --live``.

With ``--live`` it runs two servers, a Redis and a Prometheus itself, lets a simulated crew label
real data for some minutes while things go wrong, and draws what Grafana would show of it.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

from deploy.grafana.dashboards import FOLDER
from deploy.grafana.panels import Json
from deploy.grafana.picture import Curve, Picture
from deploy.grafana.queries import filled, legend, panels
from tests.fixtures.prometheus import ask, series_of

POINTS = 160
"""Of a line."""
SHORTEST_RATE_S = 15


def draw(
    dashboard: Json, url: str, began: float, ended: float, path: Path, pool: str | None = None
) -> None:
    """Ask every query of a dashboard and draw what it returns.

    Args:
        url: of the Prometheus.
        began, ended: seconds since 1970.
        pool: chosen; None: All.
    """
    picture = Picture(dashboard, began, ended, f"Pool: {pool or 'All'}")
    chosen = {} if pool is None else {"pool": pool}
    step = max(1.0, (ended - began) / POINTS)
    rate, whole = f"{max(SHORTEST_RATE_S, 4 * step):.0f}s", f"{math.ceil(ended - began)}s"

    def answers(panel: Json) -> list[Curve]:
        curves = []
        for target in panel["targets"]:
            query = filled(target["expr"], rate=rate, whole=whole, chosen=chosen)
            if target["instant"]:
                data = ask(url, "query", query=query, time=ended)
            else:
                data = ask(url, "query_range", query=query, start=began, end=ended, step=step)
            for series in series_of(data):
                name = legend(target["legendFormat"], series.labels)
                curves.append(Curve(name, series.points))
        return curves

    for panel in panels(dashboard):
        picture.draw(panel, answers(panel))
    picture.save(path)


def draw_all(url: str, began: float, ended: float, folder: Path, pool: str | None = None) -> None:
    """A picture of each dashboard, named as its file; ``pool`` narrows that of labeling."""
    for name, each in (("service", None), ("labeling", pool)):
        dashboard = json.loads((FOLDER / f"{name}.json").read_text())
        draw(dashboard, url, began, ended, folder / f"{name}.png", each)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--url", help="of a Prometheus that scrapes Coresift")
    source.add_argument("--live", action="store_true", help="run everything for it")
    parser.add_argument("--minutes", type=float, default=4.0, help="to draw, up to now")
    parser.add_argument("--pool", help="on the labeling dashboard; left out: All")
    parser.add_argument("--out", type=Path, default=FOLDER.parent)
    chosen = parser.parse_args()
    if not chosen.live:
        now = time.time()
        draw_all(chosen.url, now - 60 * chosen.minutes, now, chosen.out, chosen.pool)
        return
    from deploy.grafana.live import POOL, a_live_run

    with (
        tempfile.TemporaryDirectory(prefix="coresift-live-") as name,
        a_live_run(Path(name), chosen.minutes) as (prometheus, began, ended),
    ):
        draw_all(prometheus.url, began, ended, chosen.out, POOL)


if __name__ == "__main__":
    main()
