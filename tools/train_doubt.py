"""Train the small network `DigitOrNot`, which tells digits from what is none.

Digits are MNIST's and, so that it does not go by the look of drawn lines, synthetic ones. What is none is made here:
letters and signs, shapes, scribbles, blobs, and several digits in one picture. Some minutes on a CPU:

    python tools/train_doubt.py            writes weights/digit-or-not.safetensors in $MNIST_KIT_HOME

The same seed gives the same weights on the same processor.
"""

import argparse
import string
from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from mnist_kit import Drawing, Recipe, Stroke, fit, load_mnist, sample_drawing, save_weights
from mnist_kit.data import Digits, Split
from mnist_kit.framing import DIGIT_SIDE, frame_as_mnist, mnist_raster
from mnist_kit.live import ProgressLine
from mnist_kit.models import DigitOrNot

LIKE_DIGITS = "OoDQIilSsZzBbGgqjyJtfrTYUu"
LETTERS = [*(letter for letter in string.ascii_letters if letter not in LIKE_DIGITS), *"#&@%$?+=*<>^{}€§£"]
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


def letter(rng: np.random.Generator) -> np.ndarray:
    """A printed letter or sign, sheared and stretched: uint8 (2 · SIDE, 2 · SIDE)."""
    page = Image.new("L", (2 * SIDE, 2 * SIDE))
    ImageDraw.Draw(page).text((SIDE, SIDE), str(rng.choice(LETTERS)), 255, ImageFont.load_default(SIDE), anchor="mm")
    matrix = np.eye(2) * rng.uniform(0.7, 1.3, 2) + rng.normal(0, 0.2, (2, 2)) * (1 - np.eye(2))
    offset = (np.eye(2) - matrix) @ (SIDE, SIDE)
    (a, b), (c, d) = matrix
    return np.asarray(page.transform(page.size, Image.Transform.AFFINE, (a, b, offset[0], c, d, offset[1]), 2))


# Shapes: functions of a random generator that return lines, each (n, 2), in and around the unit square.


def curves(rng):
    """Some random strokes, each smooth."""
    strokes = rng.integers(2, 6)
    return [smooth(rng.random((rng.integers(3, 7), 2))) for _ in range(strokes)]


def scribble(rng):
    """One long random line."""
    return [smooth(rng.random((rng.integers(9, 40), 2)))]


def straight(rng):
    """Straight strokes in any direction: two cross each other, more are a hatching or a tangle."""
    count = rng.integers(2, 9)
    angles = rng.random(count) * np.pi if rng.random() < 0.6 else rng.normal(rng.random() * np.pi, 0.1, count)
    middles = rng.normal(0.5, 0.1 if count == 2 else 0.2, (count, 2))
    arms = np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(0.3, 0.6, (count, 1))
    return list(np.stack([middles - arms, middles + arms], axis=1))


def polygon(rng):
    """A triangle, a square, a star; now and then with something in it."""
    corners = rng.choice([3, 4, 5])
    angles = 2 * np.pi * (np.arange(corners + 1) * (2 if corners == 5 else 1) / corners + rng.random())
    outline = np.stack([np.cos(angles), np.sin(angles)], axis=1) / 2 + 0.5
    outline[:-1] += rng.normal(0, 0.05, (corners, 2))
    outline[-1] = outline[0]
    return [outline, *(straight(rng)[:2] if rng.random() < 0.3 else [])]


def coil(rng):
    """Loops along a line, or a spiral."""
    t = np.linspace(0, 1, 300)
    angle = 2 * np.pi * t * rng.uniform(2.2, 8) + rng.random() * 6
    if rng.random() < 0.5:
        return [0.5 + 0.5 * t[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)]
    return [np.stack([rng.uniform(0.5, 2) * t + 0.25 * np.cos(angle), 0.4 * np.sin(angle)], axis=1)]


def filled(rng):
    """A blob, filled to and fro, or a zigzag where the turns are few."""
    turns = rng.integers(5, 40)
    y = np.linspace(0, 1, turns)
    reach = np.sqrt(1 - (2 * y - 1) ** 2 * rng.uniform(0, 1)) * rng.uniform(0.3, 1)
    return [np.stack([0.5 + reach * (np.arange(turns) % 2 - 0.5), y], axis=1)]


def dots(rng):
    """A handful of dots."""
    return [point[None] for point in rng.random((rng.integers(2, 12), 2))]


def signs(rng):
    """Letters and signs of few straight strokes, unequal in their arms."""
    scale = rng.uniform(0.5, 1.5, 2)
    sign = SIGNS[rng.integers(len(SIGNS))]
    return [np.array(line) * scale + rng.normal(0, 0.04, (len(line), 2)) for line in sign]


SIGNS = [
    [[(0, 0), (0, 1), (0.8, 1)]],  # L
    [[(0, 0), (1, 0)], [(0.5, 0), (0.5, 1)]],  # T
    [[(0, 0), (0, 0.8), (0.3, 1), (0.7, 1), (1, 0.8), (1, 0)]],  # U
    [[(0, 0), (0.5, 1), (1, 0)]],  # V
    [[(0, 0.6), (0.3, 1), (1, 0)]],  # a tick
    [[(0, 0.5), (1, 0.5)], [(0.7, 0.2), (1, 0.5), (0.7, 0.8)]],  # an arrow
    [[(0.5, 0), (0.5, 1)], [(0, 0.5), (1, 0.5)]],  # a plus
    [[(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]],  # a box
]


def half_a_four(rng):
    """The first stroke of a 4 drawn in two, which a digit network takes for a 1 or a 6."""
    style = ("open", "open round", "closed", "peaked", "short leg", "long arm")[rng.integers(6)]
    return [sample_drawing(4, rng, style=style).strokes[0].points / 600]


def bars(rng):
    """One to three lines across."""
    return [np.array([[0, y], [1, y + rng.normal(0, 0.05)]]) for y in rng.random(rng.integers(1, 4))]


SHAPES = [
    curves,
    scribble,
    scribble,
    straight,
    straight,
    polygon,
    polygon,
    coil,
    filled,
    signs,
    half_a_four,
    dots,
    bars,
]


def smooth(corners: np.ndarray) -> np.ndarray:
    """A line through about the corners, (n, 2), rounded off: (12 n, 2)."""
    place = np.linspace(0, len(corners) - 1, 12 * len(corners))
    line = np.stack([np.interp(place, np.arange(len(corners)), side) for side in corners.T], axis=1)
    for _ in range(3):
        line[1:-1] = (line[:-2] + 2 * line[1:-1] + line[2:]) / 4
    return line


def trembling(line: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The line as a hand draws it; long lines are irregular already."""
    return line + rng.normal(0, 0.01, line.shape) if len(line) < 50 else line


def as_bytes(images) -> torch.Tensor:
    """Framed images, float32 (1, 28, 28) in [0, 1], as uint8 (N, 1, 28, 28)."""
    return (torch.stack(list(images)) * 255).round().to(torch.uint8)


if __name__ == "__main__":
    main()
