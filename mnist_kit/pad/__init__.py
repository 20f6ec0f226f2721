"""The drawing pad: a widget to draw digits on and see what a network makes of them.

The strokes live in the kernel and are the one truth: a browser shows them, and its pixels are never read back. So
everything but the pointer itself works, and is tested, without a browser.
"""

import asyncio
import base64
import html
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from dataclasses import replace
from itertools import count
from pathlib import Path

import ipywidgets as widgets
import numpy as np
from PIL import Image
from torch import nn

from mnist_kit.errors import DrawingError, EmptyDrawing, MnistKitError
from mnist_kit.files import home_folder, write_atomically
from mnist_kit.framing import FRAMINGS, red_rectangle
from mnist_kit.ink import Drawing, Stroke, append_drawing, read_drawings
from mnist_kit.pad.canvas import Page, hear_at_once, one_at_a_time
from mnist_kit.pad.controls import Controls, row
from mnist_kit.pad.pictures import answer_panel, answer_text, figure, picture_in_use
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
    `digits` is the answer to what is drawn now, from left to right: several for a number, none as long as there is no
    answer. `answers` has those given before: the drawing and the number as text.
    """

    def __init__(
        self,
        recognizer: Recognizer | nn.Module | Callable | None = None,
        width: int = 800,
        height: int = 600,
        auto: bool = True,
    ):
        known = recognizer is None or isinstance(recognizer, Recognizer)
        self.recognizer = recognizer if known else Recognizer(recognizer)
        self.digits: list[ReadDigit] = []
        self.answers: list[tuple[Drawing, str]] = []
        self._standing: list[ReadDigit] = []  # the answer on the screen: it stands until there is a new one
        self._thumbnails: list[str] = []  # of the latest answers, as HTML, the last one first
        self._callbacks: list[Callable[[Prediction], None]] = []
        self._note = ""  # what was said of the last answer, or went wrong
        self._slow: bool | None = None  # whether the recognizer is; None: not known yet
        self._untaught: nn.Module | None = None  # the network before it was fine-tuned here
        super().__init__(width, height)
        self._controls = controls = Controls(self._layer, auto)
        self._teaching = self._button("teach", "fine-tune the network on the kept drawings", self._teach)
        keeping = row(
            controls.label,
            self._button("keep", "add the drawing to drawings.jsonl", self._keep_chosen),
            controls.kept,
            self._button("load", "put the kept drawing on the pad", lambda: self.draw(self._chosen())),
            self._button("replay", "draw the kept drawing as it was drawn", self._replay_chosen),
            self._button("PNG", "save the drawing as a picture", lambda: f"saved as {self.export()}"),
            self._button("SVG", "save the drawing as lines", lambda: f"saved as {self.export(_unused('svg'))}"),
            *([self._teaching] if self.recognizer else []),
        )
        asked = self.shown(lambda change: change["new"] and self._strokes and self.recognise())
        controls.auto.observe(asked, "value")
        if getattr(self.recognizer, "framing", None) in FRAMINGS:
            controls.framing.value = self.recognizer.framing
            reframed = self.shown(lambda change: self._change_recognizer(framing=change["new"]))
            controls.framing.observe(reframed, "value")
        else:  # a framing of the reader's own
            controls.framing.layout.display = "none"
        body = widgets.HBox([self._page, *([controls.asking] if self.recognizer else [])]).add_class("mnist-body")
        self.children = [controls.tools, body, controls.message, keeping, controls.history]
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
            number, self._standing = as_text(self._standing), []
            self.answers.append((self.drawing, number))
            self._thumbnails = [figure(self.image, number), *self._thumbnails][:REMEMBERED]
            figures = "".join(self._thumbnails)
            self._controls.history.value = f'<div role="group" aria-label="earlier answers">{figures}</div>'
        super().draw(drawing)

    # Recognising

    @one_at_a_time
    def recognise(self) -> Prediction | None:
        """Ask the recognizer what is drawn, show the answer and return it; None, with a word why, on an empty page.

        What else the recognizer raises is raised.
        """
        if self.recognizer is None:
            self._say("this pad has no recognizer: make it with DigitPad(Recognizer.load())")
            return None
        digits = []
        try:
            with suppress(EmptyDrawing):
                digits = self._read(self.drawing)
        finally:
            self._show_answer(digits)
        note = ""
        if not digits:
            note = "nothing is drawn yet"
        elif self._slow:
            note = "this recognizer is slow: all that is drawn is read as one digit"
        elif "?" in self.number and len(digits) > 1:
            note = "? stands for a digit that the recognizer is not sure of"
        if note != self._note:  # else what a button said stays readable
            self._say(note)
        self._note = note
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
        content = self.drawing.to_svg().encode() if path.suffix == ".svg" else self.image._repr_png_()
        return write_atomically(path, content)

    def _require_ink(self, done: str) -> None:
        if not self.drawing.raster().any():
            raise DrawingError(f"nothing is drawn yet that could be {done}")

    # Showing

    def snapshot(self) -> Image.Image:
        """A picture of the pad in use, RGB: ink, red rectangles, answer, probabilities, and what the network sees."""
        return picture_in_use(self.drawing, self.digits)

    def _repr_mimebundle_(self, **kwargs) -> dict | None:
        # Where no kernel runs (a code host, nbviewer) the widget has no view, and the picture is shown: of what is
        # drawn, or of an example, since an empty page would show nothing of what the pad is for.
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle:
            picture = self.snapshot() if self._strokes else self._example()
            bundle["image/png"] = base64.b64encode(picture._repr_png_()).decode()
        return bundle

    def _example(self) -> Image.Image:
        """A picture of the pad in use by somebody who drew a 3."""
        drawing, digits = sample_drawing(3, seed=1, size=(self._blank.width, self._blank.height)), []
        if isinstance(getattr(self.recognizer, "model", None), nn.Module):  # a function is asked about real ink only
            with suppress(Exception):  # a network that fails says so when it is asked
                digits = split(drawing, self.recognizer)
        return picture_in_use(drawing, digits, "a picture: run the cell to draw")

    # What happens

    def _changed(self, finished: bool) -> None:
        self.digits, self._note = [], ""
        self._say("")
        if not (self._controls.auto.value and self.recognizer and self.drawing.strokes):
            self._show_answer([])
            return
        self._show()  # the answer stays until there is a new one
        with suppress(RuntimeError):  # no kernel runs, nobody waits for an answer
            pause = SETTLE if finished else PAUSE
            asyncio.get_running_loop().call_later(pause, self.shown(self._recognise_if_latest), self._strokes)

    def _recognise_if_latest(self, strokes: tuple[Stroke, ...]) -> None:
        """Recognise `strokes` if nothing has happened since: only the latest state of the ink is worth an answer."""
        if strokes is self._strokes and not self.digits:
            self.recognise()

    def _read(self, drawing: Drawing) -> list[ReadDigit]:
        """The digits that are drawn; a recognizer that is slow is asked once, about all of the ink."""
        if self._slow is not False:  # not known yet, or slow the last time
            started = time.monotonic()
            prediction = self.recognizer.predict(drawing)
            self._slow = time.monotonic() - started > SLOW
            if self._slow:
                return [ReadDigit(red_rectangle(drawing), prediction)]
        return split(drawing, self.recognizer)

    def _show_answer(self, digits: list[ReadDigit]) -> None:
        self.digits = self._standing = digits
        self._show()
        self._controls.panel.value = answer_panel(digits)

    def _show(self) -> None:
        """The answer that stands, its red rectangles, and one of the ink that it does not know yet."""
        boxes = [digit.box for digit in self._standing]
        if not boxes or (self._pen and not self.digits):
            new = red_rectangle(replace(self._blank, strokes=self._strokes[-1:] if boxes else self._strokes))
            boxes += [new] if new else []
        with self._layer.hold_sync():  # in one message
            self._layer.answer, self._layer.boxes = answer_text(as_text(self._standing)), boxes
            self._layer.empty = not self._strokes

    def _say(self, message: str) -> None:
        text = html.escape(message)
        self._controls.message.value = f'<div role="status" title="{text}">{text}</div>'

    def _fail(self, error: BaseException) -> None:
        self._note = str(error) if isinstance(error, MnistKitError) else f"{type(error).__name__}: {error}"
        self._say(self._note)

    # The controls

    def _button(self, name: str, tooltip: str, act: Callable[[], str | None]) -> widgets.Button:
        """A button that calls `act` and says what it returns."""
        button = hear_at_once(widgets.Button(description=name, tooltip=tooltip))
        button.on_click(self.shown(lambda _button: self._say(act() or "")))
        return button

    @one_at_a_time
    def _change_recognizer(self, **changes) -> None:
        """Ask a copy with `changes` from now on: the recognizer that the reader gave stays as it is."""
        self.recognizer = copy(self.recognizer)
        vars(self.recognizer).update(changes)
        if self._strokes:
            self.recognise()

    def _keep_chosen(self) -> str:
        label = self._controls.label
        path = self.keep(int(label.value) if label.index else None)
        label.index = 0  # the next drawing is another digit
        self._list_kept()
        return f"kept in {path}"

    def _replay_chosen(self) -> None:
        self._replaying = asyncio.ensure_future(self.replay(self._chosen()))  # kept: the loop does not keep it

    def _teach(self) -> str:
        """Fine-tune the network on the kept drawings, while the page can be drawn on; pressed again, take it back."""
        if self._untaught is not None:
            self._change_recognizer(model=self._untaught)
            self._untaught, self._teaching.description = None, "teach"
            return "the network is again what it was before it was taught"
        self._teaching.disabled, self._teaching.description = True, "learning…"
        self._learning = asyncio.ensure_future(self._learn())  # kept: the loop does not keep it
        return "learning from the kept drawings; you can draw on meanwhile"

    async def _learn(self) -> None:
        from mnist_kit.adaptation import adapt  # with all that trains, which a pad otherwise does without

        try:
            adapted = await asyncio.to_thread(adapt, self.recognizer, progress=False)
            if adapted.replaced:
                self._untaught = self.recognizer.model
                self._change_recognizer(model=adapted.recognizer.model)
            self._say(str(adapted).replace("\n", "; "))
        except Exception as error:
            self._fail(error)
        finally:
            self._teaching.disabled = False
            self._teaching.description = "teach" if self._untaught is None else "unteach"

    def _chosen(self) -> Drawing:
        """The kept drawing that is chosen, made smaller where it was drawn on a larger pad."""
        drawing = self._controls.kept.value
        if drawing is None:
            raise DrawingError("no drawing was kept yet")
        scale = min(1, self._layer.width / drawing.width, self._layer.height / drawing.height)
        strokes = [replace(s, points=s.points * np.float32(scale), radius=s.radius * scale) for s in drawing.strokes]
        return replace(drawing, strokes=strokes)

    def _list_kept(self) -> None:
        with warnings.catch_warnings(record=True, action="always") as complaints:
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
