"""What a session's configuration refers to outside itself: loaded once, then only read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pyarrow as pa

from coresift.server.arrays import Bools, Float32s, Rows
from coresift.server.artifacts import Artifacts
from coresift.server.errors import CoresiftError, Reason
from coresift.server.head import Head
from coresift.server.pool.pool import Pool
from coresift.server.selection.doubt import shares
from coresift.server.selection.plain import DOUBTS
from coresift.server.selection.priority import random_order
from coresift.server.session.setup.config import GroupRule, SessionConfig, SignalFile
from coresift.server.session.setup.pools import Pools
from coresift.server.state.values import NO_GROUP

BLOCK = 65_536
"""Rows whose probabilities are looked at together."""


class HashOrder:
    """The eligible rows of a pool in the fixed hash order of a purpose.

    Keeps what it has sorted: a longer beginning is sorted only when it is asked for.
    """

    def __init__(self, seed: int, purpose: str, items: int, eligible: Bools | None) -> None:
        self._seed, self._purpose, self._items = seed, purpose, items
        self._eligible = eligible
        self.length = items if eligible is None else int(eligible.sum())
        """How many rows there are."""
        self._known = np.empty(0, np.int32)

    @property
    def nbytes(self) -> int:
        """Memory of what is sorted."""
        return self._known.nbytes

    def first(self, count: int) -> Rows:
        """The first ``min(count, length)`` rows, int32."""
        known = self._known  # another thread may put a longer one there meanwhile
        count = min(count, self.length)
        if len(known) < count:
            wanted = min(self.length, max(4 * len(known), count))
            # This many rows hold about `wanted` eligible ones; twice as many if they do not.
            drawn = int(1.1 * wanted * self._items / self.length) + 64
            while True:
                known = random_order(self._seed, self._purpose, self._items, drawn)
                if self._eligible is not None:
                    known = known[self._eligible[known]]
                if len(known) >= wanted:
                    break
                drawn *= 2
            self._known = known
        return known[:count]


@dataclass(frozen=True, slots=True)
class Materials:
    """What a configuration refers to.

    Attributes:
        pool: the session's pool version.
        eligible: bool [N], rows that the filter admits; None: all.
        groups: int32 [N], group number of each row, or `NO_GROUP`; None: there are no groups.
        group_count: how many groups there are.
        rule: what holds for groups.
        order: the fixed order of the exploration share, from which estimates come.
        validation: rows that measure the head and never train it, in hash order.
        signals: columns that strategies read, float32 [N] each.
        prior: the head until the labels determine one.
    """

    pool: Pool
    eligible: Bools | None
    groups: Rows | None
    group_count: int
    rule: GroupRule | None
    order: HashOrder
    validation: Rows
    signals: Mapping[str, Float32s]
    prior: Head | None

    @property
    def nbytes(self) -> int:
        """Memory of the columns and masks; group numbers are the pool's."""
        mask = 0 if self.eligible is None else self.eligible.nbytes
        signals = sum(column.nbytes for column in self.signals.values())
        return mask + signals + self.validation.nbytes + self.order.nbytes

    def random(self, seed: int, purpose: str) -> HashOrder:
        """The eligible rows in the hash order of another purpose."""
        return HashOrder(seed, purpose, self.pool.manifest.items, self.eligible)

    @property
    def eligible_items(self) -> int:
        """How many rows may ever be offered."""
        return self.order.length

    def admits(self, rows: Rows) -> Rows:
        """Those of ``rows`` that the filter admits."""
        return rows if self.eligible is None else rows[self.eligible[rows]]

    def kept_groups(self, rows: Sequence[int]) -> list[int]:
        """The numbers under which the store keeps the groups of rows, where a group has one lease.

        They name the column too: groups by another column must not be taken for these.
        """
        rule = self.rule
        if self.groups is None or rule is None or not rule.one_lease:
            return [NO_GROUP] * len(rows)
        digest = blake2b(rule.column.encode(), digest_size=8).digest()
        column = int.from_bytes(digest, "little") % 2**21
        numbers = self.groups[np.array(rows, np.int32)].tolist()
        return [NO_GROUP if number == NO_GROUP else column << 31 | number for number in numbers]

    def group_of(self, row: int) -> int:
        """Group number of a row, or `NO_GROUP`."""
        return NO_GROUP if self.groups is None else int(self.groups[row])

    def groups_of(self, rows: Rows) -> Rows:
        """Group numbers of rows, or `NO_GROUP`; int32."""
        if self.groups is None:
            return np.full(len(rows), NO_GROUP, np.int32)
        return self.groups[rows]


class Loader:
    """Loads materials: what lies in the pool, and files of the artifact root."""

    def __init__(self, pools: Pools, artifacts: Artifacts) -> None:
        self._pools, self._artifacts = pools, artifacts

    def load(self, config: SessionConfig) -> Materials:
        """The materials of a configuration. Blocks: for worker threads.

        Raises:
            CoresiftError: POOL_VERSION_NOT_LOADED; ARTIFACT_MISSING for a file that is gone.
        """
        pool = self._pools.of_session(config.pool, config.pool_version)
        eligible, groups = None, None
        if config.filter:
            eligible = pool.where(config.filter, field="config.candidates.filter")
        if config.groups is not None:
            groups = pool.groups(config.groups.column, field="config.groups.column")
        items, seed = pool.manifest.items, config.seed
        validation = HashOrder(seed, "validation", items, eligible).first(config.validation_size)
        return Materials(
            pool,
            eligible,
            groups,
            0 if groups is None else int(groups.max(initial=NO_GROUP)) + 1,
            config.groups,
            HashOrder(seed, "explore", items, eligible),
            validation,
            {file.key: self._column(file, items) for file in config.signals},
            self._prior(config, pool) if config.prior_head else None,
        )

    def keep_prior(self, head: Head) -> str:
        """Store a head to start from; returns its content hash."""
        return self._artifacts.put("heads", pa.table({"head": [head.pack()]})).content_hash

    def _prior(self, config: SessionConfig, pool: Pool) -> Head:
        table = self._artifacts.get("heads", config.prior_head)
        head = Head.unpack(table["head"][0].as_py())
        shape = len(config.head_classes), pool.manifest.dimension
        if head.task is not config.task or head.weights.shape != shape:
            raise _unfit("head", config.prior_head)
        return head

    def _column(self, file: SignalFile, items: int) -> Float32s:
        """What the strategy ranks by; infinity, which stands for "harder than all", as the
        largest float32: what is computed with scores stays free of NaN."""
        table = self._artifacts.get("signals", file.content_hash)
        if table.num_rows != items or not (file.doubt or file.column in table.column_names):
            raise _unfit("signal", file.content_hash)
        if not file.doubt:
            numbers = table[file.column].to_numpy()
            return np.asarray(np.minimum(numbers, np.finfo(np.float32).max), np.float32)
        doubts = np.empty(table.num_rows, np.float32)
        for start in range(0, len(doubts), BLOCK):
            part = table.slice(start, BLOCK)
            p = np.column_stack([column.to_numpy() for column in part.columns])
            doubts[start : start + BLOCK] = DOUBTS[file.doubt](shares(p))
        return doubts


def _unfit(what: str, content_hash: str) -> CoresiftError:
    """A session that was imported may name any file of the artifact root."""
    return CoresiftError(
        Reason.ARTIFACT_MISSING,
        f"the file {content_hash} holds no {what} that fits the session and its pool version",
        content_hash=content_hash,
    )
