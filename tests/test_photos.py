"""Any picture → white ink on black: the kinds of pictures people have, each made here."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from mnist_kit.framing import frame_as_mnist
from mnist_kit.photos import as_raster
from mnist_kit.recognizer import Recognizer
from mnist_kit.synthetic import sample_drawing

SIDE = 500  # px
DIGITS = {2: "loop", 3: "round", 5: "round", 7: "bar", 8: "round"}


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer.load()


def drawn(digit: int, width: float = 20) -> np.ndarray:
    """A digit in the middle of SIDE × SIDE, drawn by a pen of `width` px, float64 in [0, 1]."""
    drawing = sample_drawing(digit, 1, (SIDE, SIDE))
    return replace(drawing, strokes=[replace(s, radius=width / 2) for s in drawing.strokes]).raster() / 255


def on_paper(ink: np.ndarray, paper=255.0, colour=0.0) -> np.ndarray:
    return (paper + (colour - paper) * ink).clip(0, 255).round().astype(np.uint8)


def shaded(low: float = 120, high: float = 230) -> np.ndarray:
    """Paper lit from one corner."""
    y, x = np.mgrid[0 : 1 : SIDE * 1j, 0 : 1 : SIDE * 1j]
    return high - (high - low) * (0.6 * x + 0.4 * y)


def grainy(page: np.ndarray, sigma: float = 6) -> np.ndarray:
    grain = np.random.default_rng(0).normal(0, sigma, page.shape)
    return (page + grain).clip(0, 255).round().astype(np.uint8)


def as_jpeg(page: np.ndarray, quality: int = 60) -> Image.Image:
    file = io.BytesIO()
    Image.fromarray(page).save(file, "JPEG", quality=quality)
    return Image.open(file)


def photo(digit: int) -> np.ndarray:
    return grainy(on_paper(drawn(digit), shaded(), 40))


def tiny(digit: int) -> np.ndarray:
    """As a file of MNIST's size: uint8 (28, 28), white on black."""
    return (frame_as_mnist(np.rint(drawn(digit, 30) * 255).astype(np.uint8))[0].numpy() * 255).astype(np.uint8)


def dark_corner(digit):
    y, x = np.mgrid[0 : 1 : SIDE * 1j, 0 : 1 : SIDE * 1j]
    return grainy(on_paper(drawn(digit), 230 - 170 * np.clip(1 - 1.6 * np.hypot(x, y), 0, 1), 40))


def lined(digit, squared: bool, line: float = 140):
    paper = np.full((SIDE, SIDE), 255.0)
    paper[30::45] = paper[31::45] = line
    if squared:
        paper[:, 30::45] = paper[:, 31::45] = line
    return on_paper(drawn(digit), paper)


def pasted(digit):
    page = np.full((900, 700), 255, np.uint8)
    page[150 : 150 + SIDE, 90 : 90 + SIDE] = photo(digit)
    return page


def with_line(digit, level: int):
    return np.pad(photo(digit)[4:-4, 4:-4], 4, constant_values=level)


def framed(digit, tilt: float = 0):
    page = Image.fromarray(on_paper(drawn(digit)))
    page = Image.fromarray(np.pad(np.asarray(page), 100, constant_values=255))
    ImageDraw.Draw(page).rectangle((60, 60, 640, 640), outline=0, width=9)
    return np.asarray(page.rotate(tilt, Image.Resampling.BILINEAR, fillcolor=255))


def cropped(page: np.ndarray, digit: int, sides: int) -> np.ndarray:
    """Cut so that the ink touches the edge on one side or more."""
    rows, columns = np.nonzero(drawn(digit).max(axis=1) > 0.5)[0], np.nonzero(drawn(digit).max(axis=0) > 0.5)[0]
    bottom, right = (rows[-1] + 1, columns[-1] + 1 if sides > 1 else SIDE)
    top, left = (rows[0] if sides > 2 else 0, columns[0] if sides > 3 else 0)
    return page[top:bottom, left:right]


def edge_of_sheet(digit):
    page = on_paper(drawn(digit), shaded(), 40).astype(float)
    page = np.pad(page, ((0, 0), (0, 120)), constant_values=60)
    page[-25:] = 50
    return np.asarray(Image.fromarray(grainy(page)).filter(ImageFilter.GaussianBlur(1)))


