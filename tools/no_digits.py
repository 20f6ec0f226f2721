"""What is no digit: letters, signs, shapes, scribbles, specks, and several digits in one frame; drawn at random.

Images are framed as MNIST framed its digits, uint8 (28, 28); all that is random comes from a numpy Generator.
"""

import string

import numpy as np
from hands import as_bytes, by_another_hand, centred, drawn
from PIL import Image, ImageDraw, ImageFont

from mnist_kit import sample_drawing
from mnist_kit.framing import SIDE, frame_as_drawn
from mnist_kit.ink import Drawing, Stroke

PAGE = 200  # px; of a printed letter
# Letters and signs that no digit looks like. In one order, so that a seed gives the same ones each time.
LETTERS = [c for c in string.ascii_letters if c not in "OoDQIilSsZzBbGgqjyJtfrTYUu"] + list("#&@%$?+=*<>^{}€§£")


def shape(_, rng: np.random.Generator) -> np.ndarray:
    """A printed letter or one of SHAPES."""
    if rng.random() < 0.3:
        return as_bytes(frame_as_drawn(letter(rng)))
    lines = [trembling(line, rng) for line in SHAPES[rng.integers(len(SHAPES))](rng)]
    narrow = rng.uniform(0.6, 1, 2) if rng.random() < 0.5 else 1
    return drawn([line * narrow for line in lines], rng)


def in_a_row(digits: list[list[np.ndarray]], rng: np.random.Generator) -> np.ndarray:
    """Digits, each a list of lines, side by side or, seldom, one above the other."""
    stacked = rng.random() < 0.12
    lines, edge = [], 0.0
    for digit in map(centred, digits):
        points = np.concatenate(digit)
        corner, (width, height) = points.min(axis=0), np.ptp(points, axis=0)
        scale = rng.uniform(0.85, 1.15) / max(height, width / 1.5)
        place = (rng.normal(0, 0.1), edge) if stacked else (edge, rng.normal(0, 0.06))
        lines += [(line - corner) * scale + place for line in digit]
        edge += height * scale + rng.uniform(0.02, 0.3) if stacked else width * scale + rng.uniform(-0.05, 0.4)
    return drawn(by_another_hand(lines, rng, 0.5), rng)


def images_in_a_row(digits: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Some images of digits, each uint8 (28, 28), side by side, touching or nearly."""
    page = np.zeros((SIDE, SIDE * (len(digits) + 1)), np.uint8)
    left = 4
    for digit in digits:
        digit = Image.fromarray(digit).crop(Image.fromarray(digit).getbbox())
        top = (SIDE - digit.height) // 2
        window = page[top : top + digit.height, left : left + digit.width]
        np.maximum(window, np.asarray(digit), out=window)
        left += digit.width + rng.integers(-2, 7)
    return as_bytes(frame_as_drawn(page))


def speck(_, rng: np.random.Generator) -> np.ndarray:
    """A dot or blob, a level line, grain, a few specks, or a rectangle."""
    kind = rng.integers(5)
    if kind == 0:
        points = 40 + rng.normal(0, rng.uniform(0, 3), (rng.integers(1, 5), 2))
        return as_bytes(frame_as_drawn(Drawing(80, 80, [Stroke(points, rng.uniform(4, 12))]).raster()))
    if kind == 1:
        angle = np.deg2rad(rng.normal(0, 12))
        line = np.linspace(-0.5, 0.5, 8)[:, None] * [np.cos(angle), np.sin(angle)]
        return drawn([line + rng.normal(0, 0.01, (8, 2))], rng)
    image = np.zeros((SIDE, SIDE))
    if kind == 2:
        image = rng.random((SIDE, SIDE)) ** rng.uniform(1, 12) * (rng.random((SIDE, SIDE)) < rng.uniform(0.02, 1))
    elif kind == 3:
        for top, left in rng.integers(2, 25, (rng.integers(1, 7), 2)):
            image[top : top + rng.integers(1, 4), left : left + rng.integers(1, 4)] = rng.uniform(0.3, 1)
    else:
        top, left = rng.integers(3, 12, 2)
        image[top : top + rng.integers(4, 18), left : left + rng.integers(4, 18)] = 1
        if rng.random() < 0.5:  # empty inside
            image[top + 2 : top + rng.integers(3, 16), left + 2 : left + rng.integers(3, 16)] = 0
    return (image * rng.uniform(0.3, 1) * 255).round().astype(np.uint8)


def letter(rng: np.random.Generator) -> np.ndarray:
    """A printed letter or sign, sheared and stretched: uint8 (PAGE, PAGE)."""
    page = Image.new("L", (PAGE, PAGE))
    font = ImageFont.load_default(PAGE / 2)
    ImageDraw.Draw(page).text((PAGE / 2, PAGE / 2), str(rng.choice(LETTERS)), 255, font, anchor="mm")
    matrix = np.eye(2) * rng.uniform(0.7, 1.3, 2) + rng.normal(0, 0.2, (2, 2)) * (1 - np.eye(2))
    offset = (np.eye(2) - matrix) @ (PAGE / 2, PAGE / 2)
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
