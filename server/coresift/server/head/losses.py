"""The losses of logistic regression as functions of logits [K, n], in float32 or float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[Any]
"""Float32 or float64."""


class Loss(Protocol):
    """A sum of weighted losses. Logits come in the dtype of its weights."""

    def slopes(self, logits: Floats) -> tuple[float, Floats]:
        """The sum, and its derivative in each logit. Overwrites the logits."""

    def curvatures(self, logits: Floats) -> Floats:
        """Its second derivative in each logit."""

    def narrow(self) -> Self:
        """The same in float32."""


@dataclass(frozen=True, slots=True)
class BinaryLoss:
    """Log-losses; ``present`` and ``absent`` are weights [1, n]."""

    present: Floats
    absent: Floats

    def slopes(self, logits: Floats) -> tuple[float, Floats]:
        small = np.exp(-np.abs(logits))
        loss = float(np.vdot(self.present + self.absent, np.log1p(small)))
        loss += float(np.vdot(self.present, np.maximum(-logits, 0)))
        loss += float(np.vdot(self.absent, np.maximum(logits, 0)))
        larger = 1 / (1 + small)
        small *= larger
        is_above = logits >= 0
        slopes = self.absent * np.where(is_above, larger, small)
        slopes -= self.present * np.where(is_above, small, larger)
        return loss, slopes

    def curvatures(self, logits: Floats) -> Floats:
        small = np.exp(-np.abs(logits))
        return np.asarray((self.present + self.absent) * small / (1 + small) ** 2)

    def narrow(self) -> BinaryLoss:
        return BinaryLoss(self.present.astype(np.float32), self.absent.astype(np.float32))


@dataclass(frozen=True, slots=True)
class SoftmaxLoss:
    """Cross-entropies; ``targets`` [K, n] are weights of classes, ``totals`` [n] their sums."""

    targets: Floats
    totals: Floats

    def slopes(self, logits: Floats) -> tuple[float, Floats]:
        logits -= logits.max(axis=0)
        loss = -float(np.vdot(self.targets, logits))
        slopes = np.exp(logits, out=logits)
        norms = slopes.sum(axis=0)
        loss += float(np.vdot(self.totals, np.log(norms)))
        slopes *= self.totals / norms
        slopes -= self.targets
        return loss, slopes

    def curvatures(self, logits: Floats) -> Floats:
        P = np.exp(logits - logits.max(axis=0))
        P /= P.sum(axis=0)
        return np.asarray(self.totals * P * (1 - P))

    def narrow(self) -> SoftmaxLoss:
        return SoftmaxLoss(self.targets.astype(np.float32), self.totals.astype(np.float32))
