"""Answers of the service, decoded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import Message
from tests.unit.client.driver import Driver

from coresift.client import (
    AnnotatorAgreement,
    Classes,
    Estimate,
    ItemConsensus,
    PickReason,
    Purpose,
    RandomSample,
    StopAdvice,
    ValidationScore,
)
from coresift.client.calls import consensus, leases, model
from coresift.client.calls.progress import progress_of
from coresift.v1 import selection_pb2 as pb


def fixed(reply: Message) -> Callable[[str, Any], Message]:
    return lambda _name, _request: reply


def test_progress_with_everything() -> None:
    found = progress_of(
        pb.GetSessionProgressResponse(
            pool_items=9,
            eligible_items=7,
            labels_per_hour=2.5,
            stop_advice=pb.STOP_ADVICE_RECALL_REACHED,
            stop_reason="certified",
            head_agreement=[0.9, 1.0],
            validation=pb.ValidationScore(
                items=4,
                accuracy=0.0,
                accuracy_low=0.0,
                accuracy_high=0.6,
                average_precision=0.5,
                average_precision_low=0.25,
                average_precision_high=0.75,
            ),
            random_sample=pb.RandomSample(
                class_name="c",
                items=5,
                positives=0,
                confidence=0.9,
                prevalence=0.0,
                prevalence_low=0.0,
                prevalence_high=0.5,
                recall=0.0,
                recall_low=0.0,
                lift=0.0,
                labels_needed=0,
            ),
        )
    )
    assert (found.pool_items, found.eligible_items, found.labels_per_hour) == (9, 7, 2.5)
    assert (found.stop_advice, found.stop_reason) == (StopAdvice.RECALL_REACHED, "certified")
    assert found.head_agreement == (0.9, 1.0)
    # Zeros that were sent are zeros, not "absent".
    assert found.validation == ValidationScore(4, Estimate(0, 0, 0.6), Estimate(0.5, 0.25, 0.75))
    sample = RandomSample("c", 5, 0, 0.9, Estimate(0, 0, 0.5), 0.0, 0.0, 0.0, 0)
    assert found.random_sample == sample


def test_progress_with_nothing() -> None:
    found = progress_of(pb.GetSessionProgressResponse())
    assert (found.validation, found.random_sample, found.head_agreement) == (None, None, ())
    assert found.stop_advice is StopAdvice.UNKNOWN
    bare = pb.GetSessionProgressResponse(
        validation=pb.ValidationScore(items=1), random_sample=pb.RandomSample(class_name="c")
    )
    found = progress_of(bare)
    assert found.validation == ValidationScore(1, None, None)
    assert found.random_sample == RandomSample("c", 0, 0, 0.0, None, None, 0.0, None, None)


def test_a_review_batch() -> None:
    reply = pb.NextBatchResponse(
        picks=[pb.Pick(item_id="a", reason=pb.PICK_REASON_REVIEW)],
        strategy="probcover",
        details={"radius": 0.5},
    )
    driver = Driver(fixed(reply))
    batch = driver.run(leases.next_batch("s", "ann", purpose="review"))
    assert driver.sent[0].request.purpose == pb.PURPOSE_REVIEW  # type: ignore[union-attr]
    assert batch[0].reason is PickReason.REVIEW
    assert (batch.strategy, batch.details) == ("probcover", {"radius": 0.5})
    driver.run(leases.next_batch("s", "ann", purpose=Purpose.NEW))
    assert driver.sent[1].request.purpose == pb.PURPOSE_NEW  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="Purpose must be one of new, review"):
        driver.run(leases.next_batch("s", "ann", purpose="second"))


def test_consensus() -> None:
    pages = {
        "": (["a", "b"], "more"),
        "more": (["c"], ""),
    }
    values: dict[str, dict[str, Any]] = {
        "a": {"class_name": "cat", "agreement": 0.75, "votes": 4, "is_conflict": True},
        "b": {"votes": 1, "unsure_votes": 1},
        "c": {"classes": pb.MultilabelValue(present=["x"], absent=["y"]), "votes": 2},
    }

    def answer(_name: str, request: Any) -> Message:
        ids, following = pages[request.page_token]
        return pb.ListConsensusResponse(
            items=[pb.ItemConsensus(item_id=item_id, **values[item_id]) for item_id in ids],
            annotators=[
                pb.AnnotatorAgreement(
                    annotator="ann", votes=5, unsure_votes=1, compared=4, agreed=3
                )
            ],
            next_page_token=following,
        )

    driver = Driver(answer)
    driver.run(consensus.list_consensus("s", only_conflicts=True, page_size=2))
    assert driver.emitted == [
        ItemConsensus("a", 4, 0, "cat", 0.75, True),
        ItemConsensus("b", 1, 1, None, 0.0, False),
        ItemConsensus("c", 2, 0, Classes(("x",), ("y",)), 0.0, False),
    ]
    sent: list[Any] = [send.request for send in driver.sent]
    assert [(r.only_conflicts, r.page_size, r.page_token) for r in sent] == [
        (True, 2, ""),
        (True, 2, "more"),
    ]
    found = Driver(answer).run(consensus.annotator_agreement("s"))
    assert found == [AnnotatorAgreement("ann", 5, 1, 4, 3)]


def score(_name: str, request: Any) -> Message:
    X = np.frombuffer(request.vectors.data, "<f4").reshape(-1, request.vectors.dimension)
    reply = pb.ScoreVectorsResponse(
        scores=X[:, 0].astype("<f8").tobytes(),
        classes=["positive"],
        probabilities=X[:, 1].tobytes(),
        strategy="bald",
    )
    if request.include_novelty:
        reply.labelled_similarity = np.full(len(X), np.nan).tobytes()
        reply.pool_similarity = X[:, 1].astype("<f8").tobytes()
    if request.best_of:
        reply.in_best = (X[:, 0] > 0.5).astype(np.uint8).tobytes()
    if request.include_gradients:
        reply.gradients = (2 * X).tobytes()
    return reply


def test_scores_of_vectors_with_everything() -> None:
    X = np.random.default_rng(0).random((10, 2), dtype=np.float32)
    found = Driver(score).run(model.score_vectors("s", X, novelty=True, best_of=3, gradients=True))
    assert found.strategy == "bald"
    assert np.isnan(found.labelled_similarity).all()
    np.testing.assert_array_equal(found.pool_similarity, X[:, 1])
    np.testing.assert_array_equal(found.in_best, X[:, 0] > 0.5)
    np.testing.assert_array_equal(found.gradients, 2 * X)
    assert found.in_best.dtype == bool
    assert found.gradients.dtype == np.float32


def test_scores_of_many_vectors() -> None:
    X = np.random.default_rng(0).random((10_001, 2), dtype=np.float32)
    driver = Driver(score)
    found = driver.run(model.score_vectors("s", X, gradients=True))
    assert len(driver.sent) == 2
    np.testing.assert_array_equal(found.scores, X[:, 0])
    np.testing.assert_array_equal(found.gradients, 2 * X)
    assert (found.labelled_similarity, found.pool_similarity, found.in_best) == (None, None, None)
    with pytest.raises(ValueError, match="best_of compares the vectors of one call"):
        driver.run(model.score_vectors("s", X, best_of=3))
    assert len(driver.sent) == 2
