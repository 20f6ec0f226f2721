"""Train the small network `DigitOrNot`, which tells digits from what is none.

Digits are MNIST's and, so that it does not go by the look of drawn lines, synthetic ones. What is none is made here:
letters and signs, shapes, scribbles, blobs, and several digits in one picture. Some minutes on a CPU:

    python tools/train_doubt.py            writes weights/digit-or-not.safetensors in $MNIST_KIT_HOME

The same seed gives the same weights on the same processor.
"""

import argparse
from dataclasses import replace

import numpy as np
import torch
from no_digits import SHAPES, letter, trembling
from PIL import Image

from mnist_kit import Drawing, Recipe, Stroke, fit, load_mnist, sample_drawing, save_weights
from mnist_kit.data import Digits, Split
from mnist_kit.framing import DIGIT_SIDE, frame_as_mnist, mnist_raster
from mnist_kit.live import ProgressLine
from mnist_kit.models import DigitOrNot

SIDE = 5 * DIGIT_SIDE  # px; of a drawing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--drawn", type=int, default=20_000, help="synthetic digits, and as many drawings of no digit")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)

    mnist = load_mnist()
    images = mnist.train.images
    train = labelled(
        digits=[images, as_bytes(slanted(n % 10, rng) for n in range(arguments.drawn))],
        others=[
            as_bytes(several(images, rng) for _ in range(len(images) // 4)),
            as_bytes(several_drawn(rng) for _ in range(arguments.drawn // 2)),
            as_bytes(no_digit(rng) for _ in range(arguments.drawn)),
        ],
    )
    test = labelled([mnist.test.images], [as_bytes(no_digit(rng) for _ in range(arguments.drawn // 10))])
    data = Digits("digit or not", train, test, ("no digit", "digit"))
    torch.manual_seed(arguments.seed)  # of the initial weights
    network = DigitOrNot()
    recipe = Recipe(
        "digit or not", arguments.epochs, learning_rate=0.005, schedule="one-cycle", dropout=0.3, seed=arguments.seed
    )
    history = fit(network, data, recipe, [ProgressLine()])
    accuracy = float(history.epochs.val_accuracy.iloc[-1])
    path = save_weights(network, "digit-or-not", recipe, accuracy, data.name)
    print(f"{accuracy:.2%} of MNIST's test images and of drawings of no digit are told right; saved {path}")


def labelled(digits: list[torch.Tensor], others: list[torch.Tensor]) -> Split:
    """Images, uint8 (N, 1, 28, 28) each, with label 1 for `digits` and 0 for `others`."""
    images = torch.cat(digits + others)
    return Split(images, (torch.arange(len(images)) < sum(map(len, digits))).long())


def slanted(digit: int, rng: np.random.Generator) -> torch.Tensor:
    """A framed synthetic `digit`, now and then as slanted and stretched as hands do."""
    drawing = sample_drawing(digit, rng)
    if rng.random() < 0.5:
        shear = np.array([[rng.uniform(0.7, 1.2), 0], [rng.normal(0, 0.25), 1]])
        middle = (drawing.width / 2, drawing.height / 2)
        strokes = [replace(s, points=(s.points - middle) @ shear * 0.7 + middle) for s in drawing.strokes]
        drawing = replace(drawing, strokes=strokes)
    return frame_as_mnist(mnist_raster(drawing))


def several(digits: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Two or three of `digits`, uint8 (N, 1, 28, 28), side by side, touching or nearly, framed as one."""
    page = np.zeros((28, 28 * 4), np.uint8)
    left = 4
    for digit in digits[rng.integers(len(digits), size=rng.choice([2, 2, 3])), 0].numpy():
        digit = Image.fromarray(digit).crop(Image.fromarray(digit).getbbox())
        top = (28 - digit.height) // 2
        window = page[top : top + digit.height, left : left + digit.width]
        np.maximum(window, np.asarray(digit), out=window)
        left += digit.width + rng.integers(-2, 7)
    return frame_as_mnist(page)


def several_drawn(rng: np.random.Generator) -> torch.Tensor:
    """Two or three synthetic digits side by side, framed as one."""
    left, lines = 0, []
    for digit in rng.integers(10, size=rng.choice([2, 2, 3])):
        strokes = [stroke.points for stroke in sample_drawing(digit, rng).strokes]
        points = np.concatenate(strokes)
        scale = rng.uniform(0.9, 1.1) / np.ptp(points[:, 1])
        lines += [(stroke - points.min(axis=0)) * scale + (left, rng.normal(0, 0.05)) for stroke in strokes]
        left += np.ptp(points[:, 0]) * scale + rng.uniform(-0.1, 0.3)
    return framed(lines, rng)


def no_digit(rng: np.random.Generator) -> torch.Tensor:
    """A letter or a shape, framed."""
    if rng.random() < 0.3:
        return frame_as_mnist(letter(rng))
    lines = [trembling(line, rng) for line in SHAPES[rng.integers(len(SHAPES))](rng)]
    narrow = rng.uniform(0.6, 1, 2) if rng.random() < 0.5 else 1
    return framed([line * narrow for line in lines], rng)


def framed(lines: list[np.ndarray], rng: np.random.Generator) -> torch.Tensor:
    """Lines, each (n, 2), drawn by some pen and framed: float32 (1, 28, 28)."""
    points = np.concatenate(lines)
    pen = 5 * np.clip(np.exp(rng.normal(0.2, 0.3)), 0.7, 2.5)
    scale = SIDE / max(*np.ptp(points, axis=0), 1e-3)
    strokes = [Stroke((line - points.min(axis=0)) * scale + pen, pen) for line in lines]
    return frame_as_mnist(Drawing(2 * SIDE, 2 * SIDE, strokes).raster())


def as_bytes(images) -> torch.Tensor:
    """Framed images, float32 (1, 28, 28) in [0, 1], as uint8 (N, 1, 28, 28)."""
    return (torch.stack(list(images)) * 255).round().to(torch.uint8)


if __name__ == "__main__":
    main()
