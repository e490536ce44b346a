"""The PrometheusRule of the Prometheus operator, made of the plain rule files beside it.

    python deploy/prometheus/prometheusrule.py [BASE]

writes ``prometheusrule.yaml``; a test compares. BASE is the address of the folder that holds
RUNBOOK.md, for the links of the alerts; without it they are relative. Whoever loads plain files
(compose) needs it not.
"""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCES = ("records.yaml", "alerts.yaml")
MADE = FOLDER / "prometheusrule.yaml"
PAGE = "RUNBOOK.md#"
LINK = f"runbook_url: {PAGE}"
HEAD = """\
# Made by prometheusrule.py of {sources}: change those.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: coresift
spec:
  groups:
"""


def resource(base: str = "") -> str:
    """Its text."""
    groups = "".join(_groups(FOLDER / name) for name in SOURCES)
    if base:
        groups = groups.replace(LINK, f"{LINK[: -len(PAGE)]}{base.rstrip('/')}/{PAGE}")
    return HEAD.format(sources=" and ".join(SOURCES)) + groups


def _groups(file: Path) -> str:
    """The groups of a plain file, two columns further in."""
    _, _, groups = file.read_text().partition("\ngroups:\n")
    return "".join(f"  {line}" if line.strip() else line for line in groups.splitlines(True))


if __name__ == "__main__":
    MADE.write_text(resource(*sys.argv[1:2]))
