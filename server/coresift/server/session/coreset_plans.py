"""Core-set jobs before they run: what was asked, checked and resolved."""

from __future__ import annotations

import time
from dataclasses import fields, replace

import psutil

from coresift.server.coreset.measures import WORK as MEASURE_FLOPS
from coresift.server.coreset.problem import Cost, Method, Needs, Rater, Setting
from coresift.server.coreset.select import Recipe
from coresift.server.errors import CoresiftError, Reason, invalid
from coresift.server.head import Task
from coresift.server.pool.parallel import CORES
from coresift.server.pool.pool import Pool
from coresift.server.selection.parameters import Value
from coresift.server.session.coreset_inputs import start_rows, target_vectors
from coresift.server.session.coreset_orders import (
    DEFAULT_SAMPLER,
    JobSpec,
    Ordered,
    Pinned,
    recipe_of,
)
from coresift.server.session.pools import Pools
from coresift.server.session.sessions import LiveSessions
from coresift.server.session.signal_uploads import SignalKind, bad_signal
from coresift.server.session.signals import Signal, Signals
from coresift.server.session.snapshot import HeadState, head_of
from coresift.server.session.workers import Workers

BYTES_PER_SECOND = 4e9
"""Of a pass over a pool, for estimates: what one memory channel sustains."""
FLOPS_PER_SECOND = 5e10 * CORES
"""Of products, for estimates: half of what a quiet core sustains."""
START_S = 0.05
"""Of any job: the way through the store, and the file."""
RESULT_BYTES = 192
"""Of an item of the result on its way to the file: its id, three numbers, three times."""


class Planner:
    """Resolves what was asked into a plan."""

    def __init__(
        self, pools: Pools, sessions: LiveSessions, signals: Signals, workers: Workers
    ) -> None:
        """``workers`` are not those of the jobs: a plan waits for no selection."""
        self._pools, self._sessions, self._signals = pools, sessions, signals
        self._workers = workers

    async def plan(self, ordered: Ordered) -> JobSpec:
        """A new job, on the newest labels and pool version.

        Raises:
            CoresiftError: UNKNOWN_METHOD, INVALID_FIELD, POOL_NOT_FOUND, SESSION_NOT_FOUND,
                ITEM_NOT_FOUND, INVALID_VECTOR, HEAD_NOT_FITTED, SIGNAL_NOT_FOUND, INVALID_SIGNAL,
                TOO_LARGE.
        """
        recipe = recipe_of(ordered)
        needs = recipe.method.needs()
        _check_meaning(ordered, needs)
        needs_head = needs.head or ordered.predicted_classes
        pool, state = await self._source(ordered, needs_head)
        signals = await self._pinned(ordered, needs, pool)
        setting = await self._workers.run(lambda: _setting(ordered, pool, state, signals, needs))
        cost = _cost(ordered, recipe, setting)
        _check_room(ordered.method, cost.held)
        snapshot = None if state is None else state.snapshot
        sampler = recipe.sampler
        return JobSpec(
            job_id=ordered.request.request_id,
            digest=ordered.request.digest,
            pool=pool.manifest.name,
            pool_version=pool.manifest.version,
            method=ordered.method,
            params=_values(recipe.method),
            sampler="" if sampler is None else ordered.sampler or DEFAULT_SAMPLER,
            sampler_params={} if sampler is None else _values(sampler),
            notes=tuple(_notes(ordered, recipe)),
            budget=ordered.budget,
            seed=ordered.seed,
            grace_s=ordered.grace_s,
            config_version=0 if snapshot is None else snapshot.config_version,
            revision=0 if snapshot is None else snapshot.revision,
            head_version=state.version if state is not None and needs_head else "",
            signals=signals,
            items=pool.manifest.items,
            expected_s=_seconds(cost, pool),
            expected_bytes=int(cost.held),
        )

    async def _source(self, ordered: Ordered, needs_head: bool) -> tuple[Pool, HeadState | None]:
        if not ordered.session_id:
            if needs_head:
                what = "predicted_classes" if ordered.predicted_classes else ordered.method
                raise invalid("session_id", f"is required: {what} needs a session's head")
            if ordered.start_from_labels:
                raise invalid("session_id", "is required: start_from_labels needs its labels")
            return self._pools.find(ordered.pool), None
        live = await self._sessions.open(ordered.session_id)
        state = await live.fitted(time.monotonic())
        if needs_head and head_of(state).task is Task.MULTILABEL and ordered.predicted_classes:
            raise invalid("predicted_classes", "do not exist for multilabel: an item has several")
        return live.pool, state

    async def _pinned(self, ordered: Ordered, needs: Needs, pool: Pool) -> tuple[Pinned, ...]:
        """The signals that the job reads, as they are now."""
        pinned = [_pin(await self._signal(pool, name, "params.signal")) for name in needs.signals]
        if ordered.class_signal:
            signal = await self._signal(pool, ordered.class_signal, "class_signal")
            if signal.kind != SignalKind.CLASS:
                raise bad_signal("class_signal", f"signal {signal.name!r} does not hold classes")
            pinned.append(_pin(signal))
        return tuple(dict.fromkeys(pinned))

    async def _signal(self, pool: Pool, name: str, field: str) -> Signal:
        manifest = pool.manifest
        return await self._signals.of_version(manifest.name, manifest.version, name, field)


