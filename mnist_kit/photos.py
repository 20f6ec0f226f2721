"""Photos: any picture of dark ink on light paper, or light on dark, as a raster."""

import math
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps

from mnist_kit.errors import ImageError

MIN_SIDE, MAX_PIXELS = 3, 64_000_000  # smaller has no border around its ink; larger is refused before it is decoded
WORK_SIDE = 1024  # px; larger pictures are reduced to about this before anything is computed
SIDE = 28  # px; pictures of this size have faint edge pixels and are never smoothed
LEAST_CONTRAST = 26  # of 255; fainter differences from the paper are not ink


def as_raster(picture) -> np.ndarray:
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
        if isinstance(picture, torch.Tensor):
            picture = picture.detach().cpu().numpy()
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
