import asyncio
import base64
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ipycanvas.canvas import _CANVAS_MANAGER
from PIL import Image
from torch import nn

from mnist_kit.errors import DrawingError
from mnist_kit.framing import frame_as_mnist, frame_as_paper, red_rectangle
from mnist_kit.ink import Drawing, Stroke
from mnist_kit.pad import GATHER, DigitPad, held
from mnist_kit.recognizer import Recognizer

SEVEN = [[60, 40], [140, 45], [90, 160]]


class Sevens(nn.Module):
    """A network that takes everything for a 7."""

    def forward(self, images):
        return images.new_tensor([0, 0, 0, 0, 0, 0, 0, 5, 0, 0]).expand(len(images), 10)


class Broken:
    def predict(self, picture):
        raise ValueError("my <own> fault")


@pytest.fixture
def pad() -> DigitPad:
    return DigitPad(Recognizer(Sevens()), 300, 200)


@pytest.fixture
def sent(monkeypatch) -> list:
    """The drawing commands that go to the browser, each with its buffers."""
    commands = []

    def record(canvas, command, buffers=()):
        commands.append((canvas, command, buffers))

    monkeypatch.setattr(type(_CANVAS_MANAGER), "send_command", lambda self, *command: record(*command))
    return commands


def draw_seven(pad: DigitPad) -> None:
    pad.pen_down(*SEVEN[0])
    pad.pen_move(SEVEN[1:])
    pad.pen_up()


def fire(pad: DigitPad, event: str, **content) -> None:
    """An event as the browser sends it."""
    pad._canvas._handle_custom_msg({"event": event, **content}, [])


def press(pad: DigitPad, name: str) -> None:
    button = next(child for child in pad._controls.children if getattr(child, "description", "") == name)
    button.click()


def test_drawing_and_recognising(pad):
    draw_seven(pad)
    assert pad.drawing == Drawing(300, 200, [Stroke(SEVEN, 10)])
    np.testing.assert_array_equal(np.asarray(pad.image), pad.drawing.raster())
    assert pad.recognise().digit == pad.prediction.digit == 7
    assert "94.3%" in pad._bars.value  # e⁵ / (e⁵ + 9)


def test_an_empty_page_has_no_answer(pad):
    draw_seven(pad)
    pad.recognise()
    pad.clear()
    assert pad.recognise() is None and pad.prediction is None
    assert "nothing is drawn yet" in pad._message.value and "%" not in pad._bars.value


def test_an_answer_is_of_what_is_drawn_now(pad):
    for change in (lambda: pad.pen_down(5, 5), pad.undo, pad.clear, lambda: pad.draw(Drawing())):
        draw_seven(pad)
        assert pad.recognise() is not None
        change()
        assert pad.prediction is None


def test_undo_clear_and_erase(pad):
    draw_seven(pad)
    whole = pad.image
    pad.pen_down(140, 45, erase=True)
    assert pad.drawing.strokes[-1].erase and pad.image.getpixel((140, 45)) == 0
    press(pad, "undo")
    assert pad.image == whole
    press(pad, "clear")
    assert not pad.drawing.strokes and pad.image.getbbox() is None
    press(pad, "undo")  # of nothing


def test_the_brush_is_the_slider_s(pad):
    assert pad.radius == 10
    pad._brush.value = 30
    pad.pen_down(100, 100)
    assert pad.drawing.strokes[0].radius == 30


def test_a_loaded_drawing(pad):
    drawing = Drawing(500, 500, [Stroke(SEVEN, 4), Stroke([[90, 160]], 9, erase=True)], label=7)
    pad.draw(drawing)
    assert pad.drawing == Drawing(300, 200, drawing.strokes)
    pad.pen_down(10, 10)
    assert len(pad.drawing.strokes) == 3


@given(st.lists(st.sampled_from(["down", "erase", "move", "undo"]), max_size=8), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=25)
def test_the_raster_is_that_of_the_strokes_after_anything(actions, random):
    pad = DigitPad(width=60, height=40)
    for action in actions:
        x, y = random.uniform(-10, 70), random.uniform(-10, 50)
        if action == "undo":
            pad.undo()
        elif action == "move" and pad.drawing.strokes:
            pad.pen_move([[x, y], [y, x]])
        else:
            pad.pen_down(x, y, erase=action == "erase")
    np.testing.assert_array_equal(np.asarray(pad.image), pad.drawing.raster())


@pytest.mark.parametrize("points", [[[np.nan, 1]], [[1, 2, 3]], None])
def test_bad_points_change_nothing(pad, points):
    draw_seven(pad)
    before = pad.drawing
    with pytest.raises(DrawingError):
        pad.pen_move(points)
    assert pad.drawing == before
    pad.clear()
    with pytest.raises(DrawingError):
        pad.pen_move([[1, 1]])


def test_both_framings(pad):
    draw_seven(pad)
    assert (pad.recognise().image == frame_as_mnist(pad.drawing)).all()
    pad._framing.value = "paper"
    assert (pad.prediction.image == frame_as_paper(pad.drawing)).all()


