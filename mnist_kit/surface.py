"""What the pad draws on: its ink in the kernel, and the widget (pad.js) through which browsers write and see it.

A browser draws under the pen at once and tells the strokes as they grow. Whatever else happens to the ink (undo, clear,
a new browser, a second one) it is told by the kernel, whose strokes are the truth.
"""

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

import anywidget
import numpy as np
import traitlets

from mnist_kit.errors import DrawingError, MnistKitError
from mnist_kit.files import PACKAGE
from mnist_kit.ink import MAX_SIDE, Drawing, Stroke, as_points, as_pressure, as_radius

LEAST_RADIUS, RADIUS, MOST_RADIUS = 1, 10, 50  # px; of the brush
MOST_POINTS = 10_000  # in one message; a pen makes some ten in the 16 ms between two
MOST_BROWSERS = 32  # remembered, each with its last stroke
Pen = tuple[str | None, int]  # who draws, a browser or (None) Python, and the number they gave the stroke


def one_at_a_time(method: Callable) -> Callable:
    """`method` of an object with a `lock`, under it: JupyterLab hears browsers in a thread of its own, and a cell may
    draw in the main one meanwhile.
    """

    @wraps(method)
    def locked(self, *arguments, **options):
        with self.lock:
            return method(self, *arguments, **options)

    return locked


class Ink:
    """A drawing that grows: strokes as lists of points, undone and redone by list."""

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self._states, self._now, self._growing = [()], 0, False  # a state is a tuple of strokes

    @property
    def strokes(self) -> tuple[Stroke, ...]:
        return self._states[self._now]

    @property
    def drawing(self) -> Drawing:
        return Drawing(self.width, self.height, self.strokes)

    @property
    def raster(self) -> np.ndarray:
        return self.drawing.raster()

    def pen_down(self, x, y, radius=10.0, erase=False, pressure=None) -> None:
        stroke = Stroke([[x, y]], radius, erase, None if pressure is None else [pressure])
        self._push((*self.strokes, stroke))
        self._growing = True

    def pen_move(self, points, pressure=None) -> np.ndarray:
        if not self._growing:
            raise DrawingError("there is no stroke to go on with; call pen_down first")
        points, last = as_points(points), self.strokes[-1]
        if last.pressure is not None:
            pressure = (
                np.full(len(points), last.pressure[-1]) if pressure is None else as_pressure(pressure, len(points))
            )
            pressure = np.concatenate([last.pressure, pressure])
        else:
            pressure = None
        grown = Stroke(np.concatenate([last.points, points]), last.radius, last.erase, pressure)
        self._states[self._now] = (*self.strokes[:-1], grown)
        return np.concatenate([last.points[-1:], points])

    def undo(self) -> bool:
        return self._go(-1)

    def redo(self) -> bool:
        return self._go(1)

    def clear(self) -> None:
        if self.strokes:
            self._push(())

    def replace(self, drawing: Drawing) -> None:
        self._push(drawing.strokes)

    def _push(self, strokes) -> None:
        self._states[self._now + 1 :] = [strokes]
        self._now, self._growing = self._now + 1, False

    def _go(self, step: int) -> bool:
        if not 0 <= self._now + step < len(self._states):
            return False
        self._now, self._growing = self._now + step, False
        return True


