"""Strokes that grow: parts of them, longer ones, and the rectangle around them."""

from contextlib import suppress
from dataclasses import replace

import numpy as np

from mnist_kit.errors import EmptyDrawing
from mnist_kit.framing import Box, red_rectangle
from mnist_kit.ink import Drawing, Stroke, as_points, as_pressure


def part(stroke: Stroke, points: slice) -> Stroke:
    """`points` of `stroke`."""
    pressure = None if stroke.pressure is None else stroke.pressure[points]
    return replace(stroke, points=stroke.points[points], pressure=pressure)


def lengthened(stroke: Stroke, points, pressure=None) -> Stroke:
    """`stroke` and after it `points`, (n, 2) px.

    pressure: (n,) where the stroke began with one; None keeps the last. Raises DrawingError as `Stroke` does.
    """
    points, both = as_points(points), None
    if stroke.pressure is not None:
        new = stroke.pressure[-1:].repeat(len(points)) if pressure is None else as_pressure(pressure, len(points))
        both = np.concatenate([stroke.pressure, new])
    return replace(stroke, points=np.concatenate([stroke.points, points]), pressure=both)


def quick_rectangle(drawing: Drawing) -> Box | None:
    """`red_rectangle` to within a pixel, from the points alone as long as nothing was erased; None without ink."""
    strokes, page = drawing.strokes, (drawing.width, drawing.height)
    if any(stroke.erase for stroke in strokes):
        with suppress(EmptyDrawing):
            return red_rectangle(drawing)
    elif strokes:
        corner = np.min([stroke.points.min(0) - stroke.radius for stroke in strokes], axis=0) - drawing.widest_pen
        opposite = np.max([stroke.points.max(0) + stroke.radius for stroke in strokes], axis=0) + drawing.widest_pen
        (left, top), (right, bottom) = np.rint([corner, opposite]).clip(0, page).astype(int).tolist()
        if left < right and top < bottom:
            return left, top, right, bottom
    return None
