"""Core-set jobs before they run: what was asked, checked and resolved."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields, replace

import numpy as np

from coresift.server.arrays import Rows
from coresift.server.artifacts import Artifacts
from coresift.server.coreset.measures import WORK as MEASURE_FLOPS
from coresift.server.coreset.problem import (
    Cost,
    Needs,
    Planned,
    Rater,
    Setting,
    SignalColumns,
)
from coresift.server.coreset.select import Recipe
from coresift.server.errors import invalid
from coresift.server.head import Task
from coresift.server.pool.parallel import CORES
from coresift.server.pool.pool import Pool
from coresift.server.selection.parameters import Value
from coresift.server.session.coresets.coreset_checks import check_counts, check_meaning
from coresift.server.session.coresets.coreset_inputs import (
    columns_of,
    not_to_choose,
    target_vectors,
)
from coresift.server.session.coresets.coreset_requests import (
    DEFAULT_SAMPLER,
    Asked,
    JobSpec,
    Pinned,
    recipe_of,
)
from coresift.server.session.live.sessions import LiveSessions
from coresift.server.session.setup.pools import Pools
from coresift.server.session.signals.signal_uploads import SignalKind, bad_signal
from coresift.server.session.signals.signals import Signal, Signals
from coresift.server.session.view.snapshot import HeadState, Snapshot, head_of
from coresift.server.session.work.workers import Workers

BYTES_PER_SECOND = 4e9
"""Of a pass over a pool, for estimates: what one memory channel sustains."""
FLOPS_PER_SECOND = 5e10 * CORES
"""Of products, for estimates: half of what a quiet core sustains."""
START_S = 0.05
"""Of any job: the way through the store, and the file."""
RESULT_BYTES = 192
"""Of an item of the result on its way to the file: its id, three numbers, three times."""


@dataclass(frozen=True, slots=True)
class _Source:
    """What a job selects from: a pool version; a session's labels; its head where it is needed."""

    pool: Pool
    snapshot: Snapshot | None = None
    state: HeadState | None = None


class Planner:
    """Resolves what was asked into a plan."""

    def __init__(
        self,
        pools: Pools,
        sessions: LiveSessions,
        signals: Signals,
        artifacts: Artifacts,
        workers: Workers,
    ) -> None:
        """``workers`` are not those of the jobs: a plan waits for no selection."""
        self._pools, self._sessions, self._signals = pools, sessions, signals
        self._artifacts, self._workers = artifacts, workers

    async def plan(self, asked: Asked) -> JobSpec:
        """A new job, on the newest labels and pool version.

        Raises:
            CoresiftError: UNKNOWN_METHOD, INVALID_FIELD, POOL_NOT_FOUND, SESSION_NOT_FOUND,
                ITEM_NOT_FOUND, INVALID_VECTOR, HEAD_NOT_FITTED, SIGNAL_NOT_FOUND, INVALID_SIGNAL,
                ARTIFACT_MISSING.
        """
        recipe = recipe_of(asked)
        needs = recipe.method.needs()
        check_meaning(asked, recipe.method)
        source = await self._source(asked, needs.head or asked.predicted_classes)
        signals = await self._pinned(asked, needs, source.pool)
        setting = await self._workers.run(lambda: self._setting(asked, needs, source, signals))
        check_counts(asked, setting.class_sizes)
        cost = _cost(recipe, setting)
        pool, snapshot, state = source.pool, source.snapshot, source.state
        sampler = recipe.sampler
        return JobSpec(
            job_id=asked.request.request_id,
            digest=asked.request.digest,
            pool=pool.manifest.name,
            pool_version=pool.manifest.version,
            method=asked.method,
            params=_values(recipe.method),
            sampler="" if sampler is None else asked.sampler or DEFAULT_SAMPLER,
            sampler_params={} if sampler is None else _values(sampler),
            notes=tuple(_notes(asked, recipe)),
            budget=asked.budget,
            seed=asked.seed,
            grace_s=asked.grace_s,
            config_version=0 if snapshot is None else snapshot.config_version,
            revision=0 if snapshot is None else snapshot.revision,
            nonce=b"" if snapshot is None else snapshot.nonce,
            head_version="" if state is None else state.version,
            signals=signals,
            items=pool.manifest.items,
            expected_s=_seconds(cost, pool),
            expected_bytes=int(cost.held),
        )

    async def _source(self, asked: Asked, needs_head: bool) -> _Source:
        if not asked.session_id:
            return _Source(self._pools.find(asked.pool))
        live = await self._sessions.open(asked.session_id)
        began, state = time.monotonic(), None
        if needs_head:
            state = await live.fitted(began)
            if head_of(state).task is Task.MULTILABEL and asked.predicted_classes:
                raise invalid(
                    "predicted_classes", "do not exist for multilabel: an item has several"
                )
            snapshot = state.snapshot
        else:
            await live.sync(began)
            snapshot = Snapshot.of(live.view)
        config = snapshot.config
        return _Source(self._pools.of_session(config.pool, config.pool_version), snapshot, state)

    async def _pinned(self, asked: Asked, needs: Needs, pool: Pool) -> tuple[Pinned, ...]:
        """The signals that the job reads, as they are now."""
        pinned = [_pin(await self._signal(pool, name, "params.signal")) for name in needs.signals]
        if asked.class_signal:
            signal = await self._signal(pool, asked.class_signal, "class_signal")
            if signal.kind != SignalKind.CLASS:
                raise bad_signal("class_signal", f"signal {signal.name!r} does not hold classes")
            pinned.append(_pin(signal))
        return tuple(dict.fromkeys(pinned))

    async def _signal(self, pool: Pool, name: str, field: str) -> Signal:
        manifest = pool.manifest
        return await self._signals.of_version(manifest.name, manifest.version, name, field)

    def _setting(
        self, asked: Asked, needs: Needs, source: _Source, signals: tuple[Pinned, ...]
    ) -> Setting:
        pool, snapshot = source.pool, source.snapshot
        labelled = snapshot.labelled() if snapshot and asked.start_from_labels else None
        start, gone = not_to_choose(pool, asked, labelled)
        n = pool.manifest.items - len(gone)
        if not n:
            field = "query" if asked.query else "start_item_ids"
            raise invalid(field, "with all else that is given covers the pool: nothing is left")
        if asked.budget is not None and not 1 <= asked.budget <= n:
            raise invalid("budget", f"must be 1..{n}, got {asked.budget}")
        targets = 0
        for field, given in (("query", asked.query), ("avoid", asked.avoid)):
            if given:
                targets += len(target_vectors(pool, given, field))
        sizes = None
        if asked.class_signal:
            signal = next(one for one in signals if one.name == asked.class_signal)
            sizes = _sizes(columns_of(self._artifacts, signal), gone)
        names = len(snapshot.config.classes) if snapshot is not None else 0
        head = source.state.head if source.state is not None and needs.head else None
        return Setting(
            n=n,
            dimension=pool.manifest.dimension,
            budget=n if asked.budget is None else asked.budget,
            task=None if head is None else head.task,
            head_classes=0 if head is None else 2 if head.task is Task.BINARY else names,
            start=len(start),
            classes=names if sizes is None else len(sizes),
            class_signal=bool(asked.class_signal),
            class_sizes=sizes,
            unit=pool.manifest.metric == "cosine",
            neighbours=pool.manifest.neighbours,
            columns={signal.name: (signal.kind, signal.columns) for signal in signals},
            targets=targets,
        )


