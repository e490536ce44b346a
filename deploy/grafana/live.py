"""A few minutes of labeling on two servers, with faults, for the pictures of the dashboards."""

from __future__ import annotations

import gzip
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tests.fixtures import traffic
from tests.fixtures.prometheus import Prometheus
from tests.fixtures.servers import Pools, _growing, _large, _things
from tests.fixtures.site import Site, a_site

from coresift.client import UNSURE, Client, CoresiftError, Label, ReleaseReason, Session
from coresift.server.pool.builder import BuildOptions, build_pool
from coresift.server.pool.input_files import InputFiles

DATA = Path(__file__).parents[2] / "tests" / "data" / "clinc150"
POOL = "clinc150"
CONCEPTS = (12, 37, 80, 101, 140)
"""Classes of the data, each a rare concept of its own session: 0.6 % of the items."""
ANNOTATORS = 6
ITEM_S = 0.15
"""An annotator looks at an item for so long, on average: people are slower, days are longer."""
BATCH = 8
LEASE_S = 12.0


class Truth:
    """What the items of the data are."""

    def __init__(self) -> None:
        with gzip.open(DATA / "ids.txt.gz", "rt") as lines:
            self.item_ids = [line.strip() for line in lines]
        labels: npt.NDArray[np.int32] = np.load(DATA / "labels.npy")
        self._classes = dict(zip(self.item_ids, labels.tolist(), strict=True))

    def is_of(self, item_id: str, concept: int) -> bool:
        return bool(self._classes[item_id] == concept)

    def some_of(self, concept: int, count: int) -> list[str]:
        return [item for item in self.item_ids if self.is_of(item, concept)][:count]


class Annotator:
    """Labels batch after batch, as people do: now and then unsure, wrong, or away."""

    def __init__(self, name: str, client: Client, sessions: Sequence[Session], truth: Truth):
        self._name, self._client, self._sessions, self._truth = name, client, sessions, truth
        self._known: dict[str, int] = {}
        """The newest revision that it was told, by session."""
        self._random = random.Random(name)  # noqa: S311 - a simulation

    def work(self, ended: threading.Event) -> None:
        """Until it is over; what fails is tried again with the next batch."""
        while not ended.is_set():
            number = self._random.randrange(len(self._sessions))
            try:
                self._batch(self._sessions[number], CONCEPTS[number], ended)
            except CoresiftError:
                ended.wait(0.5)

    def _batch(self, session: Session, concept: int, ended: threading.Event) -> None:
        chance = self._random.random()
        known = self._known.get(session.session_id, 0)
        batch = self._client.next_batch(
            session,
            self._name,
            BATCH,
            lease_duration=LEASE_S,
            min_revision=max(0, known - 5) if chance > 0.7 else None,
        )
        ended.wait(self._random.expovariate(1 / (ITEM_S * BATCH)))
        if chance < 0.06:
            return  # a closed tab: the leases run out
        items = list(batch.item_ids)
        if chance < 0.2:
            self._client.renew_leases(session, self._name)
            ended.wait(ITEM_S * BATCH)
        elif chance < 0.4:
            self._client.release_leases(session, self._name, items[:1], ReleaseReason.SKIP)
            items = items[1:]
        labels = [self._label(item, concept) for item in items]
        result = self._client.add_labels(session, labels, self._name, batch=batch)
        self._known[session.session_id] = result.revision
        if chance > 0.9 and items:  # second thoughts
            opposite = "negative" if self._truth.is_of(items[0], concept) else "positive"
            self._client.add_labels(session, {items[0]: opposite}, self._name)
            self._client.add_labels(session, labels[:1], self._name)
        if chance > 0.7:
            self._client.progress(session)

    def _label(self, item: str, concept: int) -> Label:
        if self._random.random() < 0.03:
            return Label(item, UNSURE)
        return Label(item, "positive" if self._truth.is_of(item, concept) else "negative")


def _pool(folder: Path) -> Path:
    """The real data as a pool."""
    folder.mkdir()
    (folder / "ids.txt").write_bytes(gzip.decompress((DATA / "ids.txt.gz").read_bytes()))
    files = InputFiles(DATA / "embeddings.npy", folder / "ids.txt")
    build_pool(BuildOptions(files, folder / "pool", name=POOL))
    return folder / "pool"


def _events(site: Site, pools: Pools, seen: Callable[[], None]) -> list[Callable[[], object]]:
    """What else happens, one after the other."""
    first, second = site.clients
    return [
        lambda: traffic.every_outcome(second),
        lambda: traffic.jobs_end(site, seen),
        lambda: traffic.calls_are_refused(site, seen),
        lambda: traffic.files_change(site, pools),
        lambda: traffic.leases_expire(second),
        lambda: traffic.a_replica_lags(site, seen),
        lambda: traffic.redis_goes_away(site, seen),
        lambda: traffic.a_log_is_rewound(site),
        lambda: traffic.older_heads_choose(first),
    ]


@contextmanager
def a_live_run(folder: Path, minutes: float) -> Iterator[tuple[Prometheus, float, float]]:
    """The Prometheus that saw it, and from when to when (seconds)."""
    truth = Truth()
    growing, grown = _growing(folder / "growing")
    pools = Pools(_things(folder / "things"), growing, grown, _large(folder / "large"))
    served = [_pool(folder / "clinc150"), pools.things.directory, pools.large.directory]
    with (
        a_site(folder / "site", served, [growing.directory]) as site,
        Prometheus(folder / "prometheus", site.targets) as prometheus,
        Client(site.both, token=site.token) as client,
    ):
        sessions = [client.create_session(POOL) for _ in CONCEPTS]
        for session, concept in zip(sessions, CONCEPTS, strict=True):
            found = dict.fromkeys(truth.some_of(concept, 2), "positive")
            client.add_labels(session, found, "search")
        prometheus.until_scraped(2)
        began, ended = time.time(), threading.Event()
        with ThreadPoolExecutor(ANNOTATORS) as threads:
            crew = [
                threads.submit(Annotator(f"annotator {n}", client, sessions, truth).work, ended)
                for n in range(ANNOTATORS)
            ]
            try:
                events = _events(site, pools, prometheus.until_scraped)
                for number, event in enumerate(events, 1):
                    due = began + 60 * minutes * number / (len(events) + 1)
                    ended.wait(max(0.0, due - time.time()))
                    event()
                ended.wait(max(0.0, began + 60 * minutes - time.time()))
            finally:
                ended.set()
        for person in crew:
            person.result()
        yield prometheus, began, time.time()
