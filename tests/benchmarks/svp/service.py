"""The core-sets of one proxy: its training, the upload, the selection by a server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import torch
from tests.benchmarks.process import Server
from tests.benchmarks.svp.images import Images
from tests.benchmarks.svp.models import proxy
from tests.benchmarks.svp.training import Point, Schedule, Spent, train

from coresift.client import Client, CoresetMethod, TrainingDynamics

POOL = "images"
METHODS = {"random": "random", "forgetting": "forgetting", "entropy": "max_entropy"}
"""Core-sets by their names here, and the methods of ScoreCoreset that select them."""


@dataclass(frozen=True, slots=True)
class Service:
    """A running server with the pool of the images."""

    client: Client
    server: psutil.Process

    def spent(self) -> Spent:
        """The clock, and the processor time of this process and the server's together."""
        times = self.server.cpu_times()
        return Spent.until_now() + Spent(cpu_s=times.user + times.system)


@dataclass(frozen=True, slots=True)
class Selected:
    """What one proxy gave.

    Attributes:
        trained: its training, with the recording.
        upload: time of PutSignals.
        positions: of each core-set, int32, in the order of selection.
        selection: time of each ScoreCoreset.
    """

    trained: list[Point]
    upload: Spent
    positions: dict[str, npt.NDArray[np.int32]]
    selection: dict[str, Spent]


@contextmanager
def serving(images: Images, folder: Path) -> Iterator[Service]:
    """Build the pool in ``folder`` and start ``coresift serve`` on it."""
    np.save(folder / "embeddings.npy", images.embeddings)
    (folder / "ids.txt").write_text("".join(f"{item_id}\n" for item_id in images.item_ids))
    subprocess.run(
        [
            *(sys.executable, "-m", "coresift.client", "pool", "build"),
            *(str(folder / "embeddings.npy"), "--ids", str(folder / "ids.txt")),
            *("--name", POOL, "--metric", "cosine", "--out", str(folder / "pool")),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    with Server(folder / "pool") as server, Client(server.listen) as client:
        yield Service(client, psutil.Process(server.pid))


def select(
    service: Service, images: Images, schedule: Schedule, seed: int, budget: int, saved: Path
) -> Selected:
    """Train a proxy on all images, upload what it was like, and have core-sets selected.

    Args:
        budget: items in each.
        saved: Parquet file that keeps the recording.
    """
    torch.manual_seed(seed)
    dynamics = TrainingDynamics(images.item_ids)
    everything = torch.arange(len(images))
    trained = train(proxy(), images, everything, schedule, seed, record=dynamics.record)
    dynamics.save(saved)

    began = service.spent()
    signal = dynamics.upload(service.client, POOL, f"proxy-{seed}")
    upload = service.spent() - began

    place = {item_id: position for position, item_id in enumerate(images.item_ids)}
    positions, selection = {}, {}
    for name, method in METHODS.items():
        # Of the signal's columns each method reads the one of its own name.
        params = {} if name == "random" else {"source": "signal", "signal": signal.name}
        asked = CoresetMethod(method, **params)
        began = service.spent()
        coreset = service.client.score_coreset(asked, budget, pool=POOL, seed=seed)
        positions[name] = np.array([place[item_id] for item_id in coreset.item_ids], np.int32)
        selection[name] = service.spent() - began
    return Selected(trained, upload, positions, selection)
