"""The ink that grows: the strokes on the pad, with undo and redo."""

from dataclasses import replace

import numpy as np

from mnist_kit.ink import Drawing, Stroke

Box = tuple[int, int, int, int]


class Ink:
    """The strokes on a page of width × height pixels. Raises DrawingError as `Drawing` does."""

    def __init__(self, width: int, height: int):
        self._blank = Drawing(width, height)
        self.strokes: tuple[Stroke, ...] = ()
        self._past: list[tuple[Stroke, ...]] = []  # what one step back, two steps back, … shows
        self._future: list[tuple[Stroke, ...]] = []

    @property
    def drawing(self) -> Drawing:
        """What is drawn so far."""
        return replace(self._blank, strokes=self.strokes)

    def replace(self, strokes) -> None:
        """Put `strokes` in place of what is there. A step back undoes it."""
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
            return last
        if last.pressure is None:
            pressure = None
        elif pressure is None:
            pressure = np.full(len(points), last.pressure[-1])
        new = Stroke(points, last.radius, last.erase, pressure)
        self.strokes = (*self.strokes[:-1], _joined(last, new, 0))
        return _joined(last, new, -1)

    def step(self, forward: bool) -> None:
        """Undo the last change, or redo what was undone last; without one, nothing changes."""
        source, target = (self._future, self._past) if forward else (self._past, self._future)
        if source:
            target.append(self.strokes)
            self.strokes = source.pop()

    def box(self, strokes: tuple[Stroke, ...] | None = None) -> Box | None:
        """The red rectangle of `strokes`, all by default, from their points alone, which is quick but blind to erasing.

        (left, top, right, bottom) px, as `red_rectangle` gives it to within a pixel; None without ink on the page.
        """
        inked = [stroke for stroke in (self.strokes if strokes is None else strokes) if not stroke.erase]
        if not inked:
            return None
        margin = max(stroke.radius for stroke in inked)
        corner = np.min([stroke.points.min(0) - stroke.radius for stroke in inked], axis=0) - margin
        opposite = np.max([stroke.points.max(0) + stroke.radius for stroke in inked], axis=0) + margin
        page = self._blank.width, self._blank.height
        (left, top), (right, bottom) = np.rint([corner, opposite]).clip(0, page).astype(int).tolist()
        return (left, top, right, bottom) if left < right and top < bottom else None


def _joined(stroke: Stroke, new: Stroke, first: int) -> Stroke:
    """`stroke` from its point `first` on, followed by `new`."""
    pressure = None if new.pressure is None else np.concatenate([stroke.pressure[first:], new.pressure])
    return replace(stroke, points=np.concatenate([stroke.points[first:], new.points]), pressure=pressure)
