"""What a training loop says of each item: forgetting events, EL2N, AUM, uncertainty."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, Self, overload

import numpy as np

from coresift.client.aio import AsyncClient
from coresift.client.calls.signals import Signal
from coresift.client.client import Client
from coresift.client.convert import Float64, StringColumn
from coresift.client.dynamics_files import Recording, read_recording, write_recording
from coresift.client.dynamics_scores import COLUMNS, Scores, UInt32, merged
from coresift.client.item_index import ItemIndex
from coresift.client.presentations import labels_of, logits_of, presentations, rounds


class TrainingDynamics:
    """Records what a model makes of its training items, one mini-batch after the other.

    ::

        dynamics = TrainingDynamics(item_ids)
        for index, x, y in loader:
            logits = model(x)
            dynamics.record(index, logits, y)  # before the optimizer's step
            ...
        dynamics.upload(client, "photos", "resnet20")

    An item's presentations are counted by themselves; there are no epochs to announce. 54 bytes
    an item besides its id; `record` takes about 0.1 ms for 256 items of 10 classes. Not to be
    shared by threads.

    Scores, of items that were presented (NaN for others):

    - ``forgetting``: how often the item was classified correctly at one presentation and wrongly
      at its next; +inf: never correctly (Toneva et al., 2019; Coleman et al., 2020). Of tied
      largest logits the first is the prediction.
    - ``el2n``: mean over the first ``el2n_epochs`` presentations of the Euclidean length of the
      softmax minus the one-hot label. Paul et al. (2021) take one epoch early in training and
      average it over several initialisations: `merge` does the latter.
    - ``aum``: mean over all presentations of the label's logit minus the largest other logit;
      low for mislabelled and hard items (Pleiss et al., 2020). They stop before the learning rate
      first drops: stop recording there.
    - ``entropy`` (nats), ``margin`` (between the two largest probabilities), ``confidence``
      (the largest probability): of the last presentation.

    Args:
        item_ids: of all items, each once. With ids of the pool the scores can be uploaded.
        el2n_epochs: presentations of an item that count for EL2N, at least 1.
    """

    def __init__(self, item_ids: Iterable[str], *, el2n_epochs: int = 10) -> None:
        if el2n_epochs < 1:
            raise ValueError(f"el2n_epochs must be at least 1, got {el2n_epochs}")
        self._index = ItemIndex(item_ids)
        self._el2n_epochs = el2n_epochs
        self._runs = 1
        self._scores = Scores.of_nothing(len(self._index))

    @property
    def item_ids(self) -> StringColumn:
        """All items, a lazy sequence."""
        return self._index.ids

    @property
    def presentations(self) -> UInt32:
        """How often each item was recorded, uint32 [items], a copy."""
        return self._scores.presented.copy()

    def __len__(self) -> int:
        return len(self._index)

    def __repr__(self) -> str:
        seen = int(np.count_nonzero(self._scores.presented))
        runs = f" in {self._runs} runs" if self._runs > 1 else ""
        return f"TrainingDynamics({seen} of {len(self)} items recorded{runs})"

    def record(self, items: Any, logits: Any, labels: Any) -> None:
        """Take the logits of a mini-batch, as the forward pass of the training step gave them.

        NumPy, torch and JAX arrays of any device and precision, and lists. An item that comes
        several times in a batch is presented several times, in order.

        Args:
            items: [n] places in ``item_ids`` (fast), or [n] ids.
            logits: [n, classes]; or [n], [n, 1]: of class 1 against class 0.
            labels: [n] class numbers.

        Raises:
            ValueError: shapes that do not fit, an unknown item, a label that is no class, logits
                that are not finite, a merge of runs. Nothing is recorded then.
        """
        if self._runs > 1:
            raise ValueError("several runs are merged here: record each run by itself")
        places = self._index.places(items)
        values = logits_of(logits)
        if len(places) != len(values):
            raise ValueError(f"{len(places)} items came with logits of {len(values)}")
        classes = labels_of(labels, *values.shape)
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            item_id = self.item_ids[int(places[finite.argmin()])]
            raise ValueError(f"the logits of item {item_id!r} are not finite")
        found = presentations(values, classes)
        for chosen in rounds(places):
            self._scores.take(places[chosen], found, chosen, self._el2n_epochs)

    def columns(self) -> dict[str, Float64]:
        """The scores by name, float64 [items] each; NaN for items that were never recorded."""
        return self._scores.columns()

    def save(self, path: str | Path) -> None:
        """Write a Parquet file: item_id, the scores, presentations and the last outcome.

        `load` goes on from it. OSError; ModuleNotFoundError without pyarrow.
        """
        recording = Recording(self.item_ids, self._scores, self._el2n_epochs, self._runs)
        write_recording(recording, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. ValueError for another file, OSError."""
        found = read_recording(Path(path))
        loaded = cls(found.item_ids, el2n_epochs=found.el2n_epochs)
        loaded._scores, loaded._runs = found.scores, found.runs
        return loaded

    @classmethod
    def merge(cls, runs: Sequence[TrainingDynamics]) -> Self:
        """Several runs, with other seeds or on other parts of the data, as one.

        The items are those of any run. Each score is the mean over the runs that recorded the
        item. In ``forgetting`` a run that never learned the item counts as one event more than its
        presentations allow, +inf where no run learned it: as the server's built-in proxy has it.
        What several runs gave takes no further records and is not merged again. ValueError: no
        runs, a merge among them, runs with different ``el2n_epochs``.
        """
        if not runs:
            raise ValueError("there are no runs to merge")
        if any(run._runs > 1 for run in runs):
            raise ValueError("merge all runs at once: a merge has lost their number by item")
        if len({run._el2n_epochs for run in runs}) > 1:
            raise ValueError("the runs have different el2n_epochs")
        ids = dict.fromkeys(item_id for run in runs for item_id in run.item_ids)
        whole = cls(ids, el2n_epochs=runs[0]._el2n_epochs)
        whole._runs = len(runs)
        parts = [(whole._index.places(run.item_ids), run._scores) for run in runs]
        whole._scores = merged(parts, len(ids))
        return whole

    @overload
    def upload(self, client: Client, pool: str, name: str, *, pool_version: str = "") -> Signal: ...
    @overload
    def upload(
        self, client: AsyncClient, pool: str, name: str, *, pool_version: str = ""
    ) -> Coroutine[Any, Any, Signal]: ...
    def upload(
        self, client: Client | AsyncClient, pool: str, name: str, *, pool_version: str = ""
    ) -> Signal | Coroutine[Any, Any, Signal]:
        """Upload the scores as one signal of a pool, a column each; await it with `AsyncClient`.

        Raises:
            ValueError: items that were never recorded.
            InvalidInput: INVALID_SIGNAL, for item_ids that are not those of the pool.
            AlreadyExists: SIGNAL_EXISTS. NotFound: POOL_NOT_FOUND.
        """
        missing = np.flatnonzero(self._scores.presented == 0)
        if len(missing):
            raise ValueError(
                f"{len(missing)} of {len(self)} items were never recorded, the first is "
                f"{self.item_ids[int(missing[0])]!r}"
            )
        values = np.column_stack(list(self.columns().values())).astype(np.float32)
        return client.put_signals(
            pool, name, self.item_ids, values, columns=COLUMNS, pool_version=pool_version
        )
