"""Train the small network of mnist_kit.doubt, which tells digits from what is none.

Digits are MNIST's and, so that it does not go by the look of drawn lines, synthetic ones. What is none is made here:
letters and signs, shapes, scribbles, blobs, and several digits in one picture. Some minutes on a CPU:

    python tools/train_doubt.py            writes weights/digit-or-not.safetensors in $MNIST_KIT_HOME
"""

import argparse
import string

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from mnist_kit import Drawing, Stroke, load_mnist, sample_drawing, save_weights
from mnist_kit.doubt import WEIGHTS, DigitOrNot
from mnist_kit.framing import DIGIT_SIDE, frame_as_mnist

LETTERS = [*(set(string.ascii_letters) - set("OoDQIilSsZzBbGgqjyJtfrTYUu")), *"#&@%$?+=*<>^{}€§£"]  # unlike any digit
SIDE = 5 * DIGIT_SIDE  # px; of a drawing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--drawn", type=int, default=20_000, help="synthetic digits, and as many drawings of no digit")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)

    mnist = load_mnist()
    digits = [mnist.train.images, as_bytes(frame_as_mnist(sample_drawing(n % 10, rng)) for n in range(arguments.drawn))]
    others = [several(mnist.train.images, rng, len(mnist.train.images) // 4), as_bytes(no_digits(rng, arguments.drawn))]
    images = torch.cat(digits + others)
    labels = torch.arange(len(images)) < sum(map(len, digits))
    network = train(images, labels.float(), arguments.epochs)
    with torch.inference_mode():
        accepted = (network(mnist.test.images.float() / 255) > 0).float().mean().item()
    print(
        f"{accepted:.2%} of MNIST's test images are digits; saved {save_weights(network, WEIGHTS, accuracy=accepted)}"
    )


def train(images: torch.Tensor, labels: torch.Tensor, epochs: int, batch_size: int = 128) -> DigitOrNot:
    """images: uint8 (N, 1, 28, 28); labels: float32 (N,), 1 for digits. Returns the network in evaluation mode."""
    network = DigitOrNot()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    steps = epochs * (len(images) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.005, total_steps=steps)
    for epoch in range(epochs):
        order = torch.randperm(len(images))
        losses = []
        for batch in order[: len(order) // batch_size * batch_size].split(batch_size):
            loss = nn.functional.binary_cross_entropy_with_logits(network(images[batch].float() / 255), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        print(f"epoch {epoch + 1}/{epochs}: loss {torch.stack(losses).mean():.4f}", flush=True)
    return network.eval()


def several(digits: torch.Tensor, rng: np.random.Generator, count: int) -> torch.Tensor:
    """`count` pictures of two or three of `digits` side by side, touching or nearly: uint8 (count, 1, 28, 28)."""
    framed = []
    for _ in range(count):
        chosen = digits[rng.integers(len(digits), size=rng.choice([2, 2, 3])), 0].numpy()
        cropped = [Image.fromarray(digit).crop(Image.fromarray(digit).getbbox()) for digit in chosen]
        page = np.zeros((28, 28 * 4), np.uint8)
        left = 4
        for digit in cropped:
            top = (28 - digit.height) // 2
            window = page[top : top + digit.height, left : left + digit.width]
            np.maximum(window, np.asarray(digit), out=window)
            left += digit.width + rng.integers(-2, 7)
        framed.append(frame_as_mnist(page))
    return as_bytes(framed)


def no_digits(rng: np.random.Generator, count: int):
    """`count` framed pictures of what is no digit, float32 (1, 28, 28)."""
    for _ in range(count):
        if rng.random() < 0.3:
            yield frame_as_mnist(letter(rng))
            continue
        lines = [turned(line, rng) for line in SHAPES[rng.integers(len(SHAPES))](rng)]
        points = np.concatenate(lines)
        scale = rng.uniform((0.6, 1)) if rng.random() < 0.5 else np.ones(2)  # narrower than high, as digits are
        pen = 5 * np.clip(np.exp(rng.normal(0.2, 0.3)), 0.7, 2.5)
        size = max(*(np.ptp(points, axis=0) * scale), 1e-3)
        lines = [(line - points.min(axis=0)) * scale / size * SIDE + pen for line in lines]
        yield frame_as_mnist(Drawing(2 * SIDE, 2 * SIDE, [Stroke(line, pen) for line in lines]).raster())


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


def bars(rng):
    """One to three lines across."""
    return [np.array([[0, y], [1, y + rng.normal(0, 0.05)]]) for y in rng.random(rng.integers(1, 4))]


SHAPES = [curves, curves, scribble, scribble, straight, straight, polygon, polygon, coil, filled, dots, bars]


def smooth(corners: np.ndarray) -> np.ndarray:
    """A line through about the corners, (n, 2), rounded off: (12 n, 2)."""
    place = np.linspace(0, len(corners) - 1, 12 * len(corners))
    line = np.stack([np.interp(place, np.arange(len(corners)), side) for side in corners.T], axis=1)
    for _ in range(3):
        line[1:-1] = (line[:-2] + 2 * line[1:-1] + line[2:]) / 4
    return line


def turned(line: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The line with a hand's tremor."""
    return line + rng.normal(0, 0.01, line.shape) if len(line) < 50 else line


def as_bytes(images) -> torch.Tensor:
    """Framed images, float32 (1, 28, 28) in [0, 1], as uint8 (N, 1, 28, 28)."""
    return (torch.stack(list(images)) * 255).round().to(torch.uint8)


if __name__ == "__main__":
    main()
