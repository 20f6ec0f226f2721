"""Digits the project draws itself, for machines where MNIST cannot be had: pen strokes, jittered, framed as MNIST."""

import textwrap
import zlib
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from tqdm import tqdm

from mnist_kit.data import Digits, Split, load_mnist
from mnist_kit.errors import DataError, DataNotFound, StorageError
from mnist_kit.files import home_folder, write_atomically
from mnist_kit.framing import frame_as_mnist
from mnist_kit.ink import Drawing, Stroke

VERSION = 1  # of the generator: raise it when the same seed gives other images, so that no old cache is read
TENSORS = ("train_images", "train_labels", "test_images", "test_labels")  # in the cache
HOLD_DIGITS = ("mnist", "qmnist")  # of the data sets that load_mnist knows
SKETCH = (96, 96)  # pad in px on which make_digits draws: four times MNIST's 20 px, ample for its antialiasing

# The ways people write each digit: one string per pen stroke, control points "x,y" in hundredths of the digit's height,
# y downwards. A smooth curve goes through the points of a stroke; "!" marks a corner, where it turns sharply.
STYLES: dict[int, dict[str, tuple[str, ...]]] = {
    0: {
        "round": ("50,1 20,14 5,50 20,86 50,99 80,86 95,50 80,14 50,1",),
        "narrow": ("46,1 27,18 20,50 28,82 48,99 68,82 75,48 66,15 46,1",),
        "overlap": ("64,14 38,2 14,28 8,64 30,96 66,93 90,60 86,24 60,4 36,16",),
        "gap": ("46,6 20,22 8,55 24,90 54,98 82,78 90,44 72,8",),
        "tail inside": ("72,8 44,3 16,24 6,60 28,96 62,95 90,66 90,30 70,8 46,14 38,30",),
        "side start": ("12,40 30,8 66,2 92,30 88,70 60,97 24,92 8,62 14,28 34,4",),
        "leaf": ("70,0 30,20 10,70 26,98 60,86 84,36 76,6 50,8",),
    },
    1: {
        "bar": ("50,0 50,100",),
        "bowed": ("56,0 50,50 40,100",),
        "flag": ("26,26 52,2! 52,100",),
        "hook": ("38,12 52,1! 50,100",),
        "foot": ("28,22 50,2! 50,98", "24,98 78,98"),
        "bar on foot": ("50,1 50,98", "26,98 74,98"),
        "long flag": ("20,34 56,2! 52,100",),
    },
    2: {
        "plain": ("12,24 30,5 60,3 78,20 70,46 42,74 8,97! 90,97",),
        "loop": ("14,22 34,3 64,4 78,26 66,56 38,84 14,92 8,80 24,71 46,82 66,96 94,88",),
        "wide loop": ("18,18 44,2 72,14 72,42 46,76 18,97 3,86 16,69 40,74 64,92 98,86",),
        "soft": ("12,26 34,3 66,4 78,28 56,62 22,90 18,97 44,96 90,93",),
        "swan": ("10,22 42,2 76,14 70,46 38,78 8,97! 48,89 96,97",),
        "straight neck": ("14,18 46,2 74,16 64,44 8,98! 88,94",),
        "hooked": ("24,34 14,18 38,2 70,8 76,34 52,66 10,95! 42,90 70,98 92,90",),
        "z": ("12,8 40,4 80,6! 14,94! 52,92 92,94",),
        "curled head": ("34,36 16,26 28,4 64,2 80,24 62,60 12,96! 50,90 94,94",),
        "big head": ("10,34 24,8 60,0 84,22 72,62 40,92 14,94 16,80 40,80 70,94",),
        "rising tail": ("10,20 40,2 76,16 70,52 34,90 8,92 12,76 40,78 60,90 98,78",),
        "short base": ("14,22 40,2 70,12 66,44 40,76 22,95! 60,94",),
        "tall loop": ("16,22 42,2 70,14 72,40 56,72 28,98 4,90 6,64 30,56 58,72 76,100",),
        "falling tail": ("12,26 40,3 72,12 72,42 48,86 22,98 8,84 24,64 52,66 74,82 84,104",),
        "narrow": ("30,20 46,2 62,14 56,50 34,94! 74,98",),
        "long base": ("18,10 50,0 66,16 52,44 22,80 4,92! 40,86 100,84",),
    },
    3: {
        "round": ("12,16 40,2 70,10 70,32 40,46! 74,56 80,82 46,99 8,86",),
        "flat top": ("14,4 78,4! 42,42! 76,54 82,80 54,99 12,90",),
        "soft waist": ("14,13 42,2 70,14 64,36 38,46 44,49 74,60 80,82 48,99 8,88",),
        "waist loop": ("14,12 46,2 70,18 56,40 34,51 34,42 54,45 80,64 72,92 40,99 8,88",),
        "long waist": ("10,12 44,2 72,16 60,38 24,48! 66,50 84,72 64,95 28,99 4,90",),
        "small top": ("20,12 44,2 62,14 56,32 34,40! 72,48 84,74 56,98 10,92",),
        "open": ("18,6 56,2 76,18 58,40! 74,62 66,88 30,99",),
        "angular": ("14,6 76,6! 40,44! 78,74 60,94 20,98",),
        "big bowl": ("28,14 50,2 70,12 62,34 36,44! 74,50 92,72 72,96 30,98 4,84",),
        "curled tail": ("14,16 42,2 72,12 66,36 42,46! 74,56 78,84 48,99 16,94 10,80 24,76",),
        "curled ends": ("30,30 16,16 34,2 64,8 66,32 42,46! 74,58 76,86 44,100 16,90 20,76",),
    },
    4: {
        "open": ("22,4 12,54! 90,52", "74,6 68,100"),
        "open round": ("20,3 10,38 22,55 56,54 92,46", "76,4 68,100"),
        "cup": ("16,5 12,38 32,56 66,44 80,4! 70,100",),
        "closed": ("62,2 8,62! 94,62", "64,2 62,100"),
        "closed in one": ("64,99 66,2! 8,64! 94,63",),
        "peaked": ("56,2 10,56! 84,54", "78,30 60,100"),
        "angular cup": ("20,3 10,52! 72,50! 82,3! 70,100",),
        "short leg": ("48,0 20,64! 76,58", "66,36 60,100"),
        "long arm": ("40,0 16,66! 70,64", "56,44 60,98"),
    },
    5: {
        "two strokes": ("26,5 20,44! 46,36 76,50 80,78 50,98 10,90", "26,5 84,4"),
        "one stroke": ("84,4 30,6! 20,44! 50,36 78,54 76,82 44,99 8,88",),
        "like an s": ("84,6 46,5 26,22 34,42 66,54 78,74 56,97 12,94",),
        "apart": ("28,12 22,46! 50,40 74,54 74,80 44,99 8,92", "40,4 92,0"),
        "slanting": ("94,4 44,8! 30,44 62,54 68,76 44,97 6,92",),
        "straight back": ("80,3 26,3! 24,50! 58,44 80,66 66,94 34,99 12,88",),
        "curled bowl": ("82,4 34,6! 24,44! 54,38 78,56 72,86 42,99 16,90 16,74",),
        "tall back": ("78,2 30,8! 22,56! 50,50 70,64 66,88 40,99 14,92",),
        "flat bowl": ("96,4 40,10! 34,42 66,56 70,78 40,98 4,88",),
        "narrow": ("68,8 48,6 38,30 58,58 58,84 34,100",),
        "wide bowl": ("96,8 40,14! 30,46 66,50 84,76 50,99 6,92",),
    },
    6: {
        "sweep": ("70,2 36,22 13,60 18,92 48,99 78,84 74,59 46,53 16,72",),
        "stem": ("52,0 26,42 14,76 34,99 68,93 76,70 52,57 18,74",),
        "curled": ("82,14 60,2 30,20 11,58 22,92 54,98 78,78 66,56 36,58 14,76",),
        "small loop": ("46,0 26,36 16,76 34,99 58,90 60,70 42,63 22,78",),
        "spiral": ("66,2 34,22 12,62 26,96 66,94 82,70 60,53 36,66 34,80",),
        "round": ("72,10 44,4 18,32 10,70 36,98 74,90 80,64 52,52 14,68",),
        "leaning": ("90,0 48,30 16,68 18,96 48,96 74,74 66,58 40,66 24,88",),
        "tall": ("40,0 20,40 12,78 30,98 58,94 64,78 44,66 18,84",),
        "big loop": ("60,0 28,22 6,62 24,96 68,97 92,70 70,44 34,52 12,74",),
        "unclosed": ("58,0 26,36 14,78 40,99 74,86 72,62 50,56 30,68",),
        "upright": ("30,0 22,40 18,84 40,99 70,84 66,60 44,54 22,74",),
    },
    7: {
        "plain": ("10,6 86,4! 42,100",),
        "curved": ("8,9 46,6 86,4! 58,46 44,100",),
        "bar": ("10,6 86,4! 42,100", "28,52 80,48"),
        "curved bar": ("8,10 46,5 84,4! 56,48 44,100", "26,50 76,50"),
        "serif": ("10,24 13,5! 86,5! 44,100",),
        "serif and bar": ("10,24 13,5! 86,5! 44,100", "30,52 78,50"),
        "wave": ("6,20 22,4 52,12 86,4! 54,54 40,100",),
        "soft": ("8,12 46,3 80,8 76,30 52,64 40,100",),
        "long serif": ("8,36 12,6! 46,10 86,4! 50,60 44,100",),
        "leaning": ("10,10 84,4! 24,100",),
        "upright": ("10,8 74,6! 66,100",),
        "arched": ("20,24 42,2 74,6 76,40 62,70 50,100",),
        "narrow": ("24,14 70,6! 50,100",),
        "arched serif": ("20,40 28,6! 58,14 76,4! 72,50 68,100",),
        "low bar": ("14,8 84,4! 56,56 44,100", "24,66 84,60"),
        "arched, low bar": ("18,20 40,3 76,8 70,44 48,100", "20,66 86,62"),
        "wave and bar": ("8,24 16,6 50,12 80,4! 54,60 46,100", "20,62 84,56"),
    },
    8: {
        "from the right": ("78,14 48,2 22,16 34,41 68,60 78,84 48,99 18,84 30,58 66,40 80,12",),
        "from the waist": ("50,48 24,30 28,7 54,1 76,14 70,36 50,48 24,66 20,88 48,99 78,88 74,64 50,48",),
        "two rings": ("50,1 26,12 26,36 50,46 74,36 74,12 50,1", "50,46 20,60 20,88 50,99 80,88 80,60 50,46"),
        "open": ("72,18 44,4 22,20 38,44 68,64 74,88 44,99 18,84 34,58 66,32 88,4",),
        "from the left": ("30,22 46,3 72,8 72,30 44,52 20,74 30,96 62,96 74,76 52,52 28,32 32,12",),
        "narrow": ("64,12 48,2 34,16 42,40 60,60 64,84 48,99 34,84 42,58 58,40 66,14",),
        "small top": ("66,10 48,2 32,14 44,34 74,58 76,86 44,99 14,84 26,56 58,34 68,12",),
        "straight return": ("76,12 50,2 26,16 34,40 62,62 66,86 42,99 22,84 40,56 88,4",),
        "straight across": ("80,8 52,2 24,16 40,42 62,66 60,92 36,99 22,82 48,50 92,0",),
        "small bottom": ("76,16 50,1 18,18 28,46 56,66 62,88 44,99 28,86 44,62 74,40 80,18",),
        "crossed": ("22,8 70,62 74,90 46,99 22,88 30,60 74,22 70,6 44,2 22,12",),
        "wide top": ("84,10 50,4 8,14 16,38 52,52 60,76 40,99 24,80 46,56 90,22",),
        "open bottom": ("24,98 50,56 74,22 50,1 26,18 44,50 74,74 76,98",),
    },
    9: {
        "straight": ("78,20 52,2 22,14 18,42 46,52 74,34 80,8! 72,100",),
        "soft": ("74,24 52,3 22,18 20,42 46,51 72,30 78,10 76,50 68,100",),
        "curled": ("78,18 50,2 20,16 22,44 50,50 76,28 80,12 82,60 64,94 22,94",),
        "ring and bar": ("72,26 50,2 22,12 18,36 42,50 68,40 72,26", "76,4 70,100"),
        "leaning": ("82,14 54,2 26,22 24,46 50,46 78,18! 56,60 38,100",),
        "hooked": ("78,16 46,4 18,26 34,48 66,40 80,12! 76,66 58,97 34,90",),
        "small ring": ("72,12 48,3 34,20 46,36 68,28 74,8! 70,54 62,100",),
        "unclosed": ("70,14 46,4 20,22 26,44 52,44 74,20! 68,60 58,100",),
        "big ring": ("84,24 56,1 14,14 8,46 42,60 76,42 84,10! 80,60 76,100",),
        "pointed": ("80,6 40,10 18,34 34,50 62,40 80,6! 56,100",),
        "flat top": ("76,8 30,6 20,30 40,46 74,36 78,6! 72,100",),
        "curved leg": ("72,16 48,2 22,18 28,46 54,46 74,14 72,50 60,80 36,100",),
        "tight curl": ("70,14 46,2 24,16 34,36 68,28! 78,60 60,92 24,100 14,88",),
        "unclosed curl": ("76,8 44,4 26,20 40,38 72,30! 80,64 64,94 30,98 16,86",),
        "hanging": ("70,6 40,4 28,22 44,38 72,30! 74,70 52,96 12,92",),
    },
}


