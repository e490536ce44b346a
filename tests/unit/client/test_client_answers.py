"""Answers of the service, decoded."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import Message
from tests.unit.client.driver import Driver

from coresift.client import (
    AnnotatorAgreement,
    Classes,
    CoresetMethod,
    CoresetProgress,
    Estimate,
    ItemConsensus,
    PickReason,
    Purpose,
    RandomSample,
    Sampler,
    StopAdvice,
    ValidationScore,
)
from coresift.client.calls import consensus, coreset, leases, model
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


def chunk(item_id: str, rank: int, *, whole: bool) -> pb.CoresetChunk:
    column = pb.StringColumn(
        data=item_id.encode(), offsets=np.array([0, len(item_id)], "<i4").tobytes()
    )
    number = np.array([rank], "<f8").tobytes()
    return pb.CoresetChunk(
        item_ids=column,
        ranks=np.array([rank], "<u4").tobytes(),
        scores=number,
        weights=number if whole else b"",
        buckets=np.array([rank], "<u4").tobytes() if whole else b"",
    )


def test_a_coreset_with_everything() -> None:
    plan = pb.CoresetPlan(job_id="j", method="aum", budget=2, sampler="ccs", notes=["a", "b"])
    plan.params.update({"signal": "run", "epochs": 10, "share": 0.5, "fast": True})
    plan.sampler_params.update({"beta": 0.25})
    plan.expected_time.FromMilliseconds(1500)
    summary = pb.CoresetSummary(
        count=2,
        covering_radius=0.0,
        objective=-1.0,
        mean_max_similarity=0.5,
        measured_items=9,
        class_counts={7: 1, 3: 1},
        details={"threshold": 0.9},
        content_hash="h",
    )
    summary.durations["select"].FromMilliseconds(250)
    parts = [
        pb.ScoreCoresetResponse(plan=plan),
        pb.ScoreCoresetResponse(
            progress=pb.CoresetProgress(phase="select", share=0.5, objective=0.0)
        ),
        pb.ScoreCoresetResponse(progress=pb.CoresetProgress(phase="store", share=1)),
        pb.ScoreCoresetResponse(chunk=chunk("x", 0, whole=True)),
        pb.ScoreCoresetResponse(chunk=chunk("yz", 1, whole=True)),
        pb.ScoreCoresetResponse(summary=summary),
    ]
    heard: list[CoresetProgress] = []
    driver = Driver(lambda _name, _request: iter(parts))
    found = driver.run(coreset.score_coreset("aum", 2, pool="p", on_progress=heard.append))
    assert found.plan.method == CoresetMethod("aum", epochs=10, fast=True, share=0.5, signal="run")
    assert isinstance(found.plan.method.params["epochs"], int)
    assert found.plan.sampler == Sampler("ccs", beta=0.25)
    assert (found.plan.budget, found.plan.notes) == (2, ("a", "b"))
    assert found.plan.expected_time == timedelta(seconds=1.5)
    assert [(p.phase, p.share, p.objective) for p in heard] == [
        ("select", 0.5, 0.0),
        ("store", 1.0, None),
    ]
    assert list(found.item_ids) == ["x", "yz"]
    assert (found.ranks.tolist(), found.scores.tolist()) == ([0, 1], [0.0, 1.0])
    assert (found.weights.tolist(), found.buckets.tolist()) == ([0.0, 1.0], [0, 1])
    assert (found.ranks.dtype, found.buckets.dtype) == (np.uint32, np.uint32)
    about = found.summary
    assert (about.covering_radius, about.objective, about.mean_max_similarity) == (0.0, -1.0, 0.5)
    assert (about.measured_items, about.details) == (9, {"threshold": 0.9})
    assert list(about.class_counts.items()) == [(3, 1), (7, 1)]
    assert about.durations == {"select": timedelta(seconds=0.25)}


def test_a_coreset_with_little() -> None:
    parts = [
        pb.ScoreCoresetResponse(plan=pb.CoresetPlan(method="semdedup")),
        pb.ScoreCoresetResponse(chunk=chunk("x", 0, whole=False)),
        pb.ScoreCoresetResponse(summary=pb.CoresetSummary(count=1)),
    ]
    driver = Driver(lambda _name, _request: iter(parts))
    found = driver.run(coreset.score_coreset("semdedup", pool="p"))
    assert (found.plan.budget, found.plan.sampler) == (None, None)
    assert (found.weights, found.buckets) == (None, None)
    about = found.summary
    assert (about.covering_radius, about.objective, about.mean_max_similarity) == (None,) * 3
    assert (about.class_counts, about.details) == ({}, {})
