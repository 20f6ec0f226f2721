"""The drawing pad: a widget to draw digits on and see what a network makes of them.

Strokes, and the raster made from them, live in the kernel and are the one truth: a browser shows them, and its pixels
are never read back. So everything but the pointer itself works, and is tested, without a browser.
"""

import asyncio
import base64
import html
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from dataclasses import replace
from functools import wraps
from itertools import count
from pathlib import Path

import ipywidgets as widgets
from PIL import Image
from torch import nn

from mnist_kit.errors import DrawingError, EmptyDrawing
from mnist_kit.files import home_folder, write_atomically
from mnist_kit.framing import FRAMINGS, red_rectangle
from mnist_kit.ink import Drawing, append_drawing, read_drawings
from mnist_kit.pad_pictures import answer_panel, answer_text, figure, picture_in_use, png
from mnist_kit.recognizer import Prediction, Recognizer
from mnist_kit.segmentation import Box, ReadDigit, as_text, split
from mnist_kit.surface import LEAST_RADIUS, MOST_RADIUS, RADIUS, Surface, one_at_a_time
from mnist_kit.synthetic import sample_drawing

PAUSE, SETTLE = 0.1, 0.005  # s without a new point, while the pen is down and after it: only then is it recognised
REMEMBERED = 20  # answers that the history shows, and kept drawings that can be chosen
REPLAY_STEP = 0.016  # s; in it a replayed pen passes REPLAY_POINTS points, about as fast as a hand
REPLAY_POINTS = 2
STROKES = count(1)  # of replays, so that each is told from all others