def make_digits(train: int = 12_000, test: int = 2_000, seed: int = 0, progress: bool = True) -> Digits:
    """Draw a data set in MNIST's format: `train` and `test` images, ten balanced classes, shuffled.

    Returns Digits named "synthetic": images uint8 (N, 1, 28, 28), labels int64 (N,). The same sizes and seed give the
    same images, kept in `home_folder()/synthetic` for the next call; a folder that cannot be written is no error.
    `progress` shows a bar while drawing. Raises DataError for sizes below 1 or a negative seed.
    """
    for name, value, least in (("train", train, 1), ("test", test, 1), ("seed", seed, 0)):
        if not isinstance(value, int | np.integer) or value < least:
            raise DataError(f"make_digits({name}={value!r}): {name} must be a whole number from {least} up")
    path = home_folder() / "synthetic" / f"digits-v{VERSION}-{train}-{test}-seed{seed}.safetensors"
    tensors = _read_cache(path)
    if tensors is None:
        streams = np.random.SeedSequence(seed).spawn(2)
        with tqdm(total=train + test, desc="drawing digits", unit="digit", disable=not progress, leave=False) as bar:
            tensors = dict(zip(TENSORS[:2], _make_split(train, np.random.default_rng(streams[0]), bar), strict=True))
            tensors |= dict(zip(TENSORS[2:], _make_split(test, np.random.default_rng(streams[1]), bar), strict=True))
        _write_cache(path, tensors)
    return Digits(
        name="synthetic",
        train=Split(tensors["train_images"], tensors["train_labels"]),
        test=Split(tensors["test_images"], tensors["test_labels"]),
    )


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
    styles = tuple(STYLES[digit])
    style = style or styles[rng.integers(len(styles))]

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


