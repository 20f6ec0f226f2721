"""Decoding: the pixels of a picture that comes as a file, a PIL image, an array or a tensor."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image, ImageOps

from mnist_kit.errors import ImageError

MIN_SIDE, MAX_PIXELS = 3, 64_000_000  # smaller has no border around its ink; larger is refused before it is decoded
WORK_SIDE = 1024  # px; larger pictures are reduced to about this, by a whole factor


def decode(picture) -> np.ndarray:
    """The pixels of a picture, uint8 (H, W) or (H, W, 3), see-through parts as paper, its longer side about 1,024 px.

    picture: a PIL image of any mode, an array or tensor, or a path, as `photos.as_raster` takes them. Raises likewise.
    """
    image = as_image(picture)
    with _readable(picture):
        if image is not picture:
            image.draft("RGB", (WORK_SIDE, WORK_SIDE))  # lets a JPEG be decoded at a fraction of its size
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = _on_paper(image.convert("RGBA"))
        elif image.mode[0] in "IF":  # 16 or 32 bits a pixel
            image = _from_array(np.asarray(image))
        image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    return np.asarray(image.reduce(math.ceil(max(image.size) / WORK_SIDE)))


def as_image(picture) -> Image.Image:
    """A picture as a PIL image of its own size; a file's pixels are not decoded yet. Raises ImageError."""
    with _readable(picture):
        if isinstance(picture, Image.Image):
            image = picture
        elif not isinstance(picture, str | os.PathLike):
            image = _from_array(picture)
        elif os.path.isfile(picture):  # a named pipe would be waited for
            image = Image.open(picture)
        else:
            raise ImageError(f"{picture} cannot be read as a picture: there is no file of that name")
    _check_size(*image.size)
    return image


@contextmanager
def _readable(picture) -> Iterator[None]:
    """Turn what a decoder raises, and that may be anything, into an ImageError that names the picture."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        name = picture if isinstance(picture, str | os.PathLike) else f"a {type(picture).__name__}"
        raise ImageError(f"{name} cannot be read as a picture: {error}. Is it PNG or JPEG, and whole?") from error


def _from_array(picture) -> Image.Image:
    if isinstance(picture, torch.Tensor):
        picture = picture.detach().cpu()
        picture = picture.dequantize() if picture.is_quantized else picture.to_dense()
        picture = picture.float() if picture.is_floating_point() else picture  # NumPy has no bfloat16
    array = np.asarray(picture)
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] not in (3, 4):
        array = np.moveaxis(array, 0, 2)
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        kinds = "(H, W), (1, H, W), (1, 1, H, W), (H, W, 1), (H, W, 3), (H, W, 4) or (3, H, W)"
        raise ImageError(f"a picture is an array of shape {kinds}, not {array.shape} of {array.dtype}")
    _check_size(*array.shape[1::-1])
    if array.dtype.kind not in "buif":
        raise ImageError(f"the pixels of a picture are numbers, not {array.dtype}")
    low, high = array.min(), array.max()  # NaN goes through both
    if not (low >= 0 and high <= (255 if array.dtype.kind == "f" else 65535)):
        wanted = "from 0 to 1, 0 to 255, or (whole numbers) 0 to 65,535"
        raise ImageError(f"pixels go {wanted}; these of {array.dtype} go from {low} to {high}")
    if array.dtype == np.uint8 and high > 1:
        return Image.fromarray(np.ascontiguousarray(array))
    scale = 255 if high <= 1 else 1 if high <= 255 else 255 / 65535
    return Image.fromarray(np.rint(array * np.float32(scale)).astype(np.uint8))


def _check_size(width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"a picture of {width} × {height} pixels is too small; {MIN_SIDE} × {MIN_SIDE} is the least")
    if width * height > MAX_PIXELS:
        raise ImageError(f"a picture of {width} × {height} pixels is too large; {MAX_PIXELS:,} pixels are the most")


def _on_paper(image: Image.Image) -> Image.Image:
    """Lay an RGBA picture on white paper, or on black where its ink is light."""
    colour, alpha = np.asarray(image.convert("L")), np.asarray(image.getchannel("A"))
    light = np.average(colour, weights=alpha) > 127 if alpha.any() else False
    paper = Image.new("RGBA", image.size, "black" if light else "white")
    return Image.alpha_composite(paper, image)
