"""Handlers that tell how far a session is, and what its annotators agree on."""

from __future__ import annotations

from typing import Any

import numpy as np

from coresift.server.estimates.validation import Measured
from coresift.server.rpc import checks, encode
from coresift.server.rpc.services import Services
from coresift.server.session.live.live import LiveSession
from coresift.server.session.progress.consensus import ConsensusPage
from coresift.server.session.progress.measures import Sample, Validation
from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.view.votes import ItemConsensus
from coresift.v1 import selection_pb2 as pb


class ProgressCalls:
    """GetSessionProgress and ListConsensus."""

    services: Services

    async def GetSessionProgress(
        self, request: pb.GetSessionProgressRequest, context: object
    ) -> pb.GetSessionProgressResponse:
        session_id = checks.own_name("session_id", request.session_id)
        progress = await self.services.on(session_id, self.services.progress.of)
        measures = progress.measures
        return pb.GetSessionProgressResponse(
            basis=encode.basis(
                progress.config, progress.config_version, progress.revision, progress.head_version
            ),
            pool_items=progress.pool_items,
            eligible_items=progress.eligible_items,
            labelled_items=progress.labelled_items,
            votes=progress.votes,
            unsure_votes=progress.unsure_votes,
            labels_per_hour=progress.labels_per_hour,
            live_leases=progress.live_leases,
            candidates=progress.candidates,
            considered_share=progress.considered_share,
            classes=[
                pb.ClassCount(class_name=name, positive=present, negative=absent)
                for name, present, absent in progress.classes
            ],
            unfitted_classes=progress.unfitted_classes,
            hidden_items=progress.hidden_items,
            stop_advice=pb.StopAdvice.ValueType(int(progress.advice)),
            stop_reason=progress.reason,
            validation=_validation(measures.validation),
            head_agreement=[value for value in measures.kappas if value is not None],
            random_sample=_sample(measures.sample),
        )

    async def ListConsensus(
        self, request: pb.ListConsensusRequest, context: object
    ) -> pb.ListConsensusResponse:
        session_id = checks.own_name("session_id", request.session_id)
        size = checks.page_size(request.page_size)
        key = checks.page_after("consensus", request.page_token)
        after = checks.small_number(key) if key else -1

        async def page(live: LiveSession) -> pb.ListConsensusResponse:
            found = await self.services.consensus.page(
                live, after, size, only_conflicts=request.only_conflicts
            )
            return self._consensus(found)

        return await self.services.on(session_id, page)

    def _consensus(self, page: ConsensusPage) -> pb.ListConsensusResponse:
        decisions, config = page.decisions, page.decisions.config
        pool = self.services.pools.of_session(config.pool, config.pool_version)
        rows = np.array([item.row for item in page.items], np.int32)
        item_ids = pool.ids.ids_of(rows) if len(rows) else []
        token = ""
        if page.has_more:
            token = checks.page_token("consensus", str(page.items[-1].row))
        return pb.ListConsensusResponse(
            basis=encode.basis(config, decisions.config_version, decisions.revision),
            items=[
                _item(config, item_id, item)
                for item_id, item in zip(item_ids, page.items, strict=True)
            ],
            annotators=[
                pb.AnnotatorAgreement(
                    annotator=found.annotator,
                    votes=found.votes,
                    unsure_votes=found.unsure_votes,
                    compared=found.compared,
                    agreed=found.agreed,
                )
                for found in page.annotators
            ],
            next_page_token=token,
        )


def _item(config: SessionConfig, item_id: str, item: ItemConsensus) -> pb.ItemConsensus:
    names = config.classes
    answer = pb.ItemConsensus(
        item_id=item_id,
        votes=item.votes,
        unsure_votes=item.unsure_votes,
        class_name=names[item.winner] if item.winner is not None else "",
        agreement=item.agreement,
        is_conflict=item.is_conflict,
    )
    if item.present or item.absent:
        answer.classes.present.extend(names[number] for number in item.present)
        answer.classes.absent.extend(names[number] for number in item.absent)
    return answer


def _validation(value: Validation | None) -> pb.ValidationScore | None:
    if value is None:
        return None
    return pb.ValidationScore(
        items=value.items,
        **_measured("accuracy", value.accuracy),
        **_measured("average_precision", value.average_precision),
    )


def _measured(name: str, value: Measured | None) -> dict[str, Any]:
    if value is None:
        return {}
    return {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}


def _sample(value: Sample | None) -> pb.RandomSample | None:
    if value is None:
        return None
    found = value.estimate
    return pb.RandomSample(
        class_name=value.class_name,
        items=found.sampled,
        positives=value.positives,
        confidence=value.confidence,
        prevalence=found.prevalence,
        prevalence_low=found.prevalence_low,
        prevalence_high=found.prevalence_high,
        recall=found.recall,
        recall_low=found.recall_low or 0.0,
        lift=value.lift,
        labels_needed=found.labels_needed,
    )
