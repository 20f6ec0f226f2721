"""What the pad draws on: an ipycanvas `Canvas` that shows the ink, and the pen layer (pad.js) over it.

The strokes live here, in the kernel, and are the one truth. A browser draws under its pen at once, on the pixels of
the canvas, and tells the strokes as they grow. Each batch of drawing commands is preceded by the word which strokes of
each browser are in it (`known`), so that a browser draws those that are not over it again, and nothing flickers.
"""

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import wraps
from itertools import groupby
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import numpy as np
import traitlets
from ipycanvas import Canvas
from ipycanvas.canvas import _CanvasManager

from mnist_kit.errors import DrawingError
from mnist_kit.ink import MAX_SIDE, Stroke
from mnist_kit.pad.ink import Ink

INK = "#0099ff"  # as in pad.js
LEAST_RADIUS, RADIUS, MOST_RADIUS = 1, 10, 50  # px; of the brush
MOST_POINTS = 10_000  # in one message; a pen makes some ten in the 40 ms between two
MOST_BROWSERS = 32  # remembered, each with its last stroke
MOST_RATIO = 3  # pixels of the canvas per pixel of the page, as finely as a screen shows them
DOT = np.float32([0.01, 0])  # px; a line of no length at all would leave no dot
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


def hear_at_once(widget: widgets.Widget) -> None:
    """Let `widget` be heard in the thread that its browser asks for, in the order of the events, while a cell runs.

    Otherwise ipykernel ≥ 7 hears a widget in the thread that spoke through it last: that of the cell, at first.
    """
    with suppress(AttributeError):  # no kernel, or one that does not choose
        widget.comm._reply_subshell_for = None


class PenLayer(anywidget.AnyWidget):
    """The transparent layer that knows the pointer, the wheel and the keys, and shows rectangles and the answer."""

    _esm = Path(__file__).with_name("pad.js")
    _css = Path(__file__).with_name("pad.css")
    width = traitlets.Int().tag(sync=True)
    height = traitlets.Int().tag(sync=True)
    paper = traitlets.Instance(Canvas).tag(sync=True, **widgets.widget_serialization)
    radius = traitlets.Int(RADIUS, min=LEAST_RADIUS, max=MOST_RADIUS).tag(sync=True)
    tool = traitlets.Int(0).tag(sync=True)  # 0 draws, 1 erases
    pressure = traitlets.Bool(True).tag(sync=True)  # whether a pen that is pressed lightly draws a thinner line
    answer = traitlets.Unicode().tag(sync=True)
    boxes = traitlets.List().tag(sync=True)  # red rectangles: (left, top, right, bottom) in px
    empty = traitlets.Bool(True).tag(sync=True)


