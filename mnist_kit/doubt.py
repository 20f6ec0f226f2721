"""Doubt: does a picture look like a digit at all?

A network that was only ever shown digits calls whatever it sees one, and is often sure of it. So a second, small one
tells digits from scribbles, letters, shapes and several digits in one; `tools/train_doubt.py` trains it.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from mnist_kit.checkpoints import load_weights

WEIGHTS = "digit-or-not"


class DigitOrNot(nn.Module):
    """Three convolutions with stride 2 and one dense layer: 24,529 parameters."""

    def __init__(self):
        super().__init__()
        layers = []
        for channels_in, channels_out, kernel in [(1, 16, 5), (16, 32, 3), (32, 64, 3)]:
            layers += [
                nn.Conv2d(channels_in, channels_out, kernel, stride=2, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(channels_out),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 4 * 4, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float32 (batch,), positive for digits, of `images`, float32 (batch, 1, 28, 28) in [0, 1]."""
        return self.layers(images).squeeze(1)


def digit_likeness(images: Tensor) -> np.ndarray:
    """How much each image looks like a digit, float32 (N,) in [0, 1]: above one half it rather is one.

    images: float32 (N, 1, 28, 28) in [0, 1], framed as MNIST frames. Raises WeightsError when the weights are damaged.
    """
    with torch.inference_mode():
        return _network()(images).sigmoid().numpy()


@cache
def _network() -> DigitOrNot:
    return load_weights(WEIGHTS, DigitOrNot())
