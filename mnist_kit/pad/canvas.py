"""What the pad draws on: an ipycanvas `Canvas` that shows the ink, and the pen layer (pad.js) over it.

The strokes live here, in the kernel, and are the one truth. A browser draws under its pen at once, on the pixels of
the canvas, and tells the strokes as they grow. Each batch of drawing commands is preceded by the word which strokes of
each browser are in it (`known`); a browser draws its others over it again, so that nothing flickers.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, wraps
from itertools import groupby
from pathlib import Path

import anywidget
import ipywidgets as widgets
import numpy as np
import traitlets
from ipycanvas import Canvas
from ipycanvas.canvas import _CanvasManager

from mnist_kit.errors import DrawingError
from mnist_kit.ink import Drawing, Stroke

INK = "#0099ff"  # as in pad.js
LEAST_RADIUS, RADIUS, MOST_RADIUS = 1, 10, 50  # px; of the brush
LONGEST_NAME, MOST_NAMES = 100, 100  # characters of a browser's name; browsers that are remembered
MOST_RATIO = 3  # pixels of the canvas per pixel of the page, as finely as a screen shows them
DOT = np.float32([0.01, 0])  # px; a line of no length at all would leave no dot
REPLAY_STEP, REPLAY_POINTS = 0.016, 2  # s, and points that a replayed pen passes in it: about as fast as a hand


def one_at_a_time(method: Callable) -> Callable:
    """`method` of an object with a `lock`, under it: JupyterLab hears browsers in a thread of its own, and a cell may
    draw in the main one meanwhile.
    """

    @wraps(method)
    def locked(self, *arguments, **options):
        with self.lock:
            return method(self, *arguments, **options)

    return locked


def hear_at_once(widget: widgets.Widget) -> widgets.Widget:
    """`widget`, heard in the thread that its browser asks for, in the order of the events, while a cell runs.

    Otherwise ipykernel ≥ 7 hears a widget in the thread that spoke through it last: that of the cell, at first.
    """
    with suppress(AttributeError):  # no kernel, or one that does not choose
        widget.comm._reply_subshell_for = None
    return widget


class PenLayer(anywidget.AnyWidget):
    """The transparent layer that knows the pointer, the wheel and the keys, and shows rectangles and the answer."""

    _esm = Path(__file__).with_name("pad.js")
    _css = Path(__file__).with_name("pad.css")
    width = traitlets.Int().tag(sync=True)
    height = traitlets.Int().tag(sync=True)
    paper = traitlets.Instance(Canvas).tag(sync=True, **widgets.widget_serialization)
    radius = traitlets.Int(RADIUS, min=LEAST_RADIUS, max=MOST_RADIUS).tag(sync=True)
    tool = traitlets.Int(0).tag(sync=True)  # 0 draws, 1 erases
    answer = traitlets.Unicode().tag(sync=True)
    boxes = traitlets.List().tag(sync=True)  # red rectangles: (left, top, right, bottom) in px
    empty = traitlets.Bool(True).tag(sync=True)


class Page(widgets.VBox):
    """A page of width × height pixels to draw on. All of it works without a browser.

    `DigitPad` adds what happens then: `_changed(finished)` is called after each change of the ink, with False while a
    stroke is being drawn, and `_fail(error)` for a browser's message that makes no sense.
    """

    def __init__(self, width: int, height: int):
        self.lock = threading.RLock()
        self._blank = Drawing(width, height)
        self._states: list[tuple[Stroke, ...]] = [()]  # the strokes at each time that can be gone back or forward to
        self._now = 0  # the state that is on the page
        self._pen: tuple[str, int] | None = None  # the browser whose stroke grows, and its number there
        self._heard: OrderedDict[str, int] = OrderedDict()  # the last stroke or command that came from each browser
        # A manager of its own: one canvas of the reader's that fails must not take the pad with it.
        self._paper = hear_at_once(Canvas(width=width, height=height, _canvas_manager=_CanvasManager(caching=True)))
        self._paper.on_client_ready(self._redraw)
        self._layer = hear_at_once(PenLayer(width=width, height=height, paper=self._paper))
        self._layer.on_msg(lambda _layer, message, _buffers: self.shown(self._obey)(message))
        self._layers = widgets.Box([self._paper]).add_class("mnist-layers")
        fits = f"min({width}px, max(240px, 100vh - 290px) * {width / height:.4f})"  # never taller than the window
        self._page = widgets.Box([self._layers, self._layer], layout={"width": fits, "max_width": "100%"})
        super().__init__([self._page.add_class("mnist-page")])

    @cached_property  # a page on which nobody asks for it has one canvas less to show
    def canvas(self) -> Canvas:
        """An ipycanvas `Canvas` over the ink, of the page's size, to draw on as you like; recognition ignores it."""
        own = Canvas(width=self._layer.width, height=self._layer.height)
        # A browser that was reloaded has to be told again which canvas the commands are for.
        own.on_client_ready(lambda: setattr(own._canvas_manager, "_current_canvas", None))
        self._layers.children += (own,)
        return own

    @property
    def drawing(self) -> Drawing:
        """The strokes so far."""
        return replace(self._blank, strokes=self._strokes)

    @property
    def _strokes(self) -> tuple[Stroke, ...]:
        return self._states[self._now]  # each change makes a new tuple

    def undo(self) -> None:
        """Take the last stroke, or the last clearing, back."""
        self._go(-1)

    def redo(self) -> None:
        """Do again what was taken back last."""
        self._go(1)

    def clear(self) -> None:
        """Take all ink away. An answer that stood there goes into the history."""
        self.draw(Drawing())

    @one_at_a_time
    def draw(self, drawing: Drawing) -> None:
        """Put the strokes of `drawing` on the page in place of what is there; ink beyond its edges is cut off."""
        changes = bool(drawing.strokes or self._strokes)
        if changes:
            self._states[self._now + 1 :] = [drawing.strokes]
        self._go(int(changes))

    async def replay(self, drawing: Drawing) -> None:
        """Draw `drawing` in place of what is there, as if by hand, until somebody else draws or undoes something."""
        self.draw(replace(drawing, strokes=[stroke.first(1) for stroke in drawing.strokes[:1]]))
        shown = self._strokes
        for number, stroke in enumerate(drawing.strokes):
            for count in range(1, len(stroke.points) + REPLAY_POINTS, REPLAY_POINTS):
                longer = (*drawing.strokes[:number], stroke.first(count))
                if not self._grow(shown, longer):
                    return
                self._redraw()
                shown = longer
                await asyncio.sleep(REPLAY_STEP)

    @one_at_a_time
    def _grow(self, before: tuple[Stroke, ...], strokes: tuple[Stroke, ...]) -> bool:
        """Put `strokes`, of which the last one is longer, in place of `before`, unless something else has been done."""
        grows = self._strokes is before
        if grows:
            self._states[self._now] = strokes
            self._changed(False)
        return grows

    def _end_stroke(self) -> None:
        """The pen goes up: the stroke's own browser has it, the others get it now."""
        if self._pen:
            self._pen = None
            self._show_strokes(self._strokes[-1:])
            self._changed(True)

    @one_at_a_time
    def _go(self, steps: int) -> None:
        """Forward, or back, to another state, if there is one."""
        before, self._now = self._now, min(max(self._now + steps, 0), len(self._states) - 1)
        if self._now != before:
            self._pen = None
        self._redraw()  # where nothing changed too: a browser that asked for it waits
        if self._now != before:
            self._changed(True)

    # To the browsers

    @one_at_a_time
    def _redraw(self) -> None:
        self._show_strokes(self._strokes, clear=True)

    def _show_strokes(self, strokes: Iterable[Stroke], clear: bool = False) -> None:
        """Draw `strokes` over what the canvas shows, opaque; its style makes the ink translucent as a whole."""
        self._layer.send({"kind": "known", "heard": self._heard, "live": self._pen})
        canvas, manager = self._paper, self._paper._canvas_manager
        manager._current_canvas = None  # a browser that was reloaded has to be told, and nothing tells of a reload
        canvas.set_transform(canvas.width / self._layer.width, 0, 0, canvas.height / self._layer.height, 0, 0)
        if clear:
            canvas.clear()
        canvas.stroke_style = INK
        canvas.line_cap = canvas.line_join = "round"
        for (radius, erase, even), run in groupby(strokes, lambda s: (s.radius, s.erase, s.pressure is None)):
            canvas.global_composite_operation = "destination-out" if erase else "source-over"
            canvas.line_width = 2 * radius
            if even:
                canvas.stroke_line_segments([np.concatenate([s.points[:1] + DOT, s.points]) for s in run])
                continue
            for (x0, y0, r0), (x, y, r) in np.concatenate([s.segments() for s in run]).tolist():
                canvas.line_width = r0 + r  # as wide as its two ends on average
                canvas.stroke_line(x0 + 0.01, y0, x, y)
        manager.flush()

    # From the browsers

    @one_at_a_time
    def _obey(self, message) -> None:
        match message:
            case {"client": str(client)} if len(client) > LONGEST_NAME:  # it would be kept
                raise DrawingError(f"the pad was sent a client's name of {len(client):,} characters")
            case {"kind": "ready", "ratio": int() | float() as ratio}:
                width, height = self._layer.width, self._layer.height
                finest = max(self._paper.width, round(width * min(max(1, ratio), MOST_RATIO)))  # of all screens
                self._paper.width, self._paper.height = finest, round(finest * height / width)
                self._redraw()
            case {"kind": "down", "client": str(client), "stroke": int(number), "points": points, "radius": radius}:
                stroke = Stroke(points, radius, message.get("erase") is True, message.get("pressure"))
                self._hear(client, number)
                interrupted = self._pen
                self._end_stroke()
                self._states[self._now + 1 :] = [(*self._strokes, stroke)]
                self._now, self._pen = self._now + 1, (client, number)
                if interrupted:  # its browser may have drawn more of it than was heard
                    self._redraw()
                self._changed(False)
            case {"kind": "move", "client": client, "stroke": number, "points": points}:
                if self._pen == (client, number):  # else it was undone while it was being drawn
                    *others, last = self._strokes
                    self._grow(self._strokes, (*others, last.longer(points, message.get("pressure"))))
            case {"kind": "up", "client": client, "stroke": number}:
                if self._pen == (client, number):
                    self._end_stroke()
            case {"kind": "do", "command": "recognise"}:
                self.recognise()
            case {"kind": "do", "command": "undo" | "redo" | "clear" as name, "client": str(by), "stroke": int(number)}:
                self._hear(by, number)
                getattr(self, name)()
            case _:
                raise DrawingError(f"the pad was sent what it does not understand: {str(message)[:80]}")

    def _hear(self, client: str, number: int) -> None:
        self._heard[client] = number
        self._heard.move_to_end(client)
        if len(self._heard) > MOST_NAMES:
            self._heard.popitem(last=False)

    def shown(self, callback: Callable) -> Callable:
        """`callback`, with its exceptions in the pad's message line: from a widget's event they would go nowhere."""

        @wraps(callback)
        def guarded(*arguments):
            try:
                return callback(*arguments)
            except (Exception, SystemExit) as error:
                self._fail(error)

        return guarded