class Surface(anywidget.AnyWidget):
    """A page of width × height pixels with ink on it.

    changed(finished): called after each change of the ink, with False while a stroke is being drawn.
    commanded(name): called when a browser asks for `commands`; failed(error): when it sent what makes no sense.
    """

    _esm = PACKAGE / "pad.js"
    _css = PACKAGE / "pad.css"
    width = traitlets.Int().tag(sync=True)
    height = traitlets.Int().tag(sync=True)
    radius = traitlets.Int(RADIUS, min=LEAST_RADIUS, max=MOST_RADIUS).tag(sync=True)
    erasing = traitlets.Bool().tag(sync=True)
    pressure = traitlets.Bool(True).tag(sync=True)  # whether a pen that is pressed lightly draws a thinner line
    answer = traitlets.Unicode().tag(sync=True)
    boxes = traitlets.List().tag(sync=True)  # red rectangles: (left, top, right, bottom) in px

    def __init__(
        self,
        width: int,
        height: int,
        changed: Callable[[bool], Any],
        commanded: Callable[[str], Any],
        failed: Callable[[Exception], Any],
    ):
        self.lock = threading.RLock()
        self.ink = Ink(width, height)
        self._changed, self._commanded, self._failed = changed, commanded, failed
        self.pen: Pen | None = None  # whose stroke grows
        self._heard: dict[str, int] = {}  # the last stroke that came from each browser
        super().__init__(width=width, height=height, layout={"width": f"{width}px", "max_width": "100%"})
        self.on_msg(self._receive)

    @one_at_a_time
    def pen_down(
        self,
        x: float,
        y: float,
        radius: float,
        erase: bool = False,
        pen: Pen = (None, 0),
        pressure: float | None = None,
    ) -> None:
        """Begin a stroke with a dot, which ends that of another pen.

        Raises DrawingError as `Ink.pen_down` does, and then changes nothing.
        """
        Stroke([[x, y]], radius, erase, None if pressure is None else [pressure])  # in order, before anything happens
        ends_another = self.pen is not None and self.pen[0] is not None
        self.pen_up()
        self.ink.pen_down(x, y, radius, erase, pressure)
        self.pen = pen
        self._corners, self._margin = np.array([[x, y], [x, y]]), None if erase else 2 * radius
        if ends_another:  # its browser has to stop drawing
            self._send_all()
        elif pen[0] is None:
            self._send_line(**_plain(self.ink.strokes[-1]), begin=True)
        self._changed(False)

    @one_at_a_time
    def pen_move(self, points, pressure=None) -> None:
        """Go on with the stroke through `points`, (n, 2) in pixels. Raises DrawingError as `Ink.pen_move` does."""
        if self.pen is None:
            raise DrawingError("there is no stroke to go on with; call pen_down first")
        line = self.ink.pen_move(points, pressure)
        self._corners = np.stack([np.minimum(self._corners[0], line.min(0)), np.maximum(self._corners[1], line.max(0))])
        if self.pen[0] is None:
            self._send_line(points=line[1:].tolist(), pressure=_as_list(pressure), begin=False)
        self._changed(False)

    @one_at_a_time
    def pen_up(self) -> None:
        """End the stroke."""
        if self.pen is None:
            return
        client, _ = self.pen
        self.pen = None
        if client is not None:  # its own browser has the stroke; the others get it now
            self._send_line(**_plain(self.ink.strokes[-1]), begin=True, client=client)
        self._changed(True)

    @property
    def pen_box(self) -> tuple[int, int, int, int] | None:
        """The red rectangle of the stroke that is being drawn; None between strokes and while erasing."""
        if self.pen is None or self._margin is None:
            return None
        corners = self._corners + np.array([[-self._margin], [self._margin]])
        left, top, right, bottom = corners.round().clip(0, (self.width, self.height)).astype(int).ravel().tolist()
        return (left, top, right, bottom) if left < right and top < bottom else None

    @one_at_a_time
    def undo(self) -> None:
        """Take the last stroke, or the last clearing, back."""
        if self.ink.undo():
            self._replaced()

    @one_at_a_time
    def redo(self) -> None:
        """Do again what was taken back last."""
        if self.ink.redo():
            self._replaced()

    @one_at_a_time
    def clear(self) -> None:
        """Take all ink away."""
        self.ink.clear()
        self._replaced()

    @one_at_a_time
    def draw(self, drawing: Drawing) -> None:
        """Put the strokes of `drawing` on the page in place of what is there; ink beyond its edges is cut off."""
        self.ink.replace(drawing)
        self._replaced()

    def show(self, answer: str, boxes: list) -> None:
        """Show the answer and the red rectangles, in one message."""
        with self.hold_sync():
            self.answer = answer
            self.boxes = boxes

    def _replaced(self) -> None:
        self.pen = None
        self._send_all()
        self._changed(True)

    # To the browsers

    def _send_all(self) -> None:
        strokes = [_plain(stroke) for stroke in self.ink.strokes]
        live = self.pen and self.pen[0]
        self.send({"kind": "strokes", "strokes": strokes, "last": self._heard, "live": live})

    def _send_line(self, begin: bool, client: str | None = None, **stroke) -> None:
        self.send({"kind": "line", "from": client, "begin": begin, "stroke": stroke})

    # From the browsers

    @one_at_a_time
    def _receive(self, _widget, message, _buffers) -> None:
        try:
            self._obey(message)
        except MnistKitError as error:
            self._failed(error)

    def _obey(self, message) -> None:
        match message:
            case {"kind": "ready"}:
                self._send_all()
            case {"kind": "down", "client": str(client), "stroke": int(stroke), "point": point, "radius": radius}:
                [(x, y)] = _points([point])
                radius = min(max(as_radius(radius), LEAST_RADIUS), MOST_RADIUS)
                pressure = message.get("pressure")
                if pressure is not None:
                    as_pressure([pressure], 1)  # before the stroke counts as heard
                self._hear(client, stroke)
                self.pen_down(x, y, radius, message.get("erase") is True, (client, stroke), pressure)
            case {"kind": "move", "client": client, "stroke": stroke, "points": points}:
                points = _points(points)
                if self.pen == (client, stroke):  # else it was undone while it was being drawn
                    self.pen_move(points, message.get("pressure"))
            case {"kind": "up", "client": client, "stroke": stroke}:
                if self.pen == (client, stroke):
                    self.pen_up()
            case {"kind": "do", "command": "undo" | "redo" | "clear" | "recognise" as command}:
                self._commanded(command)
            case _:
                raise DrawingError(f"the pad was sent what it does not understand: {str(message)[:80]}")

    def _hear(self, client: str, stroke: int) -> None:
        self._heard.pop(client, None)
        self._heard[client] = stroke
        if len(self._heard) > MOST_BROWSERS:
            self._heard.pop(next(iter(self._heard)))


def _points(points) -> np.ndarray:
    """Points from a browser as float32 (n, 2), those far outside brought closer. Raises DrawingError."""
    if not isinstance(points, list) or len(points) > MOST_POINTS:
        raise DrawingError(f"a message of the pad's brings a list of at most {MOST_POINTS:,} points")
    return as_points(points).clip(-MAX_SIDE, MAX_SIDE)


def _plain(stroke: Stroke) -> dict:
    pressure = _as_list(stroke.pressure)
    return {"points": stroke.points.tolist(), "radius": stroke.radius, "erase": stroke.erase, "pressure": pressure}


def _as_list(pressure) -> list | None:
    return None if pressure is None else np.asarray(pressure).tolist()