class DigitPad(widgets.VBox):
    """A page to draw on, of width × height pixels, and beside it what the network answers and what it was shown.

    recognizer: a `Recognizer`, or any function from an image, float32 (1, 28, 28) in [0, 1], to ten probabilities;
    None makes the pad a plain drawing tool. auto: recognise by itself whenever the pen rests; else when asked to.
    pressure: a pen that feels it draws a thinner line when pressed lightly; "mnist" framing does not see it.
    `digits` is the answer to what is drawn now, from left to right: several for a number, none as long as there is no
    answer. `answers` has those given before: the drawing and the number as text.
    """

    def __init__(
        self,
        recognizer: Recognizer | Callable | None = None,
        width: int = 800,
        height: int = 600,
        auto: bool = True,
        pressure: bool = True,
    ):
        self.recognizer = recognizer if isinstance(recognizer, Recognizer | None) else Recognizer(recognizer)
        self.digits: list[ReadDigit] = []
        self.answers: list[tuple[Drawing, str]] = []
        self._thumbnails: deque[str] = deque(maxlen=REMEMBERED)  # of the answers, the latest first, as HTML
        self._callbacks: list[Callable[[Prediction], None]] = []
        self._answered: list[Box] = []  # the red rectangles of the last answer
        self._timer: asyncio.TimerHandle | None = None
        self._replaying: asyncio.Task | None = None
        self._surface = Surface(width, height, self._changed, self._command, self._fail)
        self.lock = self._surface.lock
        self._surface.pressure = pressure
        self._build(auto)
        super().__init__([self._tools, self._body, self._message, self._keeping, self._history])
        self.add_class("mnist-pad")

    @property
    def prediction(self) -> Prediction | None:
        """The answer to what is drawn now, of its last digit where it is a number; None as long as there is none."""
        return self.digits[-1].prediction if self.digits else None

    @property
    def number(self) -> str:
        """The answer as text, "?" for a digit that the recognizer is not sure of; empty as long as there is none."""
        return as_text(self.digits)

    @property
    def drawing(self) -> Drawing:
        """The strokes so far."""
        return self._surface.ink.drawing

    @property
    def image(self) -> Image.Image:
        """The raster as a PIL image of mode L: white ink on black, width × height."""
        return Image.fromarray(self._surface.ink.raster).copy()

    @property
    def radius(self) -> int:
        """Of the brush, 1–50 px."""
        return self._surface.radius

    # Drawing: all of it works without a browser

    def pen_down(self, x: float, y: float, erase: bool = False) -> None:
        """Begin a stroke with a dot. x, y: pixels of the page. Raises DrawingError for NaN or infinity."""
        self._surface.pen_down(x, y, self.radius, erase)

    def pen_move(self, points) -> None:
        """Go on with the stroke through `points`, (n, 2) in pixels. Raises DrawingError for NaN, or without one."""
        self._surface.pen_move(points)

    def pen_up(self) -> None:
        """End the stroke."""
        self._surface.pen_up()

    def undo(self) -> None:
        """Take the last stroke, or the last clearing, back."""
        self._surface.undo()

    def redo(self) -> None:
        """Do again what was taken back last."""
        self._surface.redo()

    @one_at_a_time
    def clear(self) -> None:
        """Take all ink away. An answer that stood there goes into the history."""
        self._remember()
        self._surface.clear()

    @one_at_a_time
    def draw(self, drawing: Drawing) -> None:
        """Put the strokes of `drawing` on the page in place of what is there; ink beyond its edges is cut off."""
        self._remember()
        self._surface.draw(drawing)

    async def replay(self, drawing: Drawing) -> None:
        """Draw `drawing` in place of what is there, as if by hand, until somebody else draws or undoes something."""
        self.clear()
        surface = self._surface
        for stroke in drawing.strokes:
            pen = None, next(STROKES)
            pressure = [None] if stroke.pressure is None else stroke.pressure
            surface.pen_down(*stroke.points[0].tolist(), stroke.radius, stroke.erase, pen, pressure[0])
            for first in range(1, len(stroke.points), REPLAY_POINTS):
                await asyncio.sleep(REPLAY_STEP)
                if surface.pen != pen:
                    return
                passed = slice(first, first + REPLAY_POINTS)
                surface.pen_move(stroke.points[passed], None if stroke.pressure is None else pressure[passed])
            surface.pen_up()

    # Recognising

    @one_at_a_time
    def recognise(self) -> Prediction | None:
        """Ask the recognizer what is drawn, show the answer and return it; None, with a word why, on an empty page.

        What else the recognizer raises is raised.
        """
        self._cancel()
        if self.recognizer is None:
            self._say("this pad has no recognizer: make it with DigitPad(Recognizer.load())")
            return None
        try:
            digits = split(self._surface.ink.drawing, self.recognizer)
        except Exception:
            self._show_answer([])
            raise
        self._show_answer(digits)
        if not digits:
            self._say("nothing is drawn yet")
            return None
        for callback in self._callbacks:
            self.shown(callback)(self.prediction)
        return self.prediction

    def on_prediction(self, callback: Callable[[Prediction], None]) -> None:
        """Call `callback` with each new answer; what it raises is shown in the pad."""
        self._callbacks.append(callback)

    # Keeping

    def keep(self, label: int | None = None) -> Path:
        """Add the drawing, `label` being the digit that was meant, to the reader's `drawings.jsonl`; return its path.

        Raises DrawingError for an empty page, StorageError when the file cannot be written.
        """
        if not self._surface.ink.raster.any():
            raise DrawingError("nothing is drawn yet that could be kept")
        return append_drawing(replace(self.drawing, label=label))

    def export(self, path: str | Path | None = None) -> Path:
        """Save the drawing as a picture, PNG (white on black) or SVG by the suffix of `path`, and return the path.

        The default is `exports/drawing.png` in the home folder, or the first of `drawing-2.png`, … that is not there
        yet. Raises DrawingError for another suffix, StorageError.
        """
        path = Path(path) if path else _unused("png")
        if path.suffix not in (".png", ".svg"):
            raise DrawingError(f"a drawing is exported as .png or .svg, not as {path.name!r}")
        return write_atomically(path, self.drawing.to_svg().encode() if path.suffix == ".svg" else png(self.image))

    # Showing

    def snapshot(self) -> Image.Image:
        """A picture of the pad in use, RGB: ink, red rectangles, answer, probabilities, and what the network sees."""
        return picture_in_use(self._surface.ink.raster, self._surface.boxes, self.digits)

    def _repr_mimebundle_(self, **kwargs) -> dict | None:
        # Where no kernel runs (a code host, nbviewer) the widget has no view, and the picture is shown: of what is
        # drawn, or of an example, since an empty page would show nothing of what the pad is for.
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle:
            picture = self.snapshot() if self._surface.ink.strokes else self._example()
            bundle["image/png"] = base64.b64encode(png(picture)).decode()
        return bundle

    def _example(self) -> Image.Image:
        """A picture of the pad in use by somebody who drew a 3."""
        drawing = sample_drawing(3, seed=1, size=(self._surface.width, self._surface.height))
        digits = []
        if self.recognizer and isinstance(
            self.recognizer.model, nn.Module
        ):  # a function of the reader's is not asked before anything is drawn
            with suppress(Exception):  # a network that fails says so when it is asked
                digits = split(drawing, self.recognizer)
        boxes = [digit.box for digit in digits] or [red_rectangle(drawing)]
        return picture_in_use(drawing.raster(), boxes, digits, "a picture: run the cell to draw")

    def shown(self, callback: Callable) -> Callable:
        """`callback`, with its exceptions in the pad's message line: from a widget's event they would go nowhere."""

        @wraps(callback)
        def guarded(*arguments):
            try:
                return callback(*arguments)
            except (Exception, SystemExit) as error:
                self._fail(error)

        return guarded

    # What happens

    def _changed(self, finished: bool) -> None:
        self.digits = []
        if self._auto.value and self.recognizer and self._surface.ink.raster.any():
            self._surface.boxes = self._growing_boxes()  # the answer stays until there is a new one
            self._recognise_after(SETTLE if finished else PAUSE)
        else:
            self._cancel()
            self._show_answer([])

    def _recognise_after(self, seconds: float) -> None:
        """Recognise when nothing has happened for so long: only the latest state of the ink is worth an answer."""
        self._cancel()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no kernel, nobody to wait for an answer
            return
        self._timer = loop.call_later(seconds, self.shown(self.recognise))

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _command(self, name: str) -> None:
        if name != "recognise" or self.recognizer is not None:  # else the pad is a drawing tool
            self.shown(getattr(self, name))()

    def _remember(self) -> None:
        """Put the answer to the drawing that is about to go into the history."""
        if self._timer is not None:
            self.shown(self.recognise)()
        if not self.digits:
            return
        self.answers.append((self.drawing, self.number))
        self._thumbnails.appendleft(figure(self.image, self.number))
        self._history.value = (
            f'<div class="mnist-history" role="group" aria-label="earlier answers">{"".join(self._thumbnails)}</div>'
        )

    def _switch_auto(self, _change) -> None:
        if self._auto.value and not self.digits:
            self._changed(True)

    def _switch_framing(self, _change) -> None:
        self.recognizer = copy(self.recognizer)
        self.recognizer.framing = self._framing.value
        if self._surface.ink.strokes:
            self.recognise()

    def _keep_chosen(self) -> None:
        path = self.keep(self._label.value)
        self._label.index = 0  # the next drawing is another digit
        self._list_kept()
        self._say(f"kept in {path}")

    def _list_kept(self) -> None:
        with warnings.catch_warnings(record=True) as complaints:
            warnings.simplefilter("always")
            drawings = read_drawings() if (home_folder() / "drawings.jsonl").exists() else []
        first = max(0, len(drawings) - REMEMBERED)
        self._kept.options = [
            (f"{number}: {'?' if drawing.label is None else drawing.label}", drawing)
            for number, drawing in reversed(list(enumerate(drawings[first:], start=first + 1)))
        ]
        self._kept.index = 0 if drawings else None
        self._say(" ".join(str(complaint.message) for complaint in complaints))

    def _chosen(self) -> Drawing:
        """The kept drawing that is chosen, made smaller where it was drawn on a larger pad."""
        drawing = self._kept.value
        if drawing is None:
            raise DrawingError("no drawing was kept yet")
        scale = min(1, self._surface.width / drawing.width, self._surface.height / drawing.height)
        return replace(drawing, strokes=[s.scaled(scale) for s in drawing.strokes]) if scale < 1 else drawing

    def _load_chosen(self) -> None:
        self.draw(self._chosen())

    def _replay_chosen(self) -> None:
        drawing = self._chosen()
        if self._replaying is not None:
            self._replaying.cancel()
        self._replaying = asyncio.ensure_future(self.replay(drawing))

    # Widgets

    def _build(self, auto: bool) -> None:
        self._tool = widgets.ToggleButtons(
            options=[("draw", False), ("erase", True)], tooltips=["put ink", "take ink away"]
        )
        self._tool.style.button_width = "70px"
        self._brush = widgets.IntSlider(
            RADIUS, LEAST_RADIUS, MOST_RADIUS, description="brush (px)", layout=widgets.Layout(width="260px")
        )
        widgets.link((self._tool, "value"), (self._surface, "erasing"))
        widgets.link((self._brush, "value"), (self._surface, "radius"))
        self._auto = widgets.Checkbox(
            auto, description="auto", indent=False, tooltip="recognise by itself", layout=widgets.Layout(width="70px")
        )
        self._auto.observe(self.shown(self._switch_auto), "value")
        self._framing = widgets.Dropdown(
            options=list(FRAMINGS), description="framing", layout=widgets.Layout(width="170px")
        )
        if getattr(self.recognizer, "framing", None) in FRAMINGS:
            self._framing.value = self.recognizer.framing
            self._framing.observe(self.shown(self._switch_framing), "value")
        else:  # a framing of the reader's own
            self._framing.layout.display = "none"
        self._label = widgets.Dropdown(
            options=[("–", None), *((str(digit), digit) for digit in range(10))],
            description="it should have been",
            style={"description_width": "initial"},
            layout=widgets.Layout(width="200px"),
        )
        self._kept = widgets.Dropdown(description="kept", layout=widgets.Layout(width="190px"))
        self._panel, self._message, self._history = widgets.HTML(answer_panel([])), widgets.HTML(), widgets.HTML()
        ask = self._button("recognise", self.recognise, "ask what is drawn (d)")
        self._tools = _row(
            self._tool,
            self._brush,
            self._button("undo", self.undo, "take the last stroke back (Ctrl+Z)"),
            self._button("redo", self.redo, "do it again (Ctrl+Shift+Z)"),
            self._button("clear", self.clear, "take all ink away (c)"),
            ask,
            self._auto,
            self._framing,
        )
        self._keeping = _row(
            self._label,
            self._button("keep", self._keep_chosen, "add the drawing to drawings.jsonl"),
            self._kept,
            self._button("load", self._load_chosen, "put the kept drawing on the pad"),
            self._button("replay", self._replay_chosen, "draw the kept drawing as it was drawn"),
            self._button("PNG", lambda: self._export_as("png"), "save the drawing as a picture"),
            self._button("SVG", lambda: self._export_as("svg"), "save the drawing as lines"),
        )
        self._body = widgets.HBox([self._surface])
        self._body.add_class("mnist-body")
        if self.recognizer is not None:
            self._body.children += (self._panel,)
        else:
            for control in (ask, self._auto, self._framing):
                control.layout.display = "none"
        self.shown(self._list_kept)()  # the pad is there even where the file cannot be read

    def _button(self, name: str, action: Callable, tooltip: str) -> widgets.Button:
        button = widgets.Button(description=name, tooltip=tooltip, layout=widgets.Layout(width="auto"))
        button.on_click(self.shown(lambda _: action()))
        return button

    def _export_as(self, suffix: str) -> None:
        self._say(f"saved as {self.export(_unused(suffix))}")

    def _say(self, message: str) -> None:
        self._message.value = f'<div role="status">{html.escape(message)}</div>'

    def _fail(self, error: Exception) -> None:
        self._say(f"{type(error).__name__}: {error}")

    def _show_answer(self, digits: list[ReadDigit]) -> None:
        self.digits = digits
        self._answered = [digit.box for digit in digits]
        self._surface.show(answer_text(self.number), self._answered or self._growing_boxes())
        self._panel.value = answer_panel(digits)
        self._say("")

    def _growing_boxes(self) -> list[Box]:
        """The red rectangles while ink is added: those of the last answer and one of the new stroke, or one of all."""
        new = self._surface.pen_box
        if self._answered:
            return [*self._answered, new] if new else self._answered
        try:
            return [red_rectangle(self._surface.ink.drawing)]
        except EmptyDrawing:
            return []


def _unused(suffix: str) -> Path:
    """The first of `drawing`, `drawing-2`, … that is not among the exports yet."""
    names = (f"drawing-{number}" if number > 1 else "drawing" for number in count(1))
    paths = (home_folder() / "exports" / f"{name}.{suffix}" for name in names)
    return next(path for path in paths if not path.exists())


def _row(*children: widgets.Widget) -> widgets.HBox:
    row = widgets.HBox(children)
    row.add_class("mnist-row")
    return row
