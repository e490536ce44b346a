"""Handlers that use a session's model, and search."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import numpy.typing as npt

from coresift.server.errors import invalid
from coresift.server.rpc import checks, encode
from coresift.server.rpc.services import Services
from coresift.server.session.live.live import LiveSession
from coresift.server.session.model import Model
from coresift.server.session.setup.config_checks import check_class
from coresift.server.session.vector_scores import VectorsAsked, VectorScores
from coresift.v1 import selection_pb2 as pb

CHUNK_BYTES = 512 * 1024
"""Of a streamed message: large enough to be fast, small enough to be fair."""


class ModelCalls:
    """Predict, ScoreVectors, SearchPool and GetHead."""

    services: Services

    async def _model(self, session_id: str) -> Model:
        session_id = checks.own_name("session_id", session_id)
        return await self.services.on(session_id, self.services.modelling.model)

    async def Predict(
        self, request: pb.PredictRequest, context: object
    ) -> AsyncIterator[pb.PredictResponse]:
        target = request.WhichOneof("target")
        if target is None:
            raise invalid("target", "is required: items, vectors or top")
        if target == "top":
            self.services.sessions.scans.check()  # before it costs more
        model = await self._model(request.session_id)
        pool, modelling = model.live.pool, self.services.modelling
        per_message = max(1, CHUNK_BYTES // (4 * len(model.classes) + 32))
        if target == "vectors":
            vectors = checks.vectors(pool, "vectors", request.vectors)
            for start in range(0, len(vectors), per_message):
                some = vectors[start : start + per_message]
                yield _prediction(model, None, await modelling.probabilities(model, some))
            return
        if target == "items":
            ids = request.items.item_ids
            checks.count("items.item_ids", len(ids), checks.MAX_VECTORS)
            rows = checks.rows(pool, "items.item_ids[{}]", ids)
        else:
            most = min(checks.MAX_TOP, pool.manifest.items)
            checks.count("top.count", request.top.count, checks.MAX_TOP)
            column = _column(model, request.top.class_name)
            rows = await modelling.top_of_pool(model, column, min(request.top.count, most))
        for start in range(0, len(rows), per_message):
            part = rows[start : start + per_message]
            yield _prediction(model, part, await modelling.probabilities_of(model, part))

    async def ScoreVectors(
        self, request: pb.ScoreVectorsRequest, context: object
    ) -> pb.ScoreVectorsResponse:
        session_id = checks.own_name("session_id", request.session_id)
        checks.count("best_of", request.best_of, checks.MAX_VECTORS, least=0)

        async def score(live: LiveSession) -> pb.ScoreVectorsResponse:
            raw = checks.raw_vectors(live.pool, "vectors", request.vectors)
            asked = VectorsAsked(
                vectors=live.pool.normalise(raw, field="vectors"),
                norms=np.linalg.norm(raw.astype(np.float64), axis=1),
                novelty=request.include_novelty,
                best_of=request.best_of,
                gradients=request.include_gradients,
            )
            return _vector_scores(await self.services.vectors.score(live, asked))

        return await self.services.on(session_id, score)

    async def SearchPool(
        self, request: pb.SearchPoolRequest, context: object
    ) -> pb.SearchPoolResponse:
        pool = self.services.pools.find(request.pool, request.pool_version)
        checks.count("count", request.count, checks.MAX_BATCH)
        query = request.WhichOneof("query")
        if query is None:
            raise invalid("query", "is required: item_id or vector")
        asked: npt.NDArray[np.float32] | int
        if query == "item_id":
            asked = int(checks.rows(pool, "item_id", [request.item_id])[0])
        else:
            asked = checks.vectors(pool, "vector", request.vector, most=1)
        rows, similarity = await self.services.modelling.search(pool, asked, request.count)
        metadata = pool.metadata(rows) if request.include_metadata else [{}] * len(rows)
        return pb.SearchPoolResponse(
            basis=encode.pool_basis(pool),
            neighbours=[
                pb.Neighbour(item_id=item_id, similarity=value, metadata=columns)
                for item_id, value, columns in zip(
                    pool.ids.ids_of(rows), similarity.tolist(), metadata, strict=True
                )
            ],
        )

    async def GetHead(self, request: pb.GetHeadRequest, context: object) -> pb.GetHeadResponse:
        model = await self._model(request.session_id)
        head = model.head
        return pb.GetHeadResponse(
            basis=encode.model_basis(model),
            classes=model.classes,
            unfitted_classes=model.state.unfitted_classes,
            dimension=head.weights.shape[1],
            weights=head.weights.astype("<f8").tobytes(),
            bias=head.bias.astype("<f8").tobytes(),
        )


def _column(model: Model, class_name: str) -> int:
    if not class_name and len(model.classes) == 1:
        return 0
    check_class("top.class_name", class_name, model.classes)
    return model.classes.index(class_name)


def _vector_scores(found: VectorScores) -> pb.ScoreVectorsResponse:
    answer = pb.ScoreVectorsResponse(
        basis=encode.model_basis(found.model),
        scores=found.scores.astype("<f8").tobytes(),
        classes=found.model.classes,
        probabilities=found.probabilities.astype("<f4").tobytes(),
        strategy=found.model.state.snapshot.config.strategy,
    )
    if found.labelled_similarity is not None and found.pool_similarity is not None:
        answer.labelled_similarity = found.labelled_similarity.astype("<f8").tobytes()
        answer.pool_similarity = found.pool_similarity.astype("<f8").tobytes()
    if found.in_best is not None:
        answer.in_best = found.in_best.astype(np.uint8).tobytes()
    if found.gradients is not None:
        answer.gradients = found.gradients.astype("<f4").tobytes()
    return answer


def _prediction(
    model: Model, rows: npt.NDArray[np.int32] | None, probabilities: npt.NDArray[np.float32]
) -> pb.PredictResponse:
    item_ids = None if rows is None else encode.item_column(model.live.pool, rows)
    return pb.PredictResponse(
        basis=encode.model_basis(model),
        classes=model.classes,
        count=len(probabilities),
        item_ids=item_ids,
        probabilities=probabilities.astype("<f4").tobytes(),
    )
