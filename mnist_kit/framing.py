"""Framing: from any picture to white ink on black, and from there to the 28 × 28 that a network was trained on."""

import math
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps

from mnist_kit.errors import EmptyDrawing, ImageError
from mnist_kit.ink import Drawing, Ink

SIDE = 28  # px; of an MNIST image
DIGIT_SIDE = 20  # px; MNIST's digits fit into a box of this side
PEN_RADIUS = 1.15  # px in that box; gives pen drawings the mean ink of MNIST, 0.12
MIN_SIDE, MAX_PIXELS = 3, 64_000_000  # smaller has no border around its ink; larger is refused before it is decoded
WORK_SIDE = 1024  # px; larger pictures are reduced to about this before anything is computed
LEAST_CONTRAST = 26  # of 255; fainter differences from the paper are not ink


def frame_as_mnist(ink: np.ndarray | Drawing | Ink) -> torch.Tensor:
    """Frame ink the way MNIST framed its digits: longest side 20 px, centre of mass in the middle of 28 × 28.

    ink: a raster, uint8 (height, width), white on black; or a drawing, finished or not, which is drawn again at the
    width of MNIST's pens, so that the brush does not change the answer. Returns float32 (1, 28, 28) in [0, 1].
    Raises EmptyDrawing when there is no ink.
    Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits". Shifts are whole pixels, and the middle
    is pixel (14, 14), which gives MNIST's own images back unmoved.
    """
    raster = ink if isinstance(ink, np.ndarray) else _as_by_mnist_s_pen(ink)
    digit = Image.fromarray(raster).crop(ink_box(raster))
    scale = DIGIT_SIDE / max(digit.size)
    digit = digit.resize([max(1, round(side * scale)) for side in digit.size], Image.Resampling.BILINEAR)
    pixels = np.asarray(digit)

    rows, columns = pixels.shape
    mass = pixels.sum(dtype=np.float64)
    top = _corner((pixels.sum(axis=1) @ np.arange(rows)) / mass, rows)
    left = _corner((pixels.sum(axis=0) @ np.arange(columns)) / mass, columns)
    framed = np.zeros((SIDE, SIDE), np.uint8)
    framed[top : top + rows, left : left + columns] = pixels
    return _as_input(framed)


def frame_as_paper(ink: np.ndarray | Drawing | Ink) -> torch.Tensor:
    """Frame ink as the paper's program does: stretch the red rectangle to 28 × 28, whatever its aspect.

    ink: a raster, uint8 (height, width), white on black, or a drawing, finished or not. Returns float32 (1, 28, 28) in
    [0, 1], resized as torchvision's `Resize` does (bilinear, antialiased). Raises EmptyDrawing when there is no ink.
    """
    raster = _raster(ink)
    rectangle = Image.fromarray(raster).crop(ink_box(raster, _margin(ink)))
    return _as_input(np.asarray(rectangle.resize((SIDE, SIDE), Image.Resampling.BILINEAR)))


FRAMINGS = {"mnist": frame_as_mnist, "paper": frame_as_paper}


def red_rectangle(ink: np.ndarray | Drawing | Ink) -> tuple[int, int, int, int]:
    """What the paper's program shows in red and gives to the model: the box of the ink and, of a drawing, a margin.

    ink: a raster, uint8 (height, width); or a drawing, finished or not, whose margin is the radius of its widest pen.
    Returns (left, top, right, bottom) as `ink_box` does. Raises EmptyDrawing.
    """
    return ink_box(_raster(ink), _margin(ink))


def ink_box(raster: np.ndarray, margin: int = 0) -> tuple[int, int, int, int]:
    """The box of the ink in pixels: (left, top, right, bottom), right and bottom exclusive.

    raster: uint8 (height, width); margin: widens the box on every side, as far as the raster goes.
    Raises EmptyDrawing when there is no ink.
    """
    box = Image.fromarray(raster).getbbox()
    if box is None:
        raise EmptyDrawing("nothing is drawn yet: there is no ink in the picture")
    left, top, right, bottom = box
    height, width = raster.shape
    return max(0, left - margin), max(0, top - margin), min(width, right + margin), min(height, bottom + margin)


