"""Strategies: frozen values that turn logits into scores; a larger score is chosen sooner.

Logits are float [n, K]: for binary tasks one column, the log-odds of the positive class; for
multiclass the softmax's; for multilabel independent log-odds, where a score is the mean over
the columns. Every form works from logits, so that nothing saturates: no log(0), no 1 - p.

In the binary case ``max_entropy``, ``margin`` and ``least_confidence`` are one order, by
``-|logit|``, and all three return exactly that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from coresift.server.arrays import Rows
from coresift.server.head import Task

Floats = npt.NDArray[np.floating]


class Strategy(Protocol):
    """Scores candidates."""

    @property
    def needs_head(self) -> bool:
        """Whether `score` reads logits; if not, it may be called with [n, 0]."""
        ...

    def score(self, rows: Rows, logits: Floats) -> Floats:
        """Scores [n], of the logits' precision, of rows int32 [n] with logits [n, K]."""
        ...

    def error(self, logit_error: float, classes: int) -> float:
        """How far a score can be off when no logit is off by more than ``logit_error``."""
        ...


@dataclass(frozen=True, slots=True)
class Random:
    """Uniform choice: the score is the keyed hash of the row."""

    seed: int
    needs_head = False

    def score(self, rows: Rows, logits: Floats) -> Floats:
        from coresift.server.selection.priority import priorities

        return priorities(self.seed, "random", rows)

    def error(self, logit_error: float, classes: int) -> float:
        return 0.0


@dataclass(frozen=True, slots=True)
class BinaryUncertainty:
    """``-|logit|``: the order of entropy, margin and least confidence for two classes."""

    needs_head = True

    def score(self, rows: Rows, logits: Floats) -> Floats:
        return -np.abs(logits[:, 0])

    def error(self, logit_error: float, classes: int) -> float:
        return logit_error


@dataclass(frozen=True, slots=True)
class MostLikelyPositive:
    """The logit of the positive class (certainty sampling)."""

    needs_head = True

    def score(self, rows: Rows, logits: Floats) -> Floats:
        return logits[:, 0]

    def error(self, logit_error: float, classes: int) -> float:
        return logit_error


@dataclass(frozen=True, slots=True)
class MaxEntropy:
    """Entropy of the predicted classes in nats (Shannon, 1948); multilabel: mean over columns."""

    softmax: bool
    needs_head = True

    def score(self, rows: Rows, logits: Floats) -> Floats:
        if self.softmax:
            shifted = logits - logits.max(axis=1, keepdims=True)
            weights = np.exp(shifted)
            total = weights.sum(axis=1)
            return np.asarray(np.log(total) - (weights * shifted).sum(axis=1) / total)
        size = np.abs(logits)
        tail = np.exp(-size)
        return np.asarray((np.log1p(tail) + size * tail / (1 + tail)).mean(axis=1))

    def error(self, logit_error: float, classes: int) -> float:
        # |grad H|_1 = E|log p + H| <= std(log p), and Var(log p) <= log(K - 1)^2 / 4 + 1.
        if self.softmax:
            return logit_error * float(np.sqrt(np.log(max(classes - 1, 1)) ** 2 / 4 + 1))
        return 0.25 * logit_error


@dataclass(frozen=True, slots=True)
class Margin:
    """Minus the gap between the two largest probabilities (Scheffer et al., 2001).

    Multilabel: minus the mean of |p - (1 - p)| over the columns.
    """

    softmax: bool
    needs_head = True

    def score(self, rows: Rows, logits: Floats) -> Floats:
        if not self.softmax:
            return np.asarray(-np.tanh(np.abs(logits) / 2).mean(axis=1))
        top = np.partition(logits, logits.shape[1] - 2, axis=1)[:, -2:]
        best = top.max(axis=1)
        total = np.exp(logits - best[:, None]).sum(axis=1)
        return np.asarray(np.expm1(top.min(axis=1) - best) / total)

    def error(self, logit_error: float, classes: int) -> float:
        return logit_error


@dataclass(frozen=True, slots=True)
class LeastConfidence:
    """One minus the largest probability (Lewis and Gale, 1994); multilabel: mean over columns."""

    softmax: bool
    needs_head = True

    def score(self, rows: Rows, logits: Floats) -> Floats:
        if not self.softmax:
            tail = np.exp(-np.abs(logits))
            return np.asarray((tail / (1 + tail)).mean(axis=1))
        best = logits.max(axis=1, keepdims=True)
        weights = np.exp(logits - best)
        total = weights.sum(axis=1)
        # The rest over the total: 1 - 1/total would lose the small ones to rounding.
        weights[np.arange(len(weights)), logits.argmax(axis=1)] = 0
        return np.asarray(weights.sum(axis=1) / total)

    def error(self, logit_error: float, classes: int) -> float:
        return logit_error


def _uncertainty(form: Callable[[bool], Strategy]) -> Callable[[Task, int], Strategy]:
    def make(task: Task, seed: int) -> Strategy:
        return BinaryUncertainty() if task is Task.BINARY else form(task is Task.MULTICLASS)

    return make


STRATEGIES: dict[str, Callable[[Task, int], Strategy]] = {
    "random": lambda task, seed: Random(seed),
    "max_entropy": _uncertainty(MaxEntropy),
    "margin": _uncertainty(Margin),
    "least_confidence": _uncertainty(LeastConfidence),
    "most_likely_positive": lambda task, seed: MostLikelyPositive(),
}
"""Every strategy by its name on the wire: task and session seed in, strategy out."""

ONLY_BINARY = frozenset({"most_likely_positive"})
"""Strategies that need one concept."""