def test_without_a_recognizer():
    pad = DigitPad()
    assert (pad.drawing.width, pad.drawing.height) == (800, 600)
    draw_seven(pad)
    assert pad.recognise() is None
    assert "no recognizer" in pad._message.value and pad._panel.layout.display == "none"
    assert pad.snapshot().size[1] == 600


def test_what_goes_wrong_in_an_event_is_shown_and_freezes_nothing(pad):
    pad = DigitPad(Broken(), 300, 200)
    draw_seven(pad)
    with pytest.raises(ValueError, match="fault"):
        pad.recognise()
    press(pad, "recognise")
    assert "ValueError: my &lt;own&gt; fault" in pad._message.value
    fire(pad, "mouse_down", x=float("nan"), y=1)
    assert "DrawingError" in pad._message.value
    fire(pad, "mouse_down", x=1, y=1)
    assert len(pad.drawing.strokes) == 2 and pad._message.value.count(":") == 0


def test_the_mouse(pad):
    fire(pad, "mouse_move", x=1, y=1)  # no button: the brush only
    fire(pad, "mouse_down", x=60, y=40)
    fire(pad, "mouse_move", x=140, y=45)
    fire(pad, "mouse_move", x=90, y=160)
    fire(pad, "mouse_up", x=90, y=160)
    fire(pad, "mouse_move", x=7, y=7)
    assert pad.drawing.strokes == (Stroke(SEVEN, 10),)
    pad._tool.value = "erase"
    fire(pad, "mouse_down", x=60, y=40)
    fire(pad, "mouse_out", x=-1, y=40)
    fire(pad, "mouse_move", x=100, y=100)
    assert pad.drawing.strokes[1:] == (Stroke([[60, 40]], 10, erase=True),)


def test_a_finger(pad):
    fire(pad, "touch_start", touches=[{"x": 60, "y": 40}])
    fire(pad, "touch_move", touches=[{"x": 140, "y": 45}, {"x": 0, "y": 0}])
    fire(pad, "touch_end", touches=[])
    fire(pad, "touch_move", touches=[{"x": 0, "y": 0}])
    assert pad.drawing.strokes == (Stroke(SEVEN[:2], 10),)


def test_moves_are_gathered_in_a_kernel(pad, monkeypatch):
    batches = []
    pen_move = pad.pen_move
    monkeypatch.setattr(pad, "pen_move", lambda points: (batches.append(len(points)), pen_move(points)))

    async def scribble():
        fire(pad, "mouse_down", x=0, y=0)
        for x in range(20):
            fire(pad, "mouse_move", x=x, y=x)
        assert not batches
        await asyncio.sleep(3 * GATHER)
        fire(pad, "mouse_move", x=50, y=50)
        fire(pad, "mouse_up", x=50, y=50)  # what is still gathered is not lost

    asyncio.run(scribble())
    assert batches == [20, 1]
    assert len(pad.drawing.strokes[0].points) == 22


def test_a_move_sends_only_what_is_new(pad, sent):
    pad.pen_down(20, 20)
    pad.pen_move([[20 + i, 20] for i in range(100)])
    sent.clear()
    pad.pen_move([[60, 20]])  # within the red rectangle
    assert len(sent) == 1
    canvas, _, buffers = sent[0]
    assert canvas is pad._strokes and len(bytes(buffers[0])) == 2 * 2 * 4


def test_a_new_browser_is_shown_everything(pad, sent):
    draw_seven(pad)
    pad.recognise()
    sent.clear()
    _CANVAS_MANAGER._current_canvas = pad._page
    fire(pad, "client_ready")
    assert _CANVAS_MANAGER._current_canvas is None  # or it would draw on a canvas of the browser that has gone
    assert {canvas for canvas, *_ in sent} >= {pad._page, pad._strokes, pad._marks}
    assert pad.prediction is not None


def test_an_error_while_held_does_not_hold_the_canvas_for_ever():
    with pytest.raises(ZeroDivisionError), held():
        raise ZeroDivisionError
    assert not _CANVAS_MANAGER._caching


def test_a_snapshot_shows_the_pad_in_use(pad):
    blank = np.asarray(pad.snapshot()).astype(int)
    draw_seven(pad)
    pad.recognise()
    picture = np.asarray(pad.snapshot()).astype(int)
    red, green, blue = picture[42, 100]
    assert blue > green > red  # ink
    left, top, right, bottom = red_rectangle(pad.drawing)
    assert tuple(picture[top, (left + right) // 2]) == tuple(picture[bottom - 1, left]) == (255, 34, 0)
    assert (picture != blank)[:, 300:].any() and (picture != blank)[:50, :50].any()  # bars and digit; the answer


def test_readers_without_a_kernel_get_the_picture(pad):
    draw_seven(pad)
    pad.recognise()
    bundle = pad._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(pad.snapshot()))


def test_the_page_keeps_its_size_in_pixels(pad):
    assert (pad._canvas.layout.width, pad._canvas.layout.height) == ("300px", "200px")