def as_ink(picture) -> np.ndarray:
    """Any picture of dark ink on light paper, or light on dark, as uint8 (height, width): white ink on black.

    picture: a PIL image of any mode; an array (H, W), (1, H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of booleans, of
    8- or 16-bit whole numbers, or of floats in 0–1 or 0–255; or the path of an image file. See-through parts are
    paper. The paper's brightness is taken from the border; where that is uneven or grainy, as in a photograph, the
    lighting is evened out and the grain dropped. The darkest ink becomes 255. Pictures whose longer side is above
    1,024 px come back smaller, by a whole factor.

    Raises ImageError for a missing or damaged file, another shape or range, NaN, a side below 3 px, and more than
    64 million pixels. A picture without ink gives an all-black raster, which the framings refuse.
    """
    grey = _grey(picture)
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]]).astype(np.float32)
    paper = np.median(border)
    if np.percentile(np.abs(border - paper), 90) <= 2:  # even paper: 256 levels say it all
        levels = np.arange(256, dtype=np.float32) - paper
        present = levels[grey.min()], levels[grey.max()]
        # The ringing of a JPEG is not ink, but the faint edge pixels of a 28 × 28 digit are.
        return _whitened(levels, *present, 0.08 if max(grey.shape) > SIDE else 0)[grey]
    difference = _smooth(grey.astype(np.float32)) - _lighting(grey.astype(np.float32))
    low, high = difference.min(), difference.max()
    return _whitened(difference, low, high, max(5 * _spread(difference) / max(high, -low, 1), 1 / 3))


def _whitened(difference: np.ndarray, low: float, high: float, grain: float) -> np.ndarray:
    """`difference` from the paper, float32, as uint8 of the same shape: ink up to 255, what is below `grain` × it 0.

    low, high: what of it is there; the farther of the two is the ink's.
    """
    sign, peak = (1, high) if high >= -low else (-1, -low)
    if peak * (1 - grain) < LEAST_CONTRAST:
        return np.zeros(difference.shape, np.uint8)
    difference = difference * sign
    ink = np.where(difference > grain * peak, difference * (255 / peak), 0)
    return np.rint(ink.clip(0, 255)).astype(np.uint8)


def _raster(ink: np.ndarray | Drawing | Ink) -> np.ndarray:
    if isinstance(ink, Drawing):
        return ink.raster()
    return ink.raster if isinstance(ink, Ink) else ink


def _margin(ink: np.ndarray | Drawing | Ink) -> int:
    return 0 if isinstance(ink, np.ndarray) else round(ink.widest_pen)


def _as_by_mnist_s_pen(ink: Drawing | Ink) -> np.ndarray:
    """The raster of the drawing, drawn again with MNIST's pen where its lines alone say what is to be seen."""
    strokes = ink.strokes
    if not strokes or any(stroke.erase for stroke in strokes):
        return _raster(ink)
    points = np.concatenate([stroke.points for stroke in strokes])
    inside = (points >= 0).all() and (points <= (ink.width, ink.height)).all()
    blob = np.ptp(points, axis=0).max() < 2 * ink.widest_pen
    if blob or not inside:
        return _raster(ink)
    return Drawing(ink.width, ink.height, strokes).fitted(5 * DIGIT_SIDE, 5 * PEN_RADIUS).raster()


def _as_input(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / 255)[None]


def _corner(mean: float, length: int) -> int:
    """Where `length` pixels begin whose centre of mass is at index `mean`, so that it comes to lie on pixel 14."""
    corner = math.ceil(SIDE / 2 - mean - 0.5)
    return min(max(corner, 0), SIDE - length)


