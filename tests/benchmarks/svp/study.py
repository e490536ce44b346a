"""The whole comparison: what is trained on what, kept in a file as it comes about."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.benchmarks.svp.images import Images
from tests.benchmarks.svp.models import multiply_adds, proxy, target
from tests.benchmarks.svp.service import METHODS, Selected, Service, select, serving
from tests.benchmarks.svp.training import Point, Schedule, Spent, steps_of, train

EVERYTHING = "all"
SHARE = 0.5
"""Of the pool that a core-set keeps."""
LOOKS = 2
"""At the test split, in the steps of an epoch over everything."""


class StudyError(Exception):
    """The study cannot run as it was asked for; the message says why."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the comparison is made.

    Attributes:
        epochs: of the target.
        proxy_epochs: of the proxy, which sees everything.
        batch: images a step, of both.
        seeds: 0, 1, ...: a proxy and its core-sets, and a target on each, of every one.
        threads: of the processor.
    """

    epochs: int
    proxy_epochs: int
    batch: int
    seeds: int
    threads: int


@dataclass(frozen=True, slots=True)
class Training:
    """A target to train.

    Attributes:
        subset: `EVERYTHING`, or a core-set by name.
        same: what is the same as with everything: "epochs" or "steps"; with everything: "both".
    """

    seed: int
    subset: str
    same: str

    @property
    def key(self) -> str:
        """Its name in the results."""
        return f"{self.seed}/{self.subset}/{self.same}"


def trainings_of(seed: int) -> list[Training]:
    """The trainings of one seed, in order."""
    parts = [Training(seed, name, same) for same in ("epochs", "steps") for name in METHODS]
    return [Training(seed, EVERYTHING, "both"), *parts]


class Study:
    """A comparison in a folder.

    ``results.json`` is written after every proxy and every training, ``coresets-SEED.npz`` (int32
    positions by name, in the order of selection) and ``dynamics-SEED.parquet`` (the recording)
    with each proxy.
    """

    def __init__(self, images: Images, settings: Settings, out: Path, *, resume: bool) -> None:
        self._images, self._settings, self._out = images, settings, out
        self._budget = round(SHARE * len(images))
        self._path = out / "results.json"
        self._results: dict[str, Any] = {
            "data": {
                "name": images.name,
                "items": len(images),
                "test_items": len(images.test_labels),
                "budget": self._budget,
                "classes": list(images.classes),
            },
            "settings": asdict(settings),
            "machine": {
                "system": platform.platform(),
                "cores": os.cpu_count(),
                "torch": torch.__version__,
            },
            "multiply_adds": {
                "proxy": multiply_adds(proxy()),
                "target": multiply_adds(target()),
            },
            "proxies": {},
            "trainings": {},
        }
        if self._path.exists():
            self._go_on(resume)

    def _go_on(self, resume: bool) -> None:
        if not resume:
            raise StudyError(f"{self._path} exists: go on with --resume, or name another --out")
        found = json.loads(self._path.read_text())
        for part in ("data", "settings", "multiply_adds"):
            if found[part] != self._results[part]:
                raise StudyError(
                    f"{self._path} has other {part}: {found[part]}, now {self._results[part]}; "
                    "name another --out"
                )
        self._results = found

    def run(self) -> None:
        """Everything that is not there yet, with a line for each step."""
        torch.set_num_threads(self._settings.threads)
        self._out.mkdir(parents=True, exist_ok=True)
        macs = self._results["multiply_adds"]
        print(
            f"{len(self._images):,} images, {len(self._images.test_labels):,} to test on; "
            f"multiply-adds an image: proxy {macs['proxy']:,}, target {macs['target']:,} "
            f"({macs['target'] / macs['proxy']:.1f} times)",
            flush=True,
        )
        seeds = range(self._settings.seeds)
        missing = [seed for seed in seeds if str(seed) not in self._results["proxies"]]
        if missing:
            print("building the pool and starting coresift serve", flush=True)
            with (
                tempfile.TemporaryDirectory(prefix="coresift-svp-") as folder,
                serving(self._images, Path(folder)) as service,
            ):
                for seed in missing:
                    self._select(service, seed)
        planned = [training for seed in seeds for training in trainings_of(seed)]
        for number, training in enumerate(planned, 1):
            if training.key not in self._results["trainings"]:
                self._train(training, f"[{number}/{len(planned)}]")

    def _select(self, service: Service, seed: int) -> None:
        settings = self._settings
        steps = steps_of(len(self._images), settings.proxy_epochs, settings.batch)
        print(f"seed {seed}: proxy, {steps:,} steps on everything", end=" ... ", flush=True)
        found = select(
            service,
            self._images,
            Schedule(steps, settings.batch, steps),
            seed,
            self._budget,
            self._out / f"dynamics-{seed}.parquet",
        )
        np.savez_compressed(self._out / f"coresets-{seed}.npz", **found.positions)  # type: ignore[arg-type]
        self._results["proxies"][str(seed)] = self._facts(found)
        self._write()
        last = found.trained[-1]
        chosen = ", ".join(f"{name} {s.wall_s:.2f} s" for name, s in found.selection.items())
        print(
            f"{last.accuracy:.2%} in {_told(last.spent)}; upload {found.upload.wall_s:.2f} s; "
            f"{self._budget:,} items by {chosen}",
            flush=True,
        )

    def _facts(self, found: Selected) -> dict[str, Any]:
        last = found.trained[-1]
        labels = self._images.labels.numpy()
        return {
            "accuracy": last.accuracy,
            "steps": last.step,
            "training": asdict(last.spent),
            "upload": asdict(found.upload),
            "selection": {name: asdict(spent) for name, spent in found.selection.items()},
            "class_counts": {
                name: np.bincount(labels[chosen], minlength=len(self._images.classes)).tolist()
                for name, chosen in found.positions.items()
            },
            "in_common": len(
                np.intersect1d(found.positions["forgetting"], found.positions["entropy"])
            ),
        }

    def _train(self, training: Training, number: str) -> None:
        settings, n = self._settings, len(self._images)
        positions = self._positions(training)
        full = steps_of(n, settings.epochs, settings.batch)
        if training.same == "epochs":
            steps = steps_of(len(positions), settings.epochs, settings.batch)
        else:
            steps = full
        print(
            f"{number} seed {training.seed}, target on {training.subset}, same {training.same}: "
            f"{len(positions):,} items, {steps:,} steps",
            end=" ... ",
            flush=True,
        )
        torch.manual_seed(training.seed)
        every = max(1, full // (LOOKS * settings.epochs))
        schedule = Schedule(steps, settings.batch, every)
        points = train(target(), self._images, positions, schedule, training.seed)
        self._results["trainings"][training.key] = {
            **asdict(training),
            "items": len(positions),
            "points": [_packed(point) for point in points],
        }
        self._write()
        print(f"{points[-1].accuracy:.2%} in {_told(points[-1].spent)}", flush=True)

    def _positions(self, training: Training) -> torch.Tensor:
        if training.subset == EVERYTHING:
            return torch.arange(len(self._images))
        path = self._out / f"coresets-{training.seed}.npz"
        try:
            with np.load(path) as archive:
                chosen = archive[training.subset]
        except OSError as error:
            raise StudyError(f"{path} is needed to go on: {error}; name another --out") from error
        return torch.from_numpy(np.sort(chosen).astype(np.int64))

    def _write(self) -> None:
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self._results, indent=1))
        os.replace(partial, self._path)


def _packed(point: Point) -> list[float]:
    """step, wall seconds, processor seconds, accuracy."""
    return [
        point.step,
        round(point.spent.wall_s, 4),
        round(point.spent.cpu_s, 4),
        round(point.accuracy, 6),
    ]


def _told(spent: Spent) -> str:
    return f"{spent.wall_s:.1f} s ({spent.cpu_s:.1f} s of processor)"
