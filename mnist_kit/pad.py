"""The drawing pad: a widget to draw digits on and see what a network makes of them.

Strokes, and the raster made from them, live in the kernel and are the one truth: the browser only shows them, and its
pixels are never read back. So everything but the pointer itself works, and is tested, without a browser.
"""

import asyncio
import base64
import html
import io
from collections.abc import Callable
from contextlib import contextmanager
from functools import wraps

import ipywidgets as widgets
import numpy as np
from ipycanvas import MultiCanvas, hold_canvas
from PIL import Image, ImageColor, ImageDraw, ImageFont

from mnist_kit.errors import EmptyDrawing
from mnist_kit.framing import FRAMINGS, red_rectangle
from mnist_kit.ink import Drawing, Ink, Stroke
from mnist_kit.recognizer import Prediction, Recognizer

PAGE, INK, RED, TEXT = "#dcdcdc", "#0099FF88", "#ff2200", "#202020"
SEEN_SIDE = 140  # px; of the shown 28 × 28, five times its size
PANEL_WIDTH = 220  # px; of the answer beside the page
GATHER = 0.03  # s; moves within it are drawn at once: one message a move would fall ever further behind the pointer


class DigitPad(widgets.VBox):
    """A page to draw on, of width × height pixels, and beside it what the network answers and what it was shown.

    recognizer: what recognises; None makes it a plain drawing tool. `prediction` is the answer to what is drawn now,
    a `Prediction`, or None until `recognise` was called and after each change.
    """

    def __init__(self, recognizer: Recognizer | None = None, width: int = 800, height: int = 600):
        self.recognizer = recognizer
        self.prediction: Prediction | None = None
        self._ink = Ink(width, height)
        self._box: tuple[int, int, int, int] | None = None  # the red rectangle that is shown
        self._canvas = MultiCanvas(
            4, width=width, height=height, layout=widgets.Layout(width=f"{width}px", height=f"{height}px", flex="none")
        )
        self._page, self._strokes, self._marks, self._cursor = (self._canvas[layer] for layer in range(4))
        self._build_controls()
        body = widgets.HBox([self._canvas, self._panel], layout=widgets.Layout(flex_flow="row wrap"))
        super().__init__([self._controls, body, self._message])
        CanvasInput(self, self._canvas)
        self._canvas.on_client_ready(self.shown(self._show_again))
        self._show_again()

    # What is drawn

    @property
    def drawing(self) -> Drawing:
        """The strokes so far."""
        return self._ink.drawing

    @property
    def image(self) -> Image.Image:
        """The raster as a PIL image of mode L: white ink on black, width × height."""
        return Image.fromarray(self._ink.raster).copy()

    @property
    def radius(self) -> int:
        """Of the brush, 1–50 px."""
        return self._brush.value

    @property
    def erasing(self) -> bool:
        """Whether the pen takes ink away."""
        return self._tool.value == "erase"

    # Drawing: all of it works without a browser

    def pen_down(self, x: float, y: float, erase: bool = False) -> None:
        """Begin a stroke with a dot. x, y: pixels of the page. Raises DrawingError for NaN or infinity."""
        self._ink.pen_down(x, y, self.radius, erase)
        with held():
            self._show_stroke(Stroke([[x, y]], self.radius, erase))
            self._show_answer(None)

    def pen_move(self, points) -> None:
        """Go on with the stroke through `points`, (n, 2) in pixels. Raises DrawingError as `Ink.pen_move` does."""
        line = self._ink.pen_move(points)
        with held():
            self._strokes.stroke_lines(line)
            self._show_marks()

    def pen_up(self) -> None:
        """End the stroke."""
        self._show_marks()

    def undo(self) -> None:
        """Take the last stroke back."""
        self._ink.undo()
        self._show_all()

    def clear(self) -> None:
        """Take all ink away."""
        self._ink.clear()
        self._show_all()

    def draw(self, drawing: Drawing) -> None:
        """Put the strokes of `drawing` on the page in place of what is there; ink beyond its edges is cut off."""
        self._ink = Ink.of(Drawing(self._ink.width, self._ink.height, drawing.strokes))
        self._show_all()

    def recognise(self) -> Prediction | None:
        """Ask the recognizer what is drawn, show the answer and return it; None, with a word why, on an empty page.

        What else the recognizer raises is raised.
        """
        self._show_answer(None)
        if self.recognizer is None:
            self._say("this pad has no recognizer: make it with DigitPad(Recognizer.load())")
            return None
        try:
            prediction = self.recognizer.predict(self.drawing)
        except EmptyDrawing:
            self._say("nothing is drawn yet")
            return None
        self._show_answer(prediction)
        return prediction

    # Showing

    def snapshot(self) -> Image.Image:
        """A picture of the pad in use, RGB: ink, red rectangle, answer, probabilities, and what the network sees."""
        width, height = self._ink.width, self._ink.height
        picture = Image.new("RGB", (width + PANEL_WIDTH, max(height, SEEN_SIDE + 280)), "white")
        picture.paste(PAGE, (0, 0, width, height))
        red, green, blue, alpha = ImageColor.getcolor(INK, "RGBA")
        picture.paste((red, green, blue), (0, 0), self.image.point(lambda value: value * alpha // 255))
        pen = ImageDraw.Draw(picture)
        if self._box:
            left, top, right, bottom = self._box
            pen.rectangle((left, top, right - 1, bottom - 1), outline=RED, width=2)
        if self.prediction is not None:
            pen.text((16, 12), _answer(self.prediction), TEXT, ImageFont.load_default(28))
            left, font = width + 20, ImageFont.load_default(16)
            for digit, share in enumerate(self.prediction.probabilities):
                top = 20 + 24 * digit
                pen.text((left, top), str(digit), TEXT, font)
                pen.rectangle((left + 20, top + 2, left + 20 + 100 * float(share), top + 16), INK[:7])
                pen.text((left + 128, top), f"{share:.1%}", TEXT, font)
            picture.paste(_seen(self.prediction), (left, 270))
        return picture

    def _repr_mimebundle_(self, **kwargs) -> dict | None:
        # Where no kernel runs (a code host, nbviewer) the widget has no view, and the picture is shown.
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle:
            bundle["image/png"] = base64.b64encode(_png(self.snapshot())).decode()
        return bundle

    def shown(self, callback: Callable) -> Callable:
        """`callback`, with its exceptions in the pad's message line: from a widget's event they would go nowhere."""

        @wraps(callback)
        def guarded(*arguments):
            try:
                return callback(*arguments)
            except Exception as error:
                self._say(f"{type(error).__name__}: {error}")

        return guarded

    def show_brush(self, x: float | None = None, y: float | None = None) -> None:
        """Outline the brush at (x, y), at its true size; nowhere without a position."""
        with held():
            self._cursor.clear()
            if x is not None:
                self._cursor.stroke_circle(x, y, self.radius)

    def _build_controls(self) -> None:
        self._tool = widgets.ToggleButtons(options=["draw", "erase"], tooltips=["put ink", "take ink away"])
        self._tool.style.button_width = "70px"
        self._brush = widgets.IntSlider(10, 1, 50, description="brush (px)", layout=widgets.Layout(width="260px"))
        buttons = []
        for name, action in {"undo": self.undo, "clear": self.clear, "recognise": self.recognise}.items():
            button = widgets.Button(description=name, layout=widgets.Layout(width="90px"))
            button.on_click(self.shown(lambda _, action=action: action()))
            buttons.append(button)
        self._framing = widgets.Dropdown(
            options=list(FRAMINGS), description="framing", layout=widgets.Layout(width="180px")
        )
        # A recognizer of the reader's own, or with a framing of its own, has nothing to switch.
        if getattr(self.recognizer, "framing", None) in FRAMINGS:
            self._framing.value = self.recognizer.framing
            self._framing.observe(self.shown(self._switch_framing), "value")
        else:
            self._framing.layout.display = "none"
        self._controls = widgets.HBox(
            [self._tool, self._brush, *buttons, self._framing], layout=widgets.Layout(flex_flow="row wrap")
        )
        self._bars = widgets.HTML()
        self._seen = widgets.Image(format="png", width=SEEN_SIDE, height=SEEN_SIDE)
        self._panel = widgets.VBox([self._bars, self._seen], layout=widgets.Layout(width=f"{PANEL_WIDTH}px"))
        self._panel.layout.display = "none" if self.recognizer is None else None
        self._message = widgets.HTML()

    def _switch_framing(self, _change) -> None:
        answered = self.prediction is not None
        self.recognizer = Recognizer(self.recognizer.model, self._framing.value)
        if answered:
            self.recognise()

    def _say(self, message: str) -> None:
        self._message.value = f'<div role="status">{html.escape(message)}</div>'

    def _show_again(self) -> None:
        """Draw every layer for a browser that has just come: it knows nothing of what another one was sent."""
        # ipycanvas believes that the new browser's current canvas is the old one's, and would draw on none.
        self._canvas._canvas_manager._current_canvas = None
        with held():
            self._page.fill_style = PAGE
            self._page.fill_rect(0, 0, self._ink.width, self._ink.height)
            self._strokes.line_cap = self._strokes.line_join = "round"
            self._strokes.stroke_style = self._strokes.fill_style = _over_page(INK)
            self._marks.stroke_style, self._marks.line_width = RED, 2
            self._marks.fill_style, self._marks.font = TEXT, "28px sans-serif"
            self._cursor.stroke_style = TEXT
            self._show_strokes()
            self._show_answer(self.prediction)

    def _show_all(self) -> None:
        with held():
            self._show_strokes()
            self._show_answer(None)

    def _show_strokes(self) -> None:
        self._strokes.clear()
        for stroke in self._ink.strokes:
            self._show_stroke(stroke)

    def _show_stroke(self, stroke: Stroke) -> None:
        x, y = stroke.points[0].tolist()
        self._strokes.global_composite_operation = "destination-out" if stroke.erase else "source-over"
        self._strokes.line_width = 2 * stroke.radius
        self._strokes.fill_circle(x, y, stroke.radius)
        if len(stroke.points) > 1:
            self._strokes.stroke_lines(stroke.points)

    def _show_answer(self, prediction: Prediction | None) -> None:
        self.prediction = prediction
        self._say("")
        self._bars.value = _bars(prediction)
        self._seen.value = _png(_seen(prediction))
        self._show_marks(force=True)

    def _show_marks(self, force: bool = False) -> None:
        box = self._red_rectangle()
        if box == self._box and not force:
            return
        self._box = box
        with held():
            self._marks.clear()
            if box:
                left, top, right, bottom = box
                self._marks.stroke_rect(left, top, right - left, bottom - top)
            if self.prediction is not None:
                self._marks.fill_text(_answer(self.prediction), 16, 36)

    def _red_rectangle(self) -> tuple[int, int, int, int] | None:
        try:
            return red_rectangle(self._ink)
        except EmptyDrawing:
            return None


class CanvasInput:
    """The pointer, as far as ipycanvas tells of it: its events become `pen_down`, `pen_move` and `pen_up` of a pad.

    It tells no mouse button, so erasing is a tool of the pad; a pointer that leaves the page ends its stroke.
    """

    def __init__(self, pad: DigitPad, canvas: MultiCanvas):
        self._pad = pad
        self._down = False
        self._moves: list[tuple[float, float]] = []
        self._timer: asyncio.TimerHandle | None = None
        canvas.on_mouse_down(pad.shown(self._press))
        canvas.on_mouse_move(pad.shown(self._move))
        canvas.on_mouse_up(pad.shown(self._release))
        canvas.on_mouse_out(pad.shown(self._leave))
        canvas.on_touch_start(pad.shown(lambda touches: self._press(*touches[0])))
        canvas.on_touch_move(pad.shown(lambda touches: self._move(*touches[0])))
        canvas.on_touch_end(pad.shown(lambda _: self._leave()))
        canvas.on_touch_cancel(pad.shown(lambda _: self._leave()))

    def _press(self, x: float, y: float) -> None:
        self._release()
        self._pad.pen_down(x, y, self._pad.erasing)
        self._down = True

    def _move(self, x: float, y: float) -> None:
        self._moves.append((x, y))
        if self._timer is None:
            try:
                self._timer = asyncio.get_running_loop().call_later(GATHER, self._pad.shown(self._flush))
            except RuntimeError:  # no loop, no kernel: nothing to wait for
                self._flush()

    def _release(self, *_position) -> None:
        self._flush()
        if self._down:
            self._down = False
            self._pad.pen_up()

    def _leave(self, *_position) -> None:
        self._release()
        self._pad.show_brush()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        moves, self._moves = self._moves, []
        if moves:
            self._pad.show_brush(*moves[-1])
            if self._down:
                self._pad.pen_move(moves)


@contextmanager
def held():
    """ipycanvas's `hold_canvas`, which after an exception inside it would hold back everything for ever."""
    failure = None
    with hold_canvas():
        try:
            yield
        except Exception as error:
            failure = error
    if failure:
        raise failure


def _answer(prediction: Prediction) -> str:
    return f"predict: {prediction.digit}"


def _bars(prediction: Prediction | None) -> str:
    """The ten probabilities as rows of HTML, in the colours of the reader's theme; ten empty rows without an answer."""
    shares = [""] * 10 if prediction is None else [f"{share:.1%}" for share in prediction.probabilities]
    bar = f"height:12px;background:{INK[:7]}"
    rows = "".join(
        f'<div style="display:flex;align-items:center;height:20px"><span style="width:16px">{digit}</span>'
        f'<span style="width:110px;margin-right:8px"><div style="width:{share or 0};{bar}"></div></span>{share}</div>'
        for digit, share in enumerate(shares)
    )
    return f'<div role="group" aria-label="probabilities of the digits 0 to 9">{rows}</div>'


def _seen(prediction: Prediction | None) -> Image.Image:
    """The 28 × 28 that the network was shown, enlarged, mode L; black where nothing was."""
    if prediction is None:
        return Image.new("L", (SEEN_SIDE, SEEN_SIDE))
    pixels = (np.asarray(prediction.image).reshape(28, 28) * 255).round().astype(np.uint8)
    return Image.fromarray(pixels).resize((SEEN_SIDE, SEEN_SIDE), Image.Resampling.NEAREST)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def _over_page(colour: str) -> str:
    """A see-through colour as it looks on the page, opaque: where pieces of a line overlap, nothing darkens."""
    *ink, alpha = ImageColor.getcolor(colour, "RGBA")
    page = ImageColor.getcolor(PAGE, "RGB")
    mixed = [round(over * alpha / 255 + under * (1 - alpha / 255)) for over, under in zip(ink, page, strict=True)]
    return "#" + bytes(mixed).hex()
