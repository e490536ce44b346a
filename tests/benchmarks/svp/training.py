"""Training a network on some of the images, with its accuracy and its time on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from tests.benchmarks.svp.images import Images
from torch import Tensor, nn

LEARNING_RATE = 0.1
WARM_UP = 0.2
"""Share of the steps in which the learning rate rises, to fall to 0 in the rest."""
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
TEST_BATCH = 250

Record = Callable[[Tensor, Tensor, Tensor], None]
"""Told positions, logits and labels of a mini-batch, before the step."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds on the clock, and of the processor in all threads of this process."""

    wall_s: float = 0.0
    cpu_s: float = 0.0

    @classmethod
    def until_now(cls) -> Spent:
        """Since some moment in the past: only differences mean something."""
        return cls(time.perf_counter(), time.process_time())

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.wall_s - other.wall_s, self.cpu_s - other.cpu_s)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and in what pieces to train.

    Attributes:
        steps: of the optimizer; an epoch may be cut short by the last.
        batch: images a step; the last of an epoch takes what is left.
        evaluate_every: steps between two looks at the test split.
    """

    steps: int
    batch: int
    evaluate_every: int


@dataclass(frozen=True, slots=True)
class Point:
    """Accuracy on the test split after some steps, and the time they took without looking."""

    step: int
    spent: Spent
    accuracy: float


def steps_of(items: int, epochs: int, batch: int) -> int:
    """Steps of so many epochs over so many items."""
    return epochs * -(-items // batch)


def train(
    model: nn.Module,
    images: Images,
    positions: Tensor,
    schedule: Schedule,
    seed: int,
    record: Record | None = None,
) -> list[Point]:
    """Train with SGD, Nesterov momentum and one rise and fall of the learning rate.

    Products are in bfloat16, weights and losses in float32. With the same seed, machine and
    number of threads the result has the same bits.

    Args:
        positions: int64, the items to train on.
        record: sees every mini-batch.

    Returns:
        A point every ``evaluate_every`` steps, and the last one.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(
        model.parameters(),
        LEARNING_RATE,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        nesterov=True,
    )
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, schedule.steps))
    points: list[Point] = []
    began = Spent.until_now()
    batches = _batches(positions, schedule.batch, generator)
    model.train()
    for step in range(1, schedule.steps + 1):
        chosen = next(batches)
        pixels, labels = images.batch(chosen, generator)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(pixels)
        logits = logits.float()
        if record is not None:
            record(chosen, logits, labels)
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()
        rate.step()
        if step % schedule.evaluate_every == 0 or step == schedule.steps:
            paused = Spent.until_now()
            points.append(Point(step, paused - began, accuracy(model, images)))
            began += Spent.until_now() - paused
    return points


def accuracy(model: nn.Module, images: Images) -> float:
    """Share of the test split that the model classifies correctly."""
    was_training = model.training
    model.eval()
    correct = 0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for pixels, labels in zip(
            images.test_pixels.split(TEST_BATCH), images.test_labels.split(TEST_BATCH), strict=True
        ):
            correct += int((model(pixels).argmax(dim=1) == labels).sum())
    model.train(was_training)
    return correct / len(images.test_labels)


def _rate(step: int, steps: int) -> float:
    share = (step + 1) / (steps + 1)
    return min(share / WARM_UP, (1 - share) / (1 - WARM_UP))


def _batches(positions: Tensor, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of one epoch after the other, each in an order of its own, without end."""
    while True:
        yield from positions[torch.randperm(len(positions), generator=generator)].split(batch)
