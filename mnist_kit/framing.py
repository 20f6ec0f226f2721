"""Framing: from ink to the 28 × 28 pixels that a network was trained on."""

import numpy as np
import torch
from PIL import Image

from mnist_kit.errors import EmptyDrawing
from mnist_kit.ink import Drawing, Stroke
from mnist_kit.photos import even_pen

SIDE = 28  # px; of an MNIST image
DIGIT_SIDE = 20  # px; MNIST's digits fit into a box of this side
PEN_RADIUS = 1.15  # px in that box; gives pen drawings the mean ink of MNIST, 0.12

Box = tuple[int, int, int, int]  # left, top, right, bottom in px; right and bottom are exclusive


def frame_as_mnist(raster: np.ndarray) -> torch.Tensor:
    """Frame ink the way MNIST framed its digits: longest side 20 px, centre of mass in the middle of 28 × 28.

    raster: uint8 (H, W), white ink on black; its pen is evened out. Returns float32 (1, 28, 28) in [0, 1]. Raises
    EmptyDrawing without ink.
    Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits". Shifts are whole pixels, and the middle
    is pixel (14, 14), which gives MNIST's own images back unmoved.
    """
    return frame_as_drawn(even_pen(raster))


def frame_as_drawn(raster: np.ndarray) -> torch.Tensor:
    """As `frame_as_mnist`, with strokes as thick as they are: a network that is trained is shown pens of all widths."""
    digit = Image.fromarray(raster).crop(ink_box(raster))
    scale = DIGIT_SIDE / max(digit.size)
    digit = digit.resize([max(1, round(side * scale)) for side in digit.size], Image.Resampling.BILINEAR)
    pixels = np.asarray(digit)

    rows, columns = pixels.shape
    centre = np.array([pixels.sum(axis=1) @ np.arange(rows), pixels.sum(axis=0) @ np.arange(columns)]) / pixels.sum()
    corner = np.ceil(SIDE / 2 - centre - 0.5).astype(int)  # so that the centre of mass lies on pixel 14
    top, left = corner.clip(0, (SIDE - rows, SIDE - columns))
    framed = np.zeros((SIDE, SIDE), np.uint8)
    framed[top : top + rows, left : left + columns] = pixels
    return _as_input(framed)


def frame_as_paper(raster: np.ndarray, margin: int = 0) -> torch.Tensor:
    """Frame ink as the paper's program does: stretch the red rectangle to 28 × 28, whatever its aspect.

    raster: uint8 (H, W), white ink on black; margin: of the red rectangle around the ink, px. Returns float32
    (1, 28, 28) in [0, 1], resized as torchvision's `Resize` does (bilinear, antialiased). Raises EmptyDrawing.
    """
    rectangle = Image.fromarray(raster).crop(ink_box(raster, margin))
    return _as_input(np.asarray(rectangle.resize((SIDE, SIDE), Image.Resampling.BILINEAR)))


FRAMINGS = {"mnist": frame_as_mnist, "paper": frame_as_paper}


def mnist_raster(drawing: Drawing) -> np.ndarray:
    """The drawing redrawn with MNIST's pen at five times MNIST's size, uint8 (H, W): the brush makes no difference."""
    if not is_line_art(drawing):
        return drawing.raster()
    side, radius = 5 * DIGIT_SIDE, 5 * PEN_RADIUS
    points = np.concatenate([stroke.points for stroke in drawing.strokes])
    corner = points.min(axis=0)
    scale = (side - 2 * radius) / max(np.ptp(points, axis=0).max(), 1e-6)
    strokes = [Stroke((stroke.points - corner) * scale + radius + 1, radius) for stroke in drawing.strokes]
    return Drawing(side + 2, side + 2, strokes).raster()


def is_line_art(drawing: Drawing) -> bool:
    """Whether the lines alone tell what is to be seen: nothing is erased, leaves the page, or is just a blob."""
    strokes = drawing.strokes
    if not strokes or any(stroke.erase for stroke in strokes):
        return False
    points = np.concatenate([stroke.points for stroke in strokes])
    inside = (points >= 0).all() and (points <= (drawing.width, drawing.height)).all()
    return bool(inside and np.ptp(points, axis=0).max() >= 2 * drawing.widest_pen)


def red_rectangle(drawing: Drawing) -> Box | None:
    """What the paper's program shows in red and gives to the model: the box of the ink and a margin; None without ink.

    The margin is the radius of the widest pen. As long as nothing was erased the points alone give the box, to within a
    pixel: it is shown while a stroke grows.
    """
    strokes, margin = drawing.strokes, drawing.widest_pen
    if any(stroke.erase for stroke in strokes):
        raster = drawing.raster()
        return ink_box(raster, round(margin)) if raster.any() else None
    if not strokes:
        return None
    edges = np.concatenate([stroke.points + side * stroke.radius for stroke in strokes for side in (-1, 1)])
    box = np.rint([edges.min(axis=0) - margin, edges.max(axis=0) + margin])
    (left, top), (right, bottom) = box.clip(0, (drawing.width, drawing.height)).astype(int).tolist()
    return (left, top, right, bottom) if left < right and top < bottom else None


def ink_box(raster: np.ndarray, margin: int = 0) -> Box:
    """The box of the ink in pixels: (left, top, right, bottom), right and bottom exclusive.

    raster: uint8 (H, W); margin: widens the box on every side, as far as the raster goes.
    Raises EmptyDrawing when there is no ink.
    """
    box = Image.fromarray(raster).getbbox()
    if box is None:
        raise EmptyDrawing("there is no ink to recognise")
    left, top, right, bottom = box
    height, width = raster.shape
    return max(0, left - margin), max(0, top - margin), min(width, right + margin), min(height, bottom + margin)


def _as_input(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / 255)[None]
