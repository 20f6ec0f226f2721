"""Any picture → white ink on black: the kinds of pictures people have, each made here."""

import io
import sys
from dataclasses import replace

import numpy as np
import pillow_heif
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw, ImageFilter

from mnist_kit.errors import ImageError
from mnist_kit.framing import frame_as_mnist
from mnist_kit.ink import Drawing
from mnist_kit.photos import as_raster, even_pen
from mnist_kit.recognizer import Recognizer
from mnist_kit.simulate import PhotoSettings, photograph
from mnist_kit.synthetic import sample_drawing

SIDE = 500  # px
DIGITS = 2, 3, 5, 7, 8


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer.load()


def drawn(digit: int | None, width: float = 20) -> np.ndarray:
    """A digit in the middle of SIDE × SIDE, drawn by a pen of `width` px, or none: float64 in [0, 1]."""
    if digit is None:
        return np.zeros((SIDE, SIDE))
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


def plotted(digit):
    """As plotting libraries show an image: on white, with numbers beside the axes."""
    page = Image.new("L", (640, 480), 255)
    page.paste(Image.fromarray(tiny(digit)).resize((360, 360), Image.Resampling.NEAREST), (150, 60))
    draw = ImageDraw.Draw(page)
    draw.rectangle((149, 59, 511, 421), outline=0)
    for tick in range(0, 28, 5):
        draw.text((120, 60 + 13 * tick), str(tick), 0)
        draw.text((150 + 13 * tick, 430), str(tick), 0)
    return np.asarray(page)


def cropped(page: np.ndarray, digit: int, all_sides: bool = False) -> np.ndarray:
    """Cut so that the ink touches the lower edge, or all of them."""
    left, top, right, bottom = Image.fromarray((drawn(digit) > 0.5).astype(np.uint8)).getbbox()
    return page[top:bottom, left:right] if all_sides else page[:bottom]


def edge_of_sheet(digit):
    page = on_paper(drawn(digit), shaded(), 40).astype(float)
    page = np.pad(page, ((0, 0), (0, 120)), constant_values=60)
    page[-25:] = 50
    return np.asarray(Image.fromarray(grainy(page)).filter(ImageFilter.GaussianBlur(1)))


def see_through(digit, level: int):
    alpha = np.rint(drawn(digit) * 255).astype(np.uint8)
    return Image.fromarray(np.dstack([np.full_like(alpha, level)] * 3 + [alpha]))


def with_specks(page: np.ndarray, count: int) -> np.ndarray:
    for x, y in np.random.default_rng(1).integers(20, page.shape[0] - 20, (count, 2)):
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
    "an image in a plot": plotted,
    "ink at one edge": lambda digit: cropped(on_paper(drawn(digit)), digit),
    "ink at all edges": lambda digit: cropped(on_paper(drawn(digit, 40)), digit, all_sides=True),
    "ink at one edge, a photo": lambda digit: cropped(photo(digit), digit),
    "ink at all edges, a photo": lambda digit: cropped(photo(digit), digit, all_sides=True),
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
    "specks": lambda digit: with_specks(on_paper(drawn(digit)), 12),
    "a digit in a corner": lambda digit: np.pad(on_paper(drawn(digit)), ((0, 900), (0, 900)), constant_values=255),
}


