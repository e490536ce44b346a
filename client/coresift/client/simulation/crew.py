"""Campaigns side by side, with a bar on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from coresift.client.client import Client
from coresift.client.errors import CoresiftError
from coresift.client.simulation.campaign import Plan, Run, full_supervision, oracle, run
from coresift.client.simulation.dataset import Dataset
from coresift.client.simulation.methods import Method
from coresift.client.simulation.protocol import Concept
from coresift.client.simulation.results import Results

T = TypeVar("T")


@dataclass(frozen=True)
class Crew:
    """Runs campaigns on a served pool, ``jobs`` at a time, and keeps what is done."""

    client: Client
    data: Dataset
    pool: str
    results: Results
    jobs: int

    def check(self, methods: Sequence[Method]) -> None:
        """Refuse methods that the service refuses, before hours are spent on others."""
        for method in methods:
            try:
                with oracle(self.client, self.data, self.pool, 0, {}, method=method, seed=0):
                    pass
            except CoresiftError as error:
                error.add_note(f"method {method.name}")
                raise

    def campaigns(self, plans: Sequence[Plan]) -> list[Run]:
        """The run of each plan; those that are done are not run again."""
        place = {item_id: position for position, item_id in enumerate(self.data.item_ids)}
        done = [self.results.run(plan) for plan in plans]
        with _bar() as bar, ThreadPoolExecutor(self.jobs) as workers:
            labels = bar.add_task("labels", total=sum(plan.budget for plan in plans))
            bar.advance(labels, sum(found.plan.budget for found in done if found))

            def work(plan: Plan) -> Run:
                found = run(
                    self.client,
                    self.data,
                    self.pool,
                    place,
                    plan,
                    on_labels=lambda n: bar.advance(labels, n),
                )
                self.results.add(found)
                return found

            missing = [plan for plan, found in zip(plans, done, strict=True) if found is None]
            fresh = iter(_all([workers.submit(work, plan) for plan in missing], workers))
        return [found or next(fresh) for found in done]

    def full_supervision(self, concepts: Sequence[Concept]) -> dict[str, float]:
        """Average precision of the head fitted on all labels of the pool, by concept."""
        place = {item_id: position for position, item_id in enumerate(self.data.item_ids)}
        with _bar() as bar, ThreadPoolExecutor(self.jobs) as workers:
            task = bar.add_task("full supervision", total=len(concepts))

            def work(concept: Concept) -> float:
                ap = self.results.full(concept.name)
                if ap is None:
                    ap = full_supervision(self.client, self.data, self.pool, place, concept)
                    self.results.add_full(concept.name, ap)
                bar.advance(task)
                return ap

            found = _all([workers.submit(work, concept) for concept in concepts], workers)
        return {concept.name: ap for concept, ap in zip(concepts, found, strict=True)}


def _all(futures: list[Future[T]], workers: ThreadPoolExecutor) -> list[T]:
    """Their results; the first failure, or a key pressed, drops what has not begun."""
    try:
        for future in as_completed(futures):
            future.result()
    except BaseException:
        workers.shutdown(wait=False, cancel_futures=True)
        raise
    return [future.result() for future in futures]


def _bar() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))
