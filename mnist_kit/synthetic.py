"""Digits the project draws itself, for machines where MNIST cannot be had: pen strokes, jittered, framed as MNIST."""

import json
from contextlib import suppress
from dataclasses import replace
from functools import cache
from io import BytesIO
from itertools import pairwise

import numpy as np
import scipy  # which imports its parts when they are first used
import torch
from tqdm import tqdm

from mnist_kit.data import Digits, Split, load_mnist
from mnist_kit.errors import DataError, DataNotFound, StorageError
from mnist_kit.files import REFERENCE, home_folder, write_atomically
from mnist_kit.framing import frame_as_mnist
from mnist_kit.ink import Drawing, Stroke

VERSION = 1  # of the generator: raise it when the same seed gives other images, so that no old cache is read
MOST = 1_000_000  # images of a split, so that it fits into memory
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")  # in the cache
HOLD_DIGITS = ("mnist", "qmnist")  # of the data sets that load_mnist knows
SKETCH = (96, 96)  # pad in px on which make_digits draws: four times MNIST's 20 px, ample for its antialiasing

# The ways people write each digit, by name: one string per pen stroke, control points "x,y" in hundredths of the
# digit's height, y downwards. A smooth curve goes through them; "!" marks a corner, where it turns sharply.
STYLES: dict[int, dict[str, list[str]]] = {
    int(digit): styles for digit, styles in json.loads((REFERENCE / "pen_styles.json").read_text()).items()
}