@pytest.mark.parametrize("digit", DIGITS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_is_read(kind, digit, recognizer):
    assert recognizer.predict(KINDS[kind](digit)).digit == digit


@pytest.mark.parametrize("kind", ["a pen of 60 px", "a dark corner", "squared paper", "a blackboard", "specks"])
def test_the_ink_is_where_it_was_drawn(kind):
    width = 60 if "60" in kind else 20
    ink, raster = drawn(5, width) > 0.5, as_raster(KINDS[kind](5)) > 127
    assert (ink & raster).sum() > 0.85 * (ink | raster).sum()


@pytest.mark.parametrize("seed", range(8))
def test_simulated_photographs_are_read(seed, recognizer):
    drawing = sample_drawing(seed, 1, (SIDE, SIDE))
    assert recognizer.predict(photograph(drawing, seed)).digit == seed


NO_INK = {
    "grain": lambda: grainy(np.full((SIDE, SIDE), 200.0)),
    "grain, 28 px": lambda: grainy(np.full((28, 28), 200.0), 4),
    "shade": lambda: grainy(shaded(30, 250)),
    "JPEG": lambda: as_jpeg(grainy(shaded()), 40),
    "a speck": lambda: with_specks(np.full((SIDE, SIDE), 255, np.uint8), 1),
    "specks, a photo": lambda: with_specks(grainy(shaded()), 10),
    "a gradient, 28 px": lambda: np.tile(np.linspace(100, 200, 28).astype(np.uint8), (28, 1)),
    "ruled paper": lambda: lined(None, squared=False),
    "squared paper": lambda: lined(None, squared=True),
    "squared paper, a photo": lambda: KINDS["squared paper, a photo"](None),
    "a dark corner": lambda: dark_corner(None),
    "a photo with a light line round it": lambda: with_line(None, 255),
}


@pytest.mark.parametrize("kind", NO_INK)
def test_paper_alone_is_black(kind):
    assert not as_raster(NO_INK[kind]()).any()


@pytest.mark.parametrize("width", [2, 4, 10, 30, 60, 90])
def test_the_pen_is_evened_out(width):
    even = even_pen(np.rint(drawn(5, width) * 255).astype(np.uint8))
    box = Image.fromarray(even).getbbox()
    share = (even > 127).sum() / (box[3] - box[1]) ** 2  # of the ink, in a box as high as the digit
    usual = (even_pen(np.rint(drawn(5, 40) * 255).astype(np.uint8)) > 127).mean()
    assert even.max() == 255 and 0.5 * usual < share < 2 * usual
    assert even_pen(drawn(5, width).astype(np.uint8) * 100).max() == 255  # faint ink too
    assert not even_pen(np.zeros((28, 28), np.uint8)).any()


def test_the_pen_of_mnist_s_writers_stays(mnist, recognizer):
    images = mnist.train.images[:1000, 0].numpy()
    digits = recognizer.predict_images(mnist.train.images[:1000]).argmax(axis=1)
    even = [recognizer.predict_rasters([even_pen(image)])[0].digit for image in images]
    assert (digits != even).sum() <= 1
    assert sum(max(even_pen(image).shape) > 28 for image in images) < 40


def test_the_settings_of_a_photograph():
    small = PhotoSettings(side=(28, 28), aspect=(1, 1), lines=("plain",), edge=0, colours=("red",), grain=(0, 0))
    photo, again, other = (photograph(sample_drawing(8, 1), seed, small) for seed in (0, 0, 1))
    assert photo.size == (28, 28) and photo.mode == "RGB"
    assert np.array_equal(photo, again) and not np.array_equal(photo, other)
    red, _, blue = np.asarray(photo, float).reshape(-1, 3).T
    assert (red - blue).max() > 20
    with pytest.raises(ImageError, match="stroke"):
        photograph(Drawing())
    with pytest.raises(ImageError, match="photographs know"):
        photograph(sample_drawing(4), 0, PhotoSettings(lines=("dotted",)))


def test_digits_beside_a_long_line_are_no_specks():
    page = np.full((SIDE, SIDE), 255, np.uint8)
    page[300:304, 20:480] = 0
    page[260:290, 100:104] = page[260:264, 104:120] = 0
    assert as_raster(page)[275, 102] == 255


@given(
    page=arrays(np.uint8, st.tuples(st.integers(3, 60), st.integers(3, 60)), elements=st.sampled_from([0, 90, 255])),
    scale=st.sampled_from([1, 7]),
)
def test_any_picture_is_ink_or_none(page, scale):
    page = np.kron(page, np.ones((scale, scale), np.uint8))
    raster = as_raster(page)
    assert raster.shape == page.shape and raster.dtype == np.uint8
    assert raster.max() in (0, *range(128, 256))


@pytest.mark.parametrize("shape", [(3, 3), (3, 4), (3, 3_072), (3_072, 3), (3, 30_000)])
def test_the_smallest_and_the_narrowest_pictures(shape):
    page = (28 * np.arange(np.prod(shape)) % 253).astype(np.uint8).reshape(shape)  # of many greys, as photographs are
    assert as_raster(page).ndim == 2


def test_heic(tmp_path, monkeypatch, recognizer):
    pillow_heif.register_heif_opener()
    Image.fromarray(on_paper(drawn(5))).save(tmp_path / "five.heic")
    assert recognizer.predict(tmp_path / "five.heic").digit == 5
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # not installed
    with pytest.raises(ImageError, match="pillow-heif"):
        as_raster(tmp_path / "five.heic")
