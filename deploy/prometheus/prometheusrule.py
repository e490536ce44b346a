"""The PrometheusRule of the Prometheus operator, made of the plain rule files beside it.

    python deploy/prometheus/prometheusrule.py

writes ``prometheusrule.yaml``; a test compares. Whoever loads plain files (compose) needs it not.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
SOURCES = ("records.yaml", "alerts.yaml")
MADE = FOLDER / "prometheusrule.yaml"
HEAD = """\
# Made by prometheusrule.py of {sources}: change those.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: coresift
spec:
  groups:
"""


def resource() -> str:
    """Its text."""
    groups = (_groups(FOLDER / name) for name in SOURCES)
    return HEAD.format(sources=" and ".join(SOURCES)) + "".join(groups)


def _groups(file: Path) -> str:
    """The groups of a plain file, two columns further in."""
    _, _, groups = file.read_text().partition("\ngroups:\n")
    return "".join(f"  {line}" if line.strip() else line for line in groups.splitlines(True))


if __name__ == "__main__":
    MADE.write_text(resource())
