"""The model head: what it is, and its fit at the optimum."""

from __future__ import annotations

from coresift.server.head.regression import (
    ClassWeight,
    Head,
    HeadConfig,
    Task,
    TrainingSet,
    class_scale,
    fit,
)

__all__ = [
    "ClassWeight",
    "Head",
    "HeadConfig",
    "Task",
    "TrainingSet",
    "class_scale",
    "fit",
]