def make_digits(train: int = 12_000, test: int = 2_000, seed: int = 0, progress: bool = True) -> Digits:
    """Draw a data set in MNIST's format: `train` and `test` images, ten balanced classes, shuffled.

    Returns Digits named "synthetic": images uint8 (N, 1, 28, 28), labels int64 (N,). The same sizes and seed give the
    same images, kept in `home_folder()/synthetic` for the next call; a folder that cannot be written is no error.
    `progress` shows a bar while drawing. Raises DataError for sizes below 1 or above a million, and a negative seed.
    """
    for name, value, least, most in (("train", train, 1, MOST), ("test", test, 1, MOST), ("seed", seed, 0, 2**63 - 1)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or not least <= value <= most:
            raise DataError(f"{name}={value!r:.80}: make_digits takes a whole number from {least} to {most:,}")
    path = home_folder() / "synthetic" / f"digits-v{VERSION}-{train}-{test}-seed{seed}.npz"
    with suppress(Exception):  # there are none yet, or they are damaged, which the format's checksums tell in many ways
        with np.load(path) as file:
            digits = _as_digits([file[name] for name in ARRAYS])
        if (len(digits.train), len(digits.test)) == (train, test):
            return digits
    train_stream, test_stream = np.random.SeedSequence(seed).spawn(2)
    arrays = [*_make_split(train, train_stream, progress), *_make_split(test, test_stream, progress)]
    file = BytesIO()
    np.savez_compressed(file, **dict(zip(ARRAYS, arrays, strict=True)))
    with suppress(StorageError):  # without a place to keep them the digits are as good
        write_atomically(path, file.getvalue())
    return _as_digits(arrays)


def _as_digits(arrays: list[np.ndarray]) -> Digits:
    images, labels, test_images, test_labels = map(torch.from_numpy, arrays)
    return Digits("synthetic", Split(images, labels), Split(test_images, test_labels))


def sample_drawing(
    digit: int, seed: int | np.random.Generator = 0, size: tuple[int, int] = (800, 600), style: str | None = None
) -> Drawing:
    """One synthetic `digit` (0–9), drawn on a pad of `size` (width, height) px, labelled.

    The same arguments give the same drawing; a Generator as `seed` is drawn from, and so gives another each time.
    `style` is one of `STYLES[digit]`, by default any of them. Raises DataError for another digit, style or seed, and
    DrawingError for an impossible size.
    """
    if isinstance(digit, bool) or not isinstance(digit, int | np.integer) or digit not in STYLES:
        raise DataError(f"digit must be a whole number 0–9, not {digit!r}")
    if style is not None and style not in STYLES[digit]:
        raise DataError(f"there is no {digit} in the style {style!r}; there are: {', '.join(STYLES[digit])}")
    try:
        rng = np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise DataError(f"seed must be a whole number from 0 up or a Generator, not {seed!r}") from error
    style = style or list(STYLES[digit])[rng.integers(len(STYLES[digit]))]

    width, height = size
    pad = Drawing(width, height, label=int(digit))  # refuses an impossible size before anything is drawn on it
    curves = _jittered(STYLES[digit][style], rng)
    low, high = np.min([c.min(axis=0) for c in curves], axis=0), np.max([c.max(axis=0) for c in curves], axis=0)
    length = min(width, height) * rng.uniform(0.65, 0.85)  # of the ink's longer side, in px
    thickness = min(2.3 * np.exp(rng.normal(0, 0.35)), 7)  # of the pen once that side is 20 px, as in MNIST
    radius = length * thickness / 20 / 2
    scale = (length - 2 * radius) / max(high - low)
    centre = np.array([width, height]) / 2
    strokes = [Stroke((curve - (low + high) / 2) * scale + centre, radius) for curve in curves]
    return replace(pad, strokes=strokes)


BANNER = """
SYNTHETIC DIGITS: {name!r} cannot be had, so the project draws its own.
Everything below runs, but no figure of the paper applies to these images.
To get the real ones, fix this and run again (MNIST_KIT_DATA names the folder they are looked for in):

    {error}
"""


def load_digits(name: str = "mnist") -> Digits:
    """`load_mnist(name)`, or, where those digits cannot be had, `make_digits()` under a visible banner.

    Only DataNotFound falls back: damaged files raise their DataError, to be fixed and not hidden. A missing data set
    of other things ("fashion", "kmnist") raises its DataNotFound, because digits cannot stand in for those.
    """
    try:
        return load_mnist(name)
    except DataNotFound as error:
        if name not in HOLD_DIGITS:
            raise
        print(BANNER.format(name=name, error=error), flush=True)
        return make_digits()


def _make_split(size: int, seed: np.random.SeedSequence, progress: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (size, 1, 28, 28) and labels int64 (size,), each digit as often as any other, shuffled."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(size) % 10)
    images = np.empty((size, 1, 28, 28), np.uint8)
    for index, label in enumerate(tqdm(labels, "drawing digits", unit="digit", disable=not progress, leave=False)):
        images[index] = (frame_as_mnist(sample_drawing(label, rng, SKETCH).raster()) * 255).round()
    return images, labels


def _jittered(style: list[str], rng: np.random.Generator) -> list[np.ndarray]:
    """The strokes of `style` in one person's hand of one day: float64 (n, 2) each, around the unit box, y downwards."""
    # What all strokes of a digit share: proportions, then slant and rotation as one linear map.
    balance, taper = rng.normal(0, (0.3, 0.2))  # how much of the height the upper half has; the width, going down
    waves = rng.normal(0, 0.02, (2, 2))  # amplitude of two slow waves, in x and y
    frequencies, phases = rng.uniform(2, 6, (2, 2)) * rng.choice((-1, 1), (2, 2)), rng.uniform(0, 2 * np.pi, 2)
    aspect = np.exp(rng.normal(0, 0.2))
    slant, turn = rng.normal(0.12, 0.25), rng.normal(0, 0.1)
    shear = np.array([[aspect, 0], [-slant, 1]])  # of row vectors: the top goes to the right
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])

    curves = []
    for points, weights in map(_skeleton, style):
        points = points + rng.normal(0, 0.04, points.shape) + rng.normal(0, 0.015, 2)
        for end, inner in ((0, 1), (-1, -2)):  # the pen starts late or early, stops short or goes on
            points[end] += rng.normal(0, 0.15) * (points[end] - points[inner])
        curve = weights @ points - 0.5
        x, y = curve.T
        curve = np.stack([x * (1 + taper * y), y + balance * (0.25 - y**2)], axis=1)
        curve += np.sin(curve @ frequencies + phases) @ waves
        curves.append(curve @ shear @ rotation)
    return curves


@cache
def _skeleton(stroke: str) -> tuple[np.ndarray, np.ndarray]:
    """One string of STYLES: control points (k, 2) in heights of the digit; weights (n, k) of them in the curve."""
    words = stroke.split()
    points = np.array([word.rstrip("!").split(",") for word in words], dtype=float) / 100
    corners = tuple(index for index, word in enumerate(words) if word.endswith("!"))
    return points, _through(np.eye(len(points)), corners)


def _through(points: np.ndarray, corners: tuple[int, ...] = (), steps: int = 6) -> np.ndarray:
    """A curve through `points`, (k ≥ 2, d), smooth but at `corners`: (n, d), `steps` points from each to the next.

    Uniform Catmull–Rom spline (E. Catmull, R. Rom, "A class of local interpolating splines", 1974), a piece between
    corners, its ends continued by reflection: a cubic whose slope at a point is half the way between its neighbours.
    """
    curve = []
    for first, last in pairwise((0, *corners, len(points) - 1)):
        piece = points[first : last + 1]
        spline = scipy.interpolate.CubicHermiteSpline(np.arange(len(piece)), piece, np.gradient(piece, axis=0))
        curve.append(spline(np.arange(steps * (last - first)) / steps))
    return np.vstack([*curve, points[-1:]])
