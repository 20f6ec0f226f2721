"""Ten ways to build a network for digits, from one linear layer to spiking neurons, and a committee's vote.

All map images, float32 (N, 1, 28, 28) in [0, 1], to logits, float32 (N, 10). Those after a publication are small
relatives of what it describes: the idea is its, the widths are chosen to train in minutes on a processor.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from mnist_kit.errors import ModelError
from mnist_kit.models import Net, conv_block


def linear() -> nn.Sequential:
    """A weight per pixel and digit: 7,850 parameters (Y. LeCun et al., 1998, have it as the simplest baseline)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10))


def small_cnn() -> nn.Sequential:
    """Two narrow 3×3 convolutions, each with ReLU and pooling, and one dense layer: 9,098 parameters."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),  # (N, 8, 14, 14)
        *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),  # (N, 16, 7, 7)
        *(nn.Flatten(), nn.Linear(16 * 7 * 7, 10)),
    )


def lenet5() -> nn.Sequential:
    """LeNet-5 (Y. LeCun et al., "Gradient-based learning applied to document recognition", 1998): 61,706 parameters.

    As it is mostly built today: every filter sees all channels, pooling has no weights, the output is one dense layer.
    """
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2)),  # (N, 6, 14, 14)
        *(nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2)),  # (N, 16, 5, 5)
        *(nn.Flatten(), nn.Linear(16 * 5 * 5, 120), nn.Tanh()),
        *(nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10)),
    )


class DualPath(nn.Module):
    """Two paths side by side, of 3×3 and 5×5 convolutions, joined before the dense layer (after Jiang & Zhang, 2021).

    49,514 parameters.
    """

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = self._path(3), self._path(5)
        self.head = nn.Linear(2 * 32 * 7 * 7, 10)

    @staticmethod
    def _path(kernel: int) -> nn.Sequential:
        first, second = conv_block(1, 16, kernel), conv_block(16, 32, kernel)
        return nn.Sequential(*first, nn.MaxPool2d(2), *second, nn.MaxPool2d(2), nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        features = torch.cat([self.fine(images), self.coarse(images)], dim=1)  # (N, 2 · 1568)
        return self.head(features)


class Residual(nn.Module):
    """A block that adds to its input: relu(shortcut(x) + change(x)) (K. He et al., "Deep residual learning", 2016).

    The shortcut is x itself, or a 1×1 convolution where the number of channels or the size changes.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1):
        super().__init__()
        change = [*conv_block(channels_in, channels_out, stride=stride), *conv_block(channels_out, channels_out)]
        self.change = nn.Sequential(*change[:-1])  # the last ReLU comes after the sum
        same = channels_in == channels_out and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.shortcut(features) + self.change(features))


def residual_net() -> nn.Sequential:
    """A first convolution, three residual blocks, the mean of each channel, one dense layer: 77,562 parameters."""
    return nn.Sequential(
        *conv_block(1, 16),  # (N, 16, 28, 28)
        Residual(16, 16),
        Residual(16, 32, stride=2),  # (N, 32, 14, 14)
        Residual(32, 64, stride=2),  # (N, 64, 7, 7)
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )


def kernel_net(kernel: int) -> nn.Sequential:
    """Unpadded convolutions of one kernel size (3, 5 or 7) until 4 or 8 rows are left (after An et al., 2020).

    No pooling: each convolution takes kernel - 1 pixels off the sides. Half as wide as published, or less. Raises
    ModelError for another size.
    """
    if kernel not in (3, 5, 7):
        raise ModelError(f"a kernel is of size 3, 5, 7, not {kernel!r}")
    widths = {3: range(8, 81, 8), 5: range(16, 81, 16), 7: range(16, 65, 16)}[kernel]
    layers, channels, side = [], 1, 28
    for width in widths:
        layers += [nn.Conv2d(channels, width, kernel, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        channels, side = width, side - kernel + 1
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * side * side, 10))


class Spike(torch.autograd.Function):
    """1 where the argument is above 0, else 0; backwards the slope of a ramp of width 1 (Y. Wu et al., 2018).

    The step's true slope is 0 everywhere but at the threshold; this *surrogate* is 1 within 0.5 of it, 0 elsewhere.
    """

    @staticmethod
    def forward(context, excess: Tensor) -> Tensor:
        context.save_for_backward(excess)
        return (excess > 0).to(excess.dtype)

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        (excess,) = context.saved_tensors
        return gradient * (excess.abs() < 0.5)


class LeakyNeurons(nn.Module):
    """Leaky integrate-and-fire neurons with lateral interaction (X. Cheng et al., "LISNN", 2020).

    Each keeps a potential: it leaks (times `leak` per step), takes in its current, and what the 3×3 neighbours that
    just fired add or take (learned per channel, nothing at first). Above 1 it fires, and starts from 0 again.
    """

    def __init__(self, channels: int, leak: float = 0.5):
        super().__init__()
        self.leak = leak
        self.lateral = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        nn.init.zeros_(self.lateral.weight)

    def forward(self, currents: Tensor) -> Tensor:
        """Spikes, 0 or 1, of `currents`; both float (steps, N, channels, height, width)."""
        potential, spikes, fired = torch.zeros_like(currents[0]), torch.zeros_like(currents[0]), []
        for current in currents:
            potential = self.leak * potential * (1 - spikes) + current + self.lateral(spikes)
            spikes = Spike.apply(potential - 1)
            fired.append(spikes)
        return torch.stack(fired)


class SpikingNet(nn.Module):
    """Two convolutions whose answers are currents of spiking neurons, for `steps` steps: 20,970 parameters.

    The image is the same current in every step; how often the last neurons fire is what the dense layer reads.
    """

    def __init__(self, steps: int = 5):
        super().__init__()
        self.steps = steps
        self.first = nn.Sequential(
            *conv_block(1, 16)[:2], nn.MaxPool2d(2)
        )  # without their ReLU: the neurons are what bends
        self.second = nn.Sequential(*conv_block(16, 32)[:2])
        self.neurons = nn.ModuleList([LeakyNeurons(16), LeakyNeurons(32)])
        self.pool, self.head = nn.AvgPool2d(2), nn.Linear(32 * 7 * 7, 10)

    def forward(self, images: Tensor) -> Tensor:
        current = self.first(images)  # (N, 16, 14, 14)
        spikes = self.neurons[0](current.expand(self.steps, *current.shape))
        currents = self.second(spikes.flatten(0, 1)).unflatten(0, (self.steps, -1))  # (steps, N, 32, 14, 14)
        rates = self.neurons[1](currents).mean(0)  # how often of all steps each has fired
        return self.head(self.pool(rates).flatten(1))


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "linear": linear,
    "small CNN": small_cnn,
    "LeNet-5": lenet5,
    "the paper's Net": Net,
    "dual path": DualPath,
    "residual": residual_net,
    "3×3": lambda: kernel_net(3),
    "5×5": lambda: kernel_net(5),
    "7×7": lambda: kernel_net(7),
    "spiking": SpikingNet,
}


def vote(predictions: np.ndarray) -> np.ndarray:
    """What most members say, int64 (N,), of their `predictions`, int (members, N), classes 0 to 9.

    Of equally frequent answers, that of the member which comes first in the order counts. Raises ModelError for
    another shape.
    """
    if np.ndim(predictions) != 2:
        raise ModelError(f"predictions must be (members, N), not {np.shape(predictions)}")
    agreeing = (predictions[:, None] == predictions[None]).sum(1)  # (members, N): how many say the same as this one
    return np.take_along_axis(predictions, agreeing.argmax(0)[None], 0)[0].astype(np.int64)
