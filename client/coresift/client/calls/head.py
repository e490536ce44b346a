"""A head as numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coresift.client.calls.basis import Basis
from coresift.client.convert import Float64
from coresift.v1 import selection_pb2 as pb


@dataclass(frozen=True)
class Head:
    """The session's model: take it away and use it."""

    classes: tuple[str, ...]
    """Of the rows. Binary: the positive class only."""
    unfitted_classes: tuple[str, ...]
    """Classes whose row is constant because positives or negatives are missing."""
    weights: Float64
    """float64 [classes, dimension]."""
    bias: Float64
    """float64 [classes]. Of an unfitted class: -inf (probability 0), +inf (1), or 0 (unknown)."""
    basis: Basis

    def logits(self, X: npt.ArrayLike) -> Float64:
        """``X W' + b``, float64 [n, classes], of rows [n, dimension] scaled as the pool's are
        (unit length on cosine pools).

        Probabilities are their softmax for a multiclass session, else the logistic function.
        """
        rows = np.asarray(X, dtype=np.float64)
        return np.asarray(rows @ self.weights.T + self.bias)


PriorHead = Head | tuple[npt.ArrayLike, npt.ArrayLike]
"""A head to start from: another session's, or weights [classes, dimension] and bias [classes]
(binary: one row, of the positive class)."""


def prior_message(prior: PriorHead, classes: tuple[str, ...]) -> pb.HeadWeights:
    """A prior head of a session with ``classes``.

    Raises:
        ValueError: the shapes do not fit, or a `Head` of several classes has them in another
            order (binary ones may be called differently: the concept may be another).
    """
    if isinstance(prior, Head):
        if len(prior.classes) > 1 and prior.classes != classes:
            raise ValueError(
                f"prior_head has the classes {', '.join(prior.classes)}; "
                f"the session has {', '.join(classes)}"
            )
        prior = prior.weights, prior.bias
    weights = np.atleast_2d(np.asarray(prior[0], dtype="<f8"))
    bias = np.atleast_1d(np.asarray(prior[1], dtype="<f8"))
    if weights.ndim != 2 or bias.shape != weights.shape[:1]:
        raise ValueError(
            "prior_head must be weights [classes, dimension] and bias [classes], "
            f"got shapes {weights.shape} and {bias.shape}"
        )
    return pb.HeadWeights(
        dimension=weights.shape[1], weights=weights.tobytes(), bias=bias.tobytes()
    )