def _grey(picture) -> np.ndarray:
    """The picture as uint8 (height, width), see-through parts as paper, reduced to a workable size."""
    if isinstance(picture, str | os.PathLike):
        image = _open(Path(picture))
    elif isinstance(picture, Image.Image):
        image = picture
    else:
        image = _from_array(picture)
    _check_size(*image.size)
    try:
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = _on_paper(image.convert("RGBA"))
        elif image.mode[0] in "IF":  # 16 or 32 bits a pixel
            image = _from_array(np.asarray(image))
        image = image.convert("L")
    except ImageError:
        raise
    except Exception as error:  # decoders raise whatever they stumble on
        raise ImageError(f"the picture cannot be decoded: {error}. Save it again, as PNG for instance.") from error
    factor = math.ceil(max(image.size) / WORK_SIDE)
    return np.asarray(image.reduce(factor) if factor > 1 else image)


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        _check_size(*image.size)
        image.draft("L", (WORK_SIDE, WORK_SIDE))  # lets a JPEG be decoded at a fraction of its size
        image.load()
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"there is no file {path}") from error
    except Exception as error:  # decoders raise whatever they stumble on
        raise ImageError(f"{path} cannot be read as a picture: {error}. Is it PNG, JPEG or the like?") from error
    return image


def _from_array(picture) -> Image.Image:
    try:
        array = np.asarray(picture)
    except Exception as error:
        raise ImageError(f"a {type(picture).__name__} is no picture: {error}") from error
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise ImageError(
            f"a picture is an array of shape (H, W), (1, H, W), (H, W, 1), (H, W, 3) or (H, W, 4), "
            f"not {array.shape} of {array.dtype}"
        )
    height, width = array.shape[:2]
    _check_size(width, height)
    if array.dtype.kind not in "buif":
        raise ImageError(f"the pixels of a picture are numbers, not {array.dtype}")
    low, high = array.min(), array.max()  # NaN goes through both
    if not (low >= 0 and high <= (255 if array.dtype.kind == "f" else 65535)):
        raise ImageError(
            f"pixels go from 0 to 1, 0 to 255, or (whole numbers) 0 to 65,535; these of {array.dtype} go from {low} "
            f"to {high}"
        )
    scale = 255 if high <= 1 else 1 if high <= 255 else 255 / 65535
    return Image.fromarray(array if array.dtype == np.uint8 and scale == 1 else np.rint(array * scale).astype(np.uint8))


def _check_size(width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"a picture of {width} × {height} pixels is too small; {MIN_SIDE} × {MIN_SIDE} is the least")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"a picture of {width} × {height} pixels is too large; reduce it to below {MAX_PIXELS:,} pixels"
        )


def _on_paper(image: Image.Image) -> Image.Image:
    """Lay an RGBA picture on white paper, or on black where its ink is light."""
    colour, alpha = np.asarray(image.convert("L")), np.asarray(image.getchannel("A"))
    light = np.average(colour, weights=alpha) > 127 if alpha.any() else False
    paper = Image.new("RGBA", image.size, "black" if light else "white")
    return Image.alpha_composite(paper, image)


def _smooth(grey: np.ndarray) -> np.ndarray:
    """Take grain away; in small pictures a pen is no wider than the filter, and they stay as they are."""
    if min(grey.shape) < 5 * SIDE:
        return grey
    image = Image.fromarray(grey.astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.MedianFilter(5)).filter(ImageFilter.BoxBlur(1)), np.float32)


def _spread(values: np.ndarray) -> float:
    """The standard deviation of the bulk of `values`, blind to outliers (1.4826 × the median deviation)."""
    return 1.4826 * np.median(np.abs(values - np.median(values)))


def _lighting(grey: np.ndarray) -> np.ndarray:
    """The paper's brightness in every pixel: a quadratic surface fitted to what is not ink, (height, width)."""
    height, width = grey.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1, dtype=np.float32)
    step = math.ceil(max(height, width) / 64)
    samples, values = terms[::step, ::step].reshape(-1, 6), grey[::step, ::step].ravel()
    paper = np.ones(len(values), bool)
    for _ in range(5):
        surface = np.linalg.lstsq(samples[paper], values[paper])[0]
        deviation = values - samples @ surface
        paper = np.abs(deviation) <= 2.5 * _spread(deviation) + 1
    return terms @ surface
