"""The drawing pad: a widget to draw digits on and see what a network makes of them.

The strokes live in the kernel and are the one truth: a browser shows them, and its pixels are never read back. So
everything but the pointer itself works, and is tested, without a browser.
"""

import asyncio
import base64
import html
import time
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from dataclasses import replace
from itertools import count
from pathlib import Path

import ipywidgets as widgets
from PIL import Image
from torch import nn

from mnist_kit.errors import DrawingError, EmptyDrawing, MnistKitError
from mnist_kit.files import home_folder, write_atomically
from mnist_kit.framing import FRAMINGS, Box, red_rectangle
from mnist_kit.ink import Drawing, append_drawing, read_drawings
from mnist_kit.pad.canvas import Page, one_at_a_time
from mnist_kit.pad.controls import UNKNOWN, Controls
from mnist_kit.pad.pictures import answer_panel, answer_text, figure, history, picture_in_use, png
from mnist_kit.recognizer import Prediction, Recognizer
from mnist_kit.segmentation import ReadDigit, as_text, split
from mnist_kit.synthetic import sample_drawing

PAUSE, SETTLE = 0.1, 0.005  # s without a new point, while the pen is down and after it: only then is it recognised
SLOW = 0.5  # s per answer; a recognizer that takes longer is asked once per drawing, not once per part of it
REMEMBERED = 20  # answers that the history shows, and kept drawings that can be chosen