def _pin(signal: Signal) -> Pinned:
    return Pinned(
        signal.name, signal.content_hash, SignalKind(signal.kind).name.lower(), signal.columns
    )


def _check_meaning(ordered: Ordered, needs: Needs) -> None:
    """Refuse what is missing, and what would silently play no part."""
    given = bool(ordered.class_signal or ordered.predicted_classes)
    asked = needs.classes or needs.true_classes or ordered.class_budgets is not None
    if asked and not given:
        what = "class_budgets" if ordered.class_budgets is not None else ordered.method
        raise invalid("class_signal", f"is required: {what} needs the classes of the pool's items")
    if needs.true_classes and ordered.predicted_classes:
        raise invalid("predicted_classes", f"mean nothing to {ordered.method}: give a class_signal")
    starts = bool(ordered.start_item_ids) or ordered.start_from_labels
    if starts and not needs.start:
        field = "start_item_ids" if ordered.start_item_ids else "start_from_labels"
        raise invalid(field, f"has no meaning for {ordered.method}")
    if ordered.query and not needs.query:
        raise invalid("query", f"has no meaning for {ordered.method}")
    if ordered.avoid and not needs.query:
        raise invalid("avoid", f"has no meaning for {ordered.method}")
    if needs.query and not ordered.query:
        raise invalid("query", f"is required: {ordered.method} selects what is like it")
    if needs.budget and ordered.budget is None:
        raise invalid("budget", "is required")
    if not needs.budget and ordered.budget is not None:
        raise invalid("budget", f"contradicts the parameters of {ordered.method}: they decide it")
    _check_class_budgets(ordered)


def _check_class_budgets(ordered: Ordered) -> None:
    given = ordered.class_budgets
    if given is None:
        return
    if ordered.budget is None:
        raise invalid("class_budgets", "need a budget to divide")
    total = sum(count for _, count in given.counts)
    if given.rule == "counts" and total != ordered.budget:
        raise invalid("class_budgets.counts", f"add up to {total}, the budget is {ordered.budget}")


def _setting(
    ordered: Ordered,
    pool: Pool,
    state: HeadState | None,
    signals: tuple[Pinned, ...],
    needs: Needs,
) -> Setting:
    labelled = state.snapshot.labelled() if state and ordered.start_from_labels else None
    start = start_rows(pool, ordered.start_item_ids, labelled)
    n = pool.manifest.items - len(start)
    if not n:
        raise invalid("start_item_ids", "and the labelled items cover the pool: nothing is left")
    if ordered.budget is not None and not 1 <= ordered.budget <= n:
        raise invalid("budget", f"must be 1..{n}, got {ordered.budget}")
    targets = 0
    for field, given in (("query", ordered.query), ("avoid", ordered.avoid)):
        if given:
            targets += len(target_vectors(pool, given, field))
    return Setting(
        n=n,
        dimension=pool.manifest.dimension,
        budget=n if ordered.budget is None else ordered.budget,
        task=state.head.task if needs.head and state is not None and state.head else None,
        classes=len(state.snapshot.config.classes) if state is not None else 0,
        unit=pool.manifest.metric == "cosine",
        neighbours=pool.manifest.neighbours,
        columns={signal.name: (signal.kind, signal.columns) for signal in signals},
        targets=targets,
    )


def _notes(ordered: Ordered, recipe: Recipe) -> list[str]:
    notes = []
    if isinstance(recipe.method, Rater):
        notes.append(f"a higher score means {recipe.method.higher}")
    if ordered.predicted_classes:
        notes.append("classes are those that the session's head predicts")
    elif ordered.class_signal:
        notes.append(f"classes come from the signal {ordered.class_signal}")
    return notes


def _cost(ordered: Ordered, recipe: Recipe, setting: Setting) -> Cost:
    """What method and sampler take, the signals they read, the measures and the result.

    INVALID_FIELD for a method or sampler that cannot serve.
    """
    parts: dict[str, Method] = {"method": recipe.method}
    if recipe.sampler is not None:
        parts["sampler"] = recipe.sampler
    total = Cost(min(MEASURE_FLOPS, 2.0 * setting.n * setting.dimension * setting.budget))
    for field, part in parts.items():
        if (objection := part.objection(setting)) is not None:
            raise invalid(field, f"{getattr(ordered, field) or DEFAULT_SAMPLER!r} {objection}")
        total += part.cost(setting)
    columns = sum(len(names) for _, names in setting.columns.values())
    # A signal as its file and as its columns; of the result the table, the file and its bytes.
    held = 8.0 * setting.n * columns + RESULT_BYTES * setting.budget
    return replace(total, held=total.held + held)


def _seconds(cost: Cost, pool: Pool) -> float:
    products = cost.flops / FLOPS_PER_SECOND
    return START_S + products + cost.passes * pool.nbytes() / BYTES_PER_SECOND


def _values(part: Method) -> dict[str, Value]:
    """Every parameter with its value."""
    return {own.name: getattr(part, own.name) for own in fields(part)}  # type: ignore[arg-type]


def _check_room(method: str, needed: float) -> None:
    available = psutil.virtual_memory().available
    if needed > available:
        raise CoresiftError(
            Reason.TOO_LARGE,
            f"{method} needs {needed / 1e9:.1f} GB, {available / 1e9:.1f} GB are free",
            needed_bytes=f"{needed:.0f}",
        )
