"""A service worth attacking: sessions of every task with labels and leases, signals, a core-set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from google.protobuf import struct_pb2
from tests.fault.fuzz.messages import Known
from tests.fixtures.servers import KINDS, ServedPool, is_spam, kind_of

from coresift.client import Classes, Client, Task
from coresift.v1 import selection_pb2 as pb

STRATEGIES = (
    "max_entropy", "margin", "least_confidence", "most_likely_positive", "random", "density",
    "information_density", "bald", "epig", "direct", "k_center", "typiclust", "probcover", "signal",
    "ens", "mix", "facility_location", "herding", "semdedup", "top", "ccs", "d2",
)  # fmt: skip


def build(target: str, pool: ServedPool, folder: Path) -> Known:
    """Make the sessions; returns what exists."""
    with Client(target) as client:
        client.put_signals(pool.name, "sizes", pool.item_ids, np.arange(600.0))
        for name, task in (("b", Task.BINARY), ("c", Task.MULTICLASS), ("l", Task.MULTILABEL)):
            classes = () if task is Task.BINARY else KINDS
            client.create_session(pool.name, task, classes, session_id=name, votes_per_item=2)
            for n in range(24):
                item = f"item-{n}"
                label = {
                    Task.BINARY: is_spam(item),
                    Task.MULTICLASS: kind_of(item),
                    Task.MULTILABEL: Classes([kind_of(item)], [KINDS[(n + 1) % 3]]),
                }[task]
                client.add_labels(name, {item: label}, "ann")
        batch = client.next_batch("b", "bob", 5)
        token = batch.picks[0].lease_token
    vector = pool.vectors[0].astype("<f4").tobytes()
    return Known(_texts(pool), _messages(pool), [vector, vector * 3, token])


def _texts(pool: ServedPool) -> dict[str, list[str]]:
    items, sessions = pool.item_ids[:40], ["b", "c", "l"]
    return {
        "session_id": sessions,
        "request_id": ["same", "again"],
        "pool": [pool.name],
        "item_id": items,
        "item_ids": items,
        "start_item_ids": items,
        "annotator": ["ann", "bob", "cyd"],
        "classes": list(KINDS),
        "class_name": [*KINDS, "positive", "negative"],
        "present": list(KINDS),
        "absent": list(KINDS),
        "name": [*STRATEGIES, pool.name, "sizes"],
        "method": list(STRATEGIES),
        "paths": ["strategy", "head", "votes_per_item", "label_budget", "batch", "seed", "pool"],
        "signal": ["sizes"],
        "params": ["column", "name", "k", "of", "start", "temperature", "share"],
    }


def _messages(pool: ServedPool) -> dict[str, list]:  # type: ignore[type-arg]
    """Requests that are right, of which one field is then forged."""
    config = pb.SessionConfig(pool=pool.name, task=pb.TASK_BINARY, strategy={"name": "margin"})
    labels = [pb.Label(item_id="item-3", class_name="positive")]
    params = struct_pb2.Struct()
    params["k"] = 5
    made = [
        config,
        pb.Strategy(name="max_entropy"),
        pb.CreateSessionRequest(request_id="fresh", config=config),
        pb.UpdateSessionRequest(
            request_id="u", session_id="b", update_mask={"paths": ["votes_per_item"]}, config=config
        ),
        pb.NextBatchRequest(request_id="n", session_id="b", annotator="ann", size=3),
        pb.AddLabelsRequest(request_id="a", session_id="b", annotator="ann", labels=labels),
        pb.RenewLeasesRequest(request_id="w", session_id="b", annotator="bob"),
        pb.ReleaseLeasesRequest(
            request_id="e", session_id="b", annotator="bob", item_ids=["item-50"], reason=1
        ),
        pb.PredictRequest(session_id="c", items={"item_ids": ["item-5"]}),
        pb.SearchPoolRequest(pool=pool.name, item_id="item-5", count=4),
        pb.ScoreCoresetRequest(request_id="s", pool=pool.name, method="random", budget=10),
        pb.ListLabelsRequest(session_id="b"),
        pb.GetItemsRequest(pool=pool.name, item_ids=["item-1", "nothing"]),
    ]
    return {message.DESCRIPTOR.full_name: [message] for message in made}
