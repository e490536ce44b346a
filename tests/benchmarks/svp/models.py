"""The proxy and the target: convolutional networks for 28 x 28 grey pixels and 10 classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SIDE = 28
CLASSES = 10


def proxy() -> nn.Sequential:
    """Three convolutions, the first two of stride 2: 0.36 million multiply-adds an image."""
    return nn.Sequential(
        *_layer(1, 8, stride=2),
        *_layer(8, 16, stride=2),
        *_layer(16, 40),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(40 * 3 * 3, CLASSES),
    )


def target() -> nn.Sequential:
    """Four convolutions, the first at full resolution: 12 times the proxy's multiply-adds."""
    model = nn.Sequential(
        *_layer(1, 16),
        nn.AvgPool2d(2),
        *_layer(16, 32),
        nn.AvgPool2d(2),
        *_layer(32, 64),
        *_layer(64, 80),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(80 * 3 * 3, CLASSES),
    )
    # Wide layers are faster with the channels last; the proxy's narrow ones are not.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def _layer(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


def multiply_adds(model: nn.Module) -> int:
    """Multiply-adds of convolutions and linear layers in one forward pass of one image."""
    found: list[int] = []

    def count(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        weight = layer.get_parameter("weight")
        found.append(output[0].numel() * weight[0].numel())

    counted = (nn.Conv2d, nn.Linear)
    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, counted)]
    was_training = model.training
    with torch.no_grad():
        model.eval()(torch.zeros(1, 1, SIDE, SIDE))
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    return sum(found)
