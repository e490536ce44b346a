"""The session's model: predictions, acquisition values, weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from coresift.client.calls.basis import Basis, basis
from coresift.client.calls.head import Head
from coresift.client.calls.session import Session, id_of
from coresift.client.convert import Float32, Float64, StringColumn, array, matrix, vectors
from coresift.client.flow import Flow, Rpc, call, gather, parts, stream
from coresift.v1 import selection_pb2 as pb

Bools = npt.NDArray[np.bool_]

PREDICT = Rpc("Predict", pb.PredictRequest, pb.PredictResponse)
SCORE = Rpc("ScoreVectors", pb.ScoreVectorsRequest, pb.ScoreVectorsResponse)
HEAD = Rpc("GetHead", pb.GetHeadRequest, pb.GetHeadResponse)

MOST_BYTES = 32 * 1024 * 1024
"""Of the vectors of one call: half of what the server takes."""
MOST_ROWS = 10_000
"""Items or vectors of one Predict or ScoreVectors."""


@dataclass(frozen=True)
class Predictions:
    """Class probabilities, a row an item or vector."""

    classes: tuple[str, ...]
    """Of the columns. Binary: the positive class only."""
    probabilities: Float32
    """float32 [rows, classes]."""
    item_ids: StringColumn
    """Of the rows; empty for vectors."""
    basis: Basis
    """Of the last call, where more than one was needed."""


@dataclass(frozen=True)
class Scores:
    """Acquisition values of vectors. What was not asked for is None."""

    scores: Float64
    """float64 [rows]: the strategy's score, larger is sooner. NaN: it knows only items of the
    pool, or chooses items by each other."""
    classes: tuple[str, ...]
    probabilities: Float32
    """float32 [rows, classes]."""
    strategy: str
    labelled_similarity: Float64 | None
    """float64 [rows]: to the nearest labelled item; NaN: none is labelled."""
    pool_similarity: Float64 | None
    """float64 [rows]: to the nearest item of the pool, as `Neighbour.similarity`."""
    in_best: Bools | None
    """bool [rows]: whether it would be among the best of candidates and vectors together."""
    gradients: Float32 | None
    """float32 [rows, dimension]: derivative of the score by the vector as it was given."""
    basis: Basis


def predict(
    session: str | Session,
    *,
    items: Sequence[str] | None = None,
    vectors: npt.ArrayLike | None = None,
    top: int | None = None,
    class_name: str = "",
) -> Flow[Predictions]:
    """Class probabilities of ``items`` (ids), of ``vectors`` ([n, d]), or of the ``top`` items
    of the pool by the probability of ``class_name`` (binary: the positive class by default).

    More than 10,000 items or vectors are sent as several calls.

    Raises:
        PreconditionFailed: HEAD_NOT_FITTED. InvalidInput: INVALID_VECTOR. NotFound.
    """
    if sum(target is not None for target in (items, vectors, top)) != 1:
        raise ValueError("give exactly one of items, vectors, top")
    session_id = id_of(session)
    if top is not None:
        pool_top = pb.PoolTop(count=top, class_name=class_name)
        requests = [pb.PredictRequest(session_id=session_id, top=pool_top)]
    elif items is not None:
        requests = [
            pb.PredictRequest(session_id=session_id, items=pb.ItemList(item_ids=items[cut]))
            for cut in parts(len(items), MOST_ROWS) or [slice(0)]
        ]
    else:
        assert vectors is not None  # noqa: S101 - the count above says so
        requests = [pb.PredictRequest(session_id=session_id, vectors=v) for v in _parts(vectors)]
    messages: list[pb.PredictResponse] = []
    for request in requests:
        messages.extend((yield from gather(stream(PREDICT, request, session_id))))
    if not messages:
        raise RuntimeError("the server answered Predict with an empty stream")
    return Predictions(
        classes=tuple(messages[-1].classes),
        probabilities=_probabilities(messages),
        item_ids=StringColumn.joined(m.item_ids for m in messages if m.item_ids.offsets),
        basis=basis(messages[-1].basis),
    )


def score_vectors(
    session: str | Session,
    vectors: npt.ArrayLike,
    *,
    novelty: bool = False,
    best_of: int = 0,
    gradients: bool = False,
) -> Flow[Scores]:
    """The session's acquisition values of vectors [n, d] that are not in the pool.

    More than 10,000 are sent as several calls, except with ``best_of``.

    Args:
        novelty: ask for the similarities to the nearest labelled item and the nearest item.
        best_of: ask which vectors are among the best so many (1..10,000) of the session's
            candidates and all vectors together; 0: do not ask.
        gradients: ask for the derivative of the score by the vector.

    Raises:
        PreconditionFailed: HEAD_NOT_FITTED. InvalidInput: INVALID_VECTOR; a strategy whose
            score has no gradient. ValueError: ``best_of`` with more vectors than fit a call.
    """
    requests = [
        pb.ScoreVectorsRequest(
            session_id=id_of(session),
            vectors=part,
            include_novelty=novelty,
            best_of=best_of,
            include_gradients=gradients,
        )
        for part in _parts(vectors)
    ]
    if best_of and len(requests) > 1:
        raise ValueError(
            f"best_of compares the vectors of one call: at most {MOST_ROWS} of together at most "
            f"{MOST_BYTES} bytes"
        )
    replies: list[pb.ScoreVectorsResponse] = []
    for request in requests:
        reply = yield from call(SCORE, request, request.session_id)
        replies.append(reply)
    dimension = requests[0].vectors.dimension
    return Scores(
        scores=_column(replies, "scores", "f8"),
        classes=tuple(replies[-1].classes),
        probabilities=_probabilities(replies),
        strategy=replies[-1].strategy,
        labelled_similarity=_column(replies, "labelled_similarity", "f8") if novelty else None,
        pool_similarity=_column(replies, "pool_similarity", "f8") if novelty else None,
        in_best=_column(replies, "in_best", "u1").astype(bool) if best_of else None,
        gradients=_column(replies, "gradients", "f4", dimension) if gradients else None,
        basis=basis(replies[-1].basis),
    )


def head(session: str | Session) -> Flow[Head]:
    """The session's model, fitted on every label so far. PreconditionFailed: HEAD_NOT_FITTED."""
    request = pb.GetHeadRequest(session_id=id_of(session))
    reply = yield from call(HEAD, request, request.session_id)
    return Head(
        classes=tuple(reply.classes),
        unfitted_classes=tuple(reply.unfitted_classes),
        weights=array(reply.weights, "f8", len(reply.classes), reply.dimension),
        bias=array(reply.bias, "f8", len(reply.classes)),
        basis=basis(reply.basis),
    )


def _parts(values: npt.ArrayLike) -> list[pb.Vectors]:
    rows = matrix(values)
    fitting = max(1, MOST_BYTES // max(1, 4 * rows.shape[1]))
    return [vectors(rows[cut]) for cut in parts(len(rows), min(MOST_ROWS, fitting))]


def _column(
    replies: Sequence[pb.ScoreVectorsResponse], name: str, dtype: str, *width: int
) -> npt.NDArray[Any]:
    return np.concatenate([array(getattr(reply, name), dtype, -1, *width) for reply in replies])


def _probabilities(
    messages: Sequence[pb.PredictResponse] | Sequence[pb.ScoreVectorsResponse],
) -> Float32:
    columns = len(messages[-1].classes)
    return np.concatenate([array(m.probabilities, "f4", -1, columns) for m in messages])