def load_digits(name: str = "mnist") -> Digits:
    """`load_mnist(name)`, or, where those digits cannot be had, `make_digits()` under a visible banner.

    Only DataNotFound falls back: damaged files raise their DataError, to be mended and not hidden. A missing data set
    of other things ("fashion", "kmnist") raises its DataNotFound, because digits cannot stand in for those.
    """
    try:
        return load_mnist(name)
    except DataNotFound as error:
        if name not in HOLD_DIGITS:
            raise
        print(_banner(name, error), flush=True)
        return make_digits()


def _banner(name: str, error: DataNotFound) -> str:
    bar = "█" * 100
    indents = {"initial_indent": "  ", "subsequent_indent": "  "}
    reason = textwrap.fill(str(error), len(bar), **indents, break_long_words=False, break_on_hyphens=False)
    return f"""{bar}
  SYNTHETIC DIGITS: {name!r} cannot be had, so the project draws its own.
  Everything below runs, but no figure of the paper applies to these images.
  To get the real ones, mend this and run again (MNIST_KIT_DATA names the folder they are looked for in):

{reason}
{bar}"""


def _make_split(size: int, rng: np.random.Generator, bar: tqdm) -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 (size, 1, 28, 28) and labels int64 (size,), each digit as often as any other, shuffled."""
    labels = rng.permutation(np.arange(size) % 10)
    images = torch.empty((size, 1, 28, 28), dtype=torch.uint8)
    for index, label in enumerate(labels):
        framed = frame_as_mnist(sample_drawing(label, rng, SKETCH).raster())
        images[index] = (framed * 255).round()
        bar.update()
    return images, torch.from_numpy(labels)


def _jittered(style: tuple[str, ...], rng: np.random.Generator) -> list[np.ndarray]:
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
    for points, corners in map(_skeleton, style):
        points = points + rng.normal(0, 0.04, points.shape) + rng.normal(0, 0.015, 2)
        for end, inner in ((0, 1), (-1, -2)):  # the pen starts late or early, stops short or goes on
            points[end] += rng.normal(0, 0.15) * (points[end] - points[inner])
        curve = _through(points, corners) - 0.5
        x, y = curve.T
        curve = np.stack([x * (1 + taper * y), y + balance * (0.25 - y**2)], axis=1)
        curve += np.sin(curve @ frequencies + phases) @ waves
        curves.append(curve @ shear @ rotation)
    return curves


@cache
def _skeleton(stroke: str) -> tuple[np.ndarray, tuple[int, ...]]:
    """The control points (k, 2) of one string of STYLES, in heights of the digit, and the indices of its corners."""
    words = stroke.split()
    points = np.array([word.rstrip("!").split(",") for word in words], dtype=float) / 100
    return points, tuple(index for index, word in enumerate(words) if word.endswith("!"))


def _through(points: np.ndarray, corners: tuple[int, ...] = (), steps: int = 6) -> np.ndarray:
    """A curve through `points`, (k ≥ 2, 2), smooth but at `corners`: (n, 2), `steps` points from each to the next.

    Uniform Catmull–Rom spline (E. Catmull, R. Rom, "A class of local interpolating splines", 1974), a piece between
    corners, its ends continued by reflection.
    """
    t = (np.arange(steps) / steps)[:, None]
    bounds = (0, *corners, len(points) - 1)
    pieces = []
    for first, last in pairwise(bounds):
        piece = points[first : last + 1]
        padded = np.vstack([2 * piece[0] - piece[1], piece, 2 * piece[-1] - piece[-2]])[:, None]
        a, b, c, d = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
        pieces.append(b + ((c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * (b - c) + d - a) * t**3) / 2)
    return np.vstack([*(piece.reshape(-1, 2) for piece in pieces), points[-1:]])


def _checksum(tensors: dict[str, torch.Tensor]) -> str:
    return str([zlib.crc32(tensor.numpy()) for tensor in tensors.values()])


def _write_cache(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    # Without a place to keep them the digits are as good; only the next call draws them again.
    with suppress(StorageError):
        write_atomically(path, save(tensors, {"checksum": _checksum(tensors)}))


def _read_cache(path: Path) -> dict[str, torch.Tensor] | None:
    """The tensors that `_write_cache` wrote, or None when there is no such file or it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in TENSORS}
            intact = file.metadata() == {"checksum": _checksum(tensors)}
    except (OSError, SafetensorError):
        return None
    return tensors if intact else None