class DigitPad(Page):
    """A page to draw on, of width × height pixels, and beside it what the network answers and what it was shown.

    recognizer: a `Recognizer`, or what makes one: a network (logits), anything with `predict_proba`, or a function from
    an image, float32 (1, 28, 28) in [0, 1], to ten probabilities. None makes the pad a plain drawing tool.
    auto: recognise by itself whenever the pen rests; else when asked to.
    pressure: a pen that feels it draws a thinner line when pressed lightly; "mnist" framing does not see it.
    `digits` is the answer to what is drawn now, from left to right: several for a number, none as long as there is no
    answer. `answers` has those given before: the drawing and the number as text.
    """

    def __init__(
        self,
        recognizer: Recognizer | nn.Module | Callable | None = None,
        width: int = 800,
        height: int = 600,
        auto: bool = True,
        pressure: bool = True,
    ):
        known = recognizer is None or isinstance(recognizer, Recognizer)
        self.recognizer = recognizer if known else Recognizer(recognizer)
        self.digits: list[ReadDigit] = []
        self.answers: list[tuple[Drawing, str]] = []
        self._thumbnails: deque[str] = deque(maxlen=REMEMBERED)  # of the answers, the latest first, as HTML
        self._callbacks: list[Callable[[Prediction], None]] = []
        self._standing = ""  # the answer on the screen: it stands until there is a new one
        self._answered: list[Box] = []  # its red rectangles
        self._slow: bool | None = None  # whether the recognizer is; None: not known yet
        self._timer: asyncio.TimerHandle | None = None
        self._replaying: asyncio.Task | None = None
        super().__init__(width, height, pressure)
        actions = {
            "keep": (self._keep_chosen, "add the drawing to drawings.jsonl"),
            "load": (lambda: self.draw(self._chosen()), "put the kept drawing on the pad"),
            "replay": (self._replay_chosen, "draw the kept drawing as it was drawn"),
            "PNG": (lambda: self._say(f"saved as {self.export()}"), "save the drawing as a picture"),
            "SVG": (lambda: self._say(f"saved as {self.export(_unused('svg'))}"), "save the drawing as lines"),
        }
        actions = {name: (self.shown(act), tooltip) for name, (act, tooltip) in actions.items()}
        self._controls = controls = Controls(self._layer, auto, actions)
        controls.auto.observe(self.shown(self._switch_auto), "value")
        if getattr(self.recognizer, "framing", None) in FRAMINGS:
            controls.framing.value = self.recognizer.framing
            controls.framing.observe(self.shown(self._switch_framing), "value")
        else:  # a framing of the reader's own
            controls.framing.layout.display = "none"
        body = widgets.HBox([self._page, *([controls.asking] if self.recognizer else [])]).add_class("mnist-body")
        self.children = [controls.tools, body, controls.message, controls.keeping, controls.history]
        self.add_class("mnist-pad")
        self.shown(self._list_kept)()  # the pad is there even where the file cannot be read

    @property
    def prediction(self) -> Prediction | None:
        """The answer to what is drawn now, of its last digit where it is a number; None as long as there is none."""
        return self.digits[-1].prediction if self.digits else None

    @property
    def number(self) -> str:
        """The answer as text, "?" for a digit that the recognizer is not sure of; empty as long as there is none."""
        return as_text(self.digits)

    @property
    def image(self) -> Image.Image:
        """The drawing as a PIL image of mode L: white ink on black, width × height."""
        return self.drawing.to_image()

    @one_at_a_time
    def draw(self, drawing: Drawing) -> None:
        """Put the strokes of `drawing` on the page in place of what is there; ink beyond its edges is cut off.

        An answer that stood there goes into the history.
        """
        if self._standing:
            self.answers.append((self.drawing, self._standing))
            self._thumbnails.appendleft(figure(self.image, self._standing))
            self._controls.history.value = history(self._thumbnails)
        super().draw(drawing)

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
            digits = self._read(self.drawing)
        except Exception:
            self._show_answer([])
            raise
        self._show_answer(digits)
        if not digits:
            self._say("nothing is drawn yet")
        elif self._slow:
            self._say("this recognizer is slow: all that is drawn is read as one digit")
        elif "?" in self.number and len(digits) > 1:
            self._say("? stands for a digit that the recognizer is not sure of")
        for callback in self._callbacks if digits else ():
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
        self._require_ink("kept")
        return append_drawing(replace(self.drawing, label=label))

    def export(self, path: str | Path | None = None) -> Path:
        """Save the drawing as a picture, PNG (white on black) or SVG by the suffix of `path`, and return the path.

        The default is `exports/drawing.png` in the home folder, or the first of `drawing-2.png`, … that is not there
        yet. Raises DrawingError for an empty page and for another suffix, StorageError.
        """
        path = Path(path) if path else _unused("png")
        if path.suffix not in (".png", ".svg"):
            raise DrawingError(f"a drawing is exported as .png or .svg, not as {path.name!r}")
        self._require_ink("saved")
        return write_atomically(path, self.drawing.to_svg().encode() if path.suffix == ".svg" else png(self.image))

    def _require_ink(self, done: str) -> None:
        if not self.drawing.raster().any():
            raise DrawingError(f"nothing is drawn yet that could be {done}")

    # Showing

    def snapshot(self) -> Image.Image:
        """A picture of the pad in use, RGB: ink, red rectangles, answer, probabilities, and what the network sees."""
        return picture_in_use(self.drawing.raster(), self._layer.boxes, self.digits)

    def _repr_mimebundle_(self, **kwargs) -> dict | None:
        # Where no kernel runs (a code host, nbviewer) the widget has no view, and the picture is shown: of what is
        # drawn, or of an example, since an empty page would show nothing of what the pad is for.
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle:
            picture = self.snapshot() if self.drawing.strokes else self._example()
            bundle["image/png"] = base64.b64encode(png(picture)).decode()
        return bundle

    def _example(self) -> Image.Image:
        """A picture of the pad in use by somebody who drew a 3."""
        drawing = sample_drawing(3, seed=1, size=(self._layer.width, self._layer.height))
        digits = []
        if isinstance(getattr(self.recognizer, "model", None), nn.Module):  # a function is asked about real ink only
            with suppress(Exception):  # a network that fails says so when it is asked
                digits = split(drawing, self.recognizer)
        boxes = [digit.box for digit in digits] or [red_rectangle(drawing)]
        return picture_in_use(drawing.raster(), boxes, digits, "a picture: run the cell to draw")

    # What happens

    def _changed(self, finished: bool) -> None:
        self.digits = []
        if self._controls.auto.value and self.recognizer and self.drawing.strokes:
            self._show(self._layer.answer, self._growing_boxes())  # the answer stays until there is a new one
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

    def _read(self, drawing: Drawing) -> list[ReadDigit]:
        """The digits that are drawn; a recognizer that is slow is asked once, about all of the ink."""
        if self._slow is not False:  # not known yet, or slow the last time
            started = time.monotonic()
            try:
                prediction = self.recognizer.predict(drawing)
            except EmptyDrawing:
                return []
            self._slow = time.monotonic() - started > SLOW
            if self._slow:
                return [ReadDigit(red_rectangle(drawing), prediction)]
        return split(drawing, self.recognizer)

    def _show_answer(self, digits: list[ReadDigit]) -> None:
        self.digits, self._standing = digits, as_text(digits)
        self._answered = [digit.box for digit in digits]
        self._show(answer_text(self._standing), self._answered or self._growing_boxes())
        self._controls.panel.value = answer_panel(digits)
        self._say("")

    def _show(self, answer: str, boxes: list[Box]) -> None:
        with self._layer.hold_sync():  # in one message
            self._layer.answer, self._layer.boxes, self._layer.empty = answer, boxes, not self._ink.strokes

    def _growing_boxes(self) -> list[Box]:
        """The red rectangles while ink is added: those of the last answer and one of the new stroke, or one of all."""
        strokes = self._ink.strokes
        if self._answered:
            box = self._ink.box(strokes[-1:]) if self._pen else None
        elif any(stroke.erase for stroke in strokes):
            with suppress(EmptyDrawing):
                return [red_rectangle(self.drawing)]
            box = None
        else:
            box = self._ink.box(strokes)
        return self._answered + ([box] if box else [])

    def _say(self, message: str) -> None:
        text = html.escape(message)
        self._controls.message.value = f'<div role="status" title="{text}">{text}</div>'

    def _fail(self, error: BaseException) -> None:
        self._say(str(error) if isinstance(error, MnistKitError) else f"{type(error).__name__}: {error}")

    # The controls

    def _switch_auto(self, _change) -> None:
        if self._controls.auto.value and not self.digits:
            self._changed(True)

    def _switch_framing(self, _change) -> None:
        self.recognizer = copy(self.recognizer)
        self.recognizer.framing = self._controls.framing.value
        if self.drawing.strokes:
            self.recognise()

    def _keep_chosen(self) -> None:
        label = self._controls.label.value
        path = self.keep(None if label == UNKNOWN else label)
        self._controls.label.value = UNKNOWN  # the next drawing is another digit
        self._list_kept()
        self._say(f"kept in {path}")

    def _replay_chosen(self) -> None:
        drawing = self._chosen()
        if self._replaying is not None:
            self._replaying.cancel()
        self._replaying = asyncio.ensure_future(self.replay(drawing))

    def _chosen(self) -> Drawing:
        """The kept drawing that is chosen, made smaller where it was drawn on a larger pad."""
        drawing = self._controls.kept.value
        if drawing is None:
            raise DrawingError("no drawing was kept yet")
        scale = min(1, self._layer.width / drawing.width, self._layer.height / drawing.height)
        return replace(drawing, strokes=[s.scaled(scale) for s in drawing.strokes]) if scale < 1 else drawing

    def _list_kept(self) -> None:
        with warnings.catch_warnings(record=True) as complaints:
            warnings.simplefilter("always")
            there = (home_folder() / "drawings.jsonl").exists()
            drawings = read_drawings(last=REMEMBERED)[::-1] if there else []
        self._controls.kept.options = [
            (f"{number}: {'?' if drawing.label is None else drawing.label}", drawing)
            for number, drawing in enumerate(drawings, start=1)  # 1 is the latest
        ]
        self._controls.kept.index = 0 if drawings else None
        self._say(" ".join(str(complaint.message) for complaint in complaints))


def _unused(suffix: str) -> Path:
    """The first of `drawing`, `drawing-2`, … that is not among the exports yet."""
    names = (f"drawing-{number}" if number > 1 else "drawing" for number in count(1))
    paths = (home_folder() / "exports" / f"{name}.{suffix}" for name in names)
    return next(path for path in paths if not path.exists())
