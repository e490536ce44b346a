"""What a simulation leaves behind: curves.json and the table of the terminal."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coresift.client.simulation.agreement import Difference, mean_curve
from coresift.client.simulation.campaign import Run
from coresift.client.simulation.dataset import Dataset
from coresift.client.simulation.protocol import HEAD_C, SEED_NEGATIVES, SEED_POSITIVES, Concept

Row = tuple[str, int, float, float, float, float]


def curves(
    data: Dataset,
    concepts: Sequence[Concept],
    runs: Sequence[Run],
    full: dict[str, float],
) -> dict[str, Any]:
    """The content of curves.json, keyed as the reference is, and the latencies of calls."""
    plan = runs[0].plan
    methods = list(dict.fromkeys(run.plan.method.name for run in runs))
    by_method = {name: [r for r in runs if r.plan.method.name == name] for name in methods}
    return {
        "dataset": data.name,
        "n": data.size,
        "d": data.vectors.shape[1],
        "pool": len(data.labels),
        "test": len(data.test_labels),
        "protocol": {
            "use": data.use,
            "budget": plan.budget,
            "batch": plan.batch,
            "seeds": sorted({run.plan.seed for run in runs}),
            "C": HEAD_C,
            "seed_pos": SEED_POSITIVES,
            "seed_neg": SEED_NEGATIVES,
        },
        "concepts": [
            {
                "name": concept.name,
                "label": concept.label,
                "pool_positives": int((data.labels == concept.label).sum()),
                "test_positives": int((data.test_labels == concept.label).sum()),
            }
            | ({"full_ap": full[concept.name]} if concept.name in full else {})
            for concept in concepts
        ],
        "mean": {name: mean_curve([r.as_json() for r in by_method[name]]) for name in methods},
        "runs": [run.as_json() for run in runs],
        "full_supervision": {"map_concepts": float(np.mean(list(full.values())))} if full else {},
        "latency_ms": {
            name: {
                "NextBatch": percentiles([s for run in mine for s in run.next_batch_s]),
                "AddLabels": percentiles([s for run in mine for s in run.add_labels_s]),
            }
            for name, mine in by_method.items()
        },
    }


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Percentiles of times in seconds, as milliseconds; nothing for no times."""
    if not seconds:
        return {}
    values = np.percentile(np.array(seconds) * 1e3, (50, 95, 99))
    return dict(zip(("p50", "p95", "p99"), values.round(3).tolist(), strict=True))


def agreement(reference: Path, found: Sequence[Difference]) -> dict[str, Any]:
    """The comparison with a reference as it stands in curves.json."""
    return {
        "reference": reference.name,
        "agrees": all(difference.agrees for difference in found),
        "worst": [difference.as_json() for difference in found],
    }


def table(result: dict[str, Any]) -> list[Row]:
    """A row a method: labels, mAP, recall, share considered (0..1), p50 of NextBatch (ms)."""
    return [
        (
            name,
            int(mean["n"][-1]),
            mean["ap"][-1],
            mean["recall"][-1],
            mean["considered"][-1],
            result["latency_ms"][name]["NextBatch"].get("p50", float("nan")),
        )
        for name, mean in result["mean"].items()
    ]


def write(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        partial.write_text(text)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
