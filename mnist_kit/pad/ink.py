"""The ink that grows: the strokes on the pad, with undo and redo."""

from dataclasses import replace

import numpy as np

from mnist_kit.framing import Box
from mnist_kit.ink import Drawing, Stroke


class Ink:
    """The strokes on a page of width × height pixels. Raises DrawingError as `Drawing` does."""

    def __init__(self, width: int, height: int):
        self._blank = Drawing(width, height)
        self.strokes: tuple[Stroke, ...] = ()
        self._past: list[tuple[Stroke, ...]] = []
        self._future: list[tuple[Stroke, ...]] = []

    @property
    def drawing(self) -> Drawing:
        """What is drawn so far."""
        return replace(self._blank, strokes=self.strokes)

    def replace(self, strokes) -> None:
        """Put `strokes` in place of what is there."""
        if strokes or self.strokes:
            self._past.append(self.strokes)
            self._future.clear()
            self.strokes = tuple(strokes)

    def extend(self, points, pressure=None) -> Stroke:
        """Lengthen the last stroke by `points`, (n, 2) px, and return the new part, from its last point on.

        pressure: (n,) where the stroke began with one; None keeps the last. Raises DrawingError as `Stroke` does, and
        then changes nothing.
        """
        last = self.strokes[-1]
        if len(points) == 0:
            return part(last, slice(-1, None))
        if last.pressure is None:
            pressure = None
        elif pressure is None:
            pressure = np.full(len(points), last.pressure[-1])
        new = Stroke(points, last.radius, last.erase, pressure)
        self.strokes = (*self.strokes[:-1], _joined(last, new))
        return _joined(part(last, slice(-1, None)), new)

    def undo(self) -> None:
        """Take the last change back, where there is one."""
        self._step(self._past, self._future)

    def redo(self) -> None:
        """Make the change again that was taken back last, unless something was drawn since."""
        self._step(self._future, self._past)

    def _step(self, source: list, target: list) -> None:
        if source:
            target.append(self.strokes)
            self.strokes = source.pop()

    def box(self, strokes: tuple[Stroke, ...]) -> Box | None:
        """The red rectangle of `strokes` from their points alone, which is quick, but blind to erasing.

        (left, top, right, bottom) px, as `red_rectangle` gives it to within a pixel; None without ink on the page.
        """
        inked = [stroke for stroke in strokes if not stroke.erase]
        if not inked:
            return None
        margin = max(stroke.radius for stroke in inked)
        corner = np.min([stroke.points.min(0) - stroke.radius for stroke in inked], axis=0) - margin
        opposite = np.max([stroke.points.max(0) + stroke.radius for stroke in inked], axis=0) + margin
        page = self._blank.width, self._blank.height
        (left, top), (right, bottom) = np.rint([corner, opposite]).clip(0, page).astype(int).tolist()
        return (left, top, right, bottom) if left < right and top < bottom else None


def part(stroke: Stroke, points: slice) -> Stroke:
    """`points` of `stroke`."""
    pressure = None if stroke.pressure is None else stroke.pressure[points]
    return replace(stroke, points=stroke.points[points], pressure=pressure)


def _joined(stroke: Stroke, new: Stroke) -> Stroke:
    pressure = None if new.pressure is None else np.concatenate([stroke.pressure, new.pressure])
    return replace(stroke, points=np.concatenate([stroke.points, new.points]), pressure=pressure)