def see_through(digit, level: int):
    alpha = np.rint(drawn(digit) * 255).astype(np.uint8)
    return Image.fromarray(np.dstack([np.full_like(alpha, level)] * 3 + [alpha]))


def specks(digit):
    page = on_paper(drawn(digit))
    for x, y in np.random.default_rng(1).integers(0, SIDE - 6, (12, 2)):
        page[y : y + 5, x : x + 5] = 0
    return page


def coloured(digit, paper, ink):
    share = drawn(digit)[..., None]
    return (np.array(paper) * (1 - share) + np.array(ink) * share).round().astype(np.uint8)


KINDS = {
    "a pen of 2 px": lambda digit: on_paper(drawn(digit, 2)),
    "a pen of 60 px": lambda digit: on_paper(drawn(digit, 60)),
    "faint pencil on shaded, grainy paper": lambda digit: grainy(shaded() - 25 * drawn(digit, 14), 3),
    "a dark corner": dark_corner,
    "ruled paper": lambda digit: lined(digit, squared=False),
    "squared paper": lambda digit: lined(digit, squared=True),
    "squared paper, as dark as the ink": lambda digit: lined(digit, squared=True, line=60),
    "squared paper, a photo": lambda digit: grainy(lined(digit, squared=True) * (shaded() / 255)),
    "a photo pasted on white": pasted,
    "a photo with a light line round it": lambda digit: with_line(digit, 255),
    "a photo with a dark line round it": lambda digit: with_line(digit, 0),
    "a frame": framed,
    "a frame, not straight": lambda digit: framed(digit, 4),
    "a frame, a photo": lambda digit: grainy(framed(digit, 2) * 0.6 + 40 + np.linspace(0, 50, 700)),
    "ink at one edge": lambda digit: cropped(on_paper(drawn(digit)), digit, 1),
    "ink at two edges": lambda digit: cropped(on_paper(drawn(digit)), digit, 2),
    "ink at all edges": lambda digit: cropped(on_paper(drawn(digit, 40)), digit, 4),
    "ink at one edge, a photo": lambda digit: cropped(photo(digit), digit, 1),
    "ink at two edges, a photo": lambda digit: cropped(photo(digit), digit, 2),
    "ink at all edges, a photo": lambda digit: cropped(photo(digit), digit, 4),
    "28 px": tiny,
    "28 px, dark on light": lambda digit: 255 - tiny(digit),
    "28 px, JPEG": lambda digit: as_jpeg(255 - tiny(digit)),
    "28 px, a white border": lambda digit: np.pad(tiny(digit)[2:-2, 2:-2], 2, constant_values=255),
    "28 px, a third as bright": lambda digit: tiny(digit) // 3,
    "20 levels on even paper": lambda digit: on_paper(drawn(digit), 200, 180),
    "coloured ink: yellow on white": lambda digit: coloured(digit, (255, 255, 255), (255, 240, 60)),
    "coloured ink: red on green": lambda digit: coloured(digit, (60, 140, 60), (190, 50, 60)),
    "coloured ink: blue on black": lambda digit: coloured(digit, (0, 0, 0), (40, 40, 255)),
    "a blackboard": lambda digit: 255 - photo(digit),
    "the edge of the sheet": edge_of_sheet,
    "black ink on nothing": lambda digit: see_through(digit, 0),
    "white ink on nothing": lambda digit: see_through(digit, 255),
    "JPEG's ringing": lambda digit: as_jpeg(on_paper(drawn(digit)), 15),
    "specks": specks,
    "a digit in a corner": lambda digit: np.pad(on_paper(drawn(digit)), ((0, 900), (0, 900)), constant_values=255),
    "12 megapixels": lambda digit: np.kron(photo(digit), np.ones((7, 7), np.uint8)),
}


@pytest.mark.parametrize("digit", DIGITS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_is_read(kind, digit, recognizer):
    raster = as_raster(KINDS[kind](digit))
    assert recognizer.predict_rasters([raster])[0].digit == digit