def _sizes(signal: SignalColumns, gone: Rows) -> dict[int, int]:
    """Items of each class, less the rows that are gone, by class number."""
    numbers, counts = np.unique(np.delete(signal.values[:, 0], gone), return_counts=True)
    return dict(zip(numbers.tolist(), counts.tolist(), strict=True))


def _pin(signal: Signal) -> Pinned:
    return Pinned(
        signal.name, signal.content_hash, SignalKind(signal.kind).name.lower(), signal.columns
    )


def _notes(asked: Asked, recipe: Recipe) -> list[str]:
    notes = []
    if isinstance(recipe.method, Rater):
        notes.append(f"a higher score means {recipe.method.higher}")
    if asked.predicted_classes:
        notes.append("classes are those that the session's head predicts")
    elif asked.class_signal:
        notes.append(f"classes come from the signal {asked.class_signal}")
    return notes


def _cost(recipe: Recipe, setting: Setting) -> Cost:
    """What method and sampler take, the signals they read, the measures and the result.

    INVALID_FIELD for a method or sampler that cannot serve.
    """
    parts: list[Planned] = [recipe.method]
    if recipe.sampler is not None:
        parts.append(recipe.sampler)
    total = Cost(min(MEASURE_FLOPS, 2.0 * setting.n * setting.dimension * setting.budget))
    for part in parts:
        if (objection := part.objection(setting)) is not None:
            raise invalid(*objection)
        total += part.cost(setting)
    columns = sum(len(names) for _, names in setting.columns.values())
    # A signal as its file and as its columns; of the result the table, the file and its bytes.
    held = 8.0 * setting.n * columns + RESULT_BYTES * setting.budget
    return replace(total, held=total.held + held)


def _seconds(cost: Cost, pool: Pool) -> float:
    products = cost.flops / FLOPS_PER_SECOND
    return START_S + products + cost.passes * pool.nbytes() / BYTES_PER_SECOND


def _values(part: Planned) -> dict[str, Value]:
    """Every parameter with its value."""
    return {own.name: getattr(part, own.name) for own in fields(part)}  # type: ignore[arg-type]