class Page(widgets.Box):
    """A page of width × height pixels with ink on it.

    changed(finished): called after each change of the ink, with False while a stroke is being drawn.
    commanded(name): called when a browser undoes, redoes, clears or asks for the answer; failed(error): when it sent
    what makes no sense.
    """

    def __init__(
        self,
        width: int,
        height: int,
        pressure: bool,
        changed: Callable[[bool], Any],
        commanded: Callable[[str], Any],
        failed: Callable[[Exception], Any],
    ):
        self.lock = threading.RLock()
        self.ink = Ink(width, height)
        self.pen: Pen | None = None  # whose stroke grows
        self._changed, self._commanded, self._failed = changed, commanded, failed
        self._heard: dict[str, int] = {}  # the last stroke or command that came from each browser
        # A manager of its own: one canvas of the reader's that fails must not take the pad with it.
        self.paper = Canvas(width=width, height=height, _canvas_manager=_CanvasManager(caching=True))
        self.layer = PenLayer(width=width, height=height, paper=self.paper, pressure=pressure)
        self.layers = widgets.Box([self.paper]).add_class("mnist-layers")
        self.own: Canvas | None = None  # the reader's layer, once it is asked for
        fits = f"min({width}px, max(240px, 100vh - 240px) * {width / height:.4f})"  # never taller than the window
        super().__init__([self.layers, self.layer], layout={"width": fits, "max_width": "100%"})
        self.add_class("mnist-page")
        self.layer.on_msg(self._receive)
        self.paper.on_client_ready(self.redraw)
        for widget in (self.layer, self.paper):
            hear_at_once(widget)

    @one_at_a_time
    def canvas(self) -> Canvas:
        """A layer over the ink for the reader's own drawing, made when it is first asked for."""
        if self.own is None:
            self.own = Canvas(width=self.layer.width, height=self.layer.height)
            # After a reload the browser has to be told again which canvas the commands are for.
            self.own.on_client_ready(lambda: setattr(self.own._canvas_manager, "_current_canvas", None))
            self.layers.children += (self.own,)
        return self.own

    @one_at_a_time
    def begin(self, stroke: Stroke, pen: Pen = (None, 0)) -> None:
        """Begin `stroke`, which ends that of another pen."""
        ends_another = self.pen is not None and self.pen[0] is not None
        self.end()
        self.ink.replace((*self.ink.strokes, stroke))
        self.pen = pen
        if ends_another:  # its browser may have drawn more of it than was heard
            self.redraw()
        elif pen[0] is None:
            self._show([stroke])
        self._changed(False)

    @one_at_a_time
    def extend(self, points, pressure=None) -> None:
        """Lengthen the stroke by `points`. Raises DrawingError as `Ink.extend` does, or without one."""
        if self.pen is None:
            raise DrawingError("there is no stroke to continue; call pen_down first")
        part = self.ink.extend(points, pressure)
        if self.pen[0] is None:
            self._show([part])
        self._changed(False)

    @one_at_a_time
    def end(self) -> None:
        """End the stroke."""
        if self.pen is None:
            return
        (client, _), self.pen = self.pen, None
        if client is not None:  # its own browser has the stroke; the others get it now
            self._tell_known()
            self._show(self.ink.strokes[-1:])
        self._changed(True)

    @one_at_a_time
    def replace(self, strokes: Iterable[Stroke]) -> None:
        """Put `strokes` in place of what is there; nothing changes where both are none."""
        strokes = tuple(strokes)
        if strokes or self.ink.strokes:
            self.ink.replace(strokes)
        self._replaced()

    @one_at_a_time
    def step(self, forward: bool) -> None:
        """Undo, or redo."""
        before = self.ink.strokes
        self.ink.step(forward)
        if self.ink.strokes is before:
            self.redraw()  # a browser that asked waits for it
        else:
            self._replaced()

    def _replaced(self) -> None:
        self.pen = None
        self.redraw()
        self._changed(True)

    def show(self, answer: str, boxes: list) -> None:
        """Show the answer and the red rectangles, in one message."""
        with self.layer.hold_sync():
            self.layer.answer, self.layer.boxes, self.layer.empty = answer, boxes, not self.ink.strokes

    # To the browsers

    @one_at_a_time
    def redraw(self) -> None:
        """Draw everything again, on all browsers."""
        self._tell_known()
        self._show(self.ink.strokes, clear=True)

    def _tell_known(self) -> None:
        self.layer.send({"kind": "known", "heard": self._heard, "live": self.pen})

    def _show(self, strokes: Iterable[Stroke], clear: bool = False) -> None:
        """Draw `strokes` over what the canvas shows, opaque; its style makes the ink translucent as a whole."""
        canvas, manager = self.paper, self.paper._canvas_manager
        manager._current_canvas = None  # a browser that was reloaded has to be told, and nothing tells of a reload
        canvas.set_transform(canvas.width / self.layer.width, 0, 0, canvas.height / self.layer.height, 0, 0)
        if clear:
            canvas.clear()
        canvas.stroke_style = canvas.fill_style = INK
        canvas.line_cap = canvas.line_join = "round"
        for (radius, erase, even), run in groupby(strokes, lambda s: (s.radius, s.erase, s.pressure is None)):
            canvas.global_composite_operation = "destination-out" if erase else "source-over"
            canvas.line_width = 2 * radius
            if even:
                canvas.stroke_line_segments([np.concatenate([s.points[:1] + DOT, s.points]) for s in run])
            else:
                for stroke in run:
                    _show_pressed(canvas, stroke)
        manager.flush()

    # From the browsers

    @one_at_a_time
    def _receive(self, _widget, message, _buffers) -> None:
        try:
            self._obey(message)
        except Exception as error:  # whatever was sent, the pad stays alive and says so
            self._failed(error)

    def _obey(self, message) -> None:
        match message:
            case {"kind": "ready", "ratio": int() | float() as ratio}:
                ratio = min(ratio, MOST_RATIO) if ratio > 1 else 1
                sides = round(self.layer.width * ratio), round(self.layer.height * ratio)
                if sides[0] > self.paper.width:  # the finest screen decides
                    self.paper.width, self.paper.height = sides
                self.redraw()
            case {"kind": "down", "client": str(client), "stroke": int(number), "point": point, "radius": radius}:
                pressure = message.get("pressure")
                stroke = Stroke([point], radius, message.get("erase") is True, None if pressure is None else [pressure])
                radius = min(max(stroke.radius, LEAST_RADIUS), MOST_RADIUS)
                stroke = Stroke(_nearer(stroke.points), radius, stroke.erase, stroke.pressure)
                self._hear(client, number)
                self.begin(stroke, (client, number))
            case {"kind": "move", "client": client, "stroke": number, "points": list(points)}:
                if len(points) > MOST_POINTS:
                    raise DrawingError(f"a message of the pad's brings at most {MOST_POINTS:,} points")
                points = _nearer(Stroke(points).points) if points else []
                if self.pen == (client, number):  # else it was undone while it was being drawn
                    self.extend(points, message.get("pressure"))
            case {"kind": "up", "client": client, "stroke": number}:
                if self.pen == (client, number):
                    self.end()
            case {"kind": "do", "command": "recognise"}:
                self._commanded("recognise")
            case {
                "kind": "do",
                "command": "undo" | "redo" | "clear" as command,
                "client": str(client),
                "stroke": int(number),
            }:
                self._hear(client, number)
                self._commanded(command)
            case _:
                raise DrawingError(f"the pad was sent what it does not understand: {str(message)[:80]}")

    def _hear(self, client: str, number: int) -> None:
        if len(client) > 32 or not 0 <= number < 2**53:
            raise DrawingError(f"the pad was sent a stroke without a proper name or number, by {client[:32]!r}")
        self._heard.pop(client, None)
        self._heard[client] = number
        if len(self._heard) > MOST_BROWSERS:
            self._heard.pop(next(iter(self._heard)))


def _nearer(points: np.ndarray) -> np.ndarray:
    """Points far outside the page brought closer."""
    return points.clip(-MAX_SIDE, MAX_SIDE)


def _show_pressed(canvas: Canvas, stroke: Stroke) -> None:
    """Draw a line whose width changes: a disc at each point, and the strip between two."""
    radii = stroke.pressure * np.float32(stroke.radius)
    canvas.fill_circles(stroke.points[:, 0], stroke.points[:, 1], radii)
    starts, ends = stroke.points[:-1], stroke.points[1:]
    along = ends - starts
    across = along[:, ::-1] * np.float32([-1, 1]) / np.maximum(np.linalg.norm(along, axis=1), 1e-6)[:, None]
    before, after = across * radii[:-1, None], across * radii[1:, None]
    if len(along):
        canvas.fill_polygons(np.stack([starts + before, ends + after, ends - after, starts - before], axis=1))
