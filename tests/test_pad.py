import asyncio
import base64
import io
import sys
import threading
import time
from itertools import count

import numpy as np
import pytest
import torch
from ipycanvas import Canvas
from PIL import Image
from torch import nn

from mnist_kit.adaptation import Adapted
from mnist_kit.errors import DrawingError, RecognizerError
from mnist_kit.framing import frame_as_mnist, frame_as_paper, mnist_raster, red_rectangle
from mnist_kit.ink import Drawing, Stroke, append_drawing, read_drawings
from mnist_kit.pad import PAUSE, SLOW, DigitPad
from mnist_kit.recognizer import Recognizer

SEVEN = [[60, 40], [140, 45], [90, 160]]
ONE_HOT = [0.0] * 7 + [1.0, 0.0, 0.0]


class Always(nn.Module):
    """A network that takes everything for one digit."""

    def __init__(self, digit: int):
        super().__init__()
        self.logits = 5 * torch.eye(10)[digit]

    def forward(self, images):
        return self.logits.expand(len(images), 10)


@pytest.fixture
def pad() -> DigitPad:
    return DigitPad(Recognizer(Always(7)), 300, 200)


numbers = count(1)  # of strokes and commands


def draw(pad: DigitPad, points, erase: bool = False, radius: int = 10, up: bool = True) -> None:
    stroke = {"client": "a", "stroke": next(numbers)}
    send(pad, "down", points=points[:1], radius=radius, erase=erase, **stroke)
    if points[1:]:
        send(pad, "move", points=points[1:], **stroke)
    if up:
        send(pad, "up", **stroke)


def draw_seven(pad: DigitPad, right: float = 0) -> None:
    draw(pad, [[x + right, y] for x, y in SEVEN])


def press(pad: DigitPad, name: str) -> None:
    if name in ("undo", "redo", "clear", "recognise"):
        send(pad, "do", command=name, client="a", stroke=next(numbers))
    else:
        next(w for w in pad.children[3].children if w.description == name).click()


def send(pad: DigitPad, kind: str, **content) -> None:
    """A message as a browser sends it."""
    pad._layer._handle_custom_msg({"kind": kind, **content}, [])


def said(pad: DigitPad) -> str:
    return pad._controls.message.value


def in_kernel(pad: DigitPad, *actions, rest: float = 0.5) -> None:
    """Do `actions` as in a running kernel, and rest until the answer to the last of them is there."""

    async def live():
        for action in actions:
            action()
        end = time.monotonic() + rest
        while pad.prediction is None and time.monotonic() < end:
            await asyncio.sleep(0.005)

    asyncio.run(live())


def test_drawing_and_recognising(pad):
    draw(pad, SEVEN, up=False)
    assert pad._layer.boxes == [red_rectangle(pad.drawing)]
    press(pad, "undo")
    draw_seven(pad)
    assert pad.drawing == Drawing(300, 200, [Stroke(SEVEN, 10)])
    np.testing.assert_array_equal(np.asarray(pad.image), pad.drawing.raster())
    assert pad.recognise().digit == pad.prediction.digit == 7
    assert pad.number == "7" and pad._layer.answer == "predict: 7"
    assert "94.3%" in pad._controls.panel.value  # e⁵ / (e⁵ + 9)
    pad.clear()
    assert pad._layer.boxes == []
    assert pad.recognise() is None and pad.prediction is None and "nothing is drawn yet" in said(pad)


def test_a_number(pad):
    draw_seven(pad)
    draw_seven(pad, right=120)
    pad.recognise()
    assert pad.number == "77" and pad._layer.answer == "predict: 77"
    boxes = [digit.box for digit in pad.digits]
    assert pad._layer.boxes == boxes and boxes[0][2] <= boxes[1][0]
    panel = pad._controls.panel.value
    assert panel.count("<img") == 2 and panel.count("seen: 7") == 4 and "of the last digit" in panel
    draw(pad, [[20, 180], [30, 190]], up=False)
    assert pad._layer.boxes == [*boxes, (0, 160, 50, 200)]  # the others stay while one is added


def test_not_sure():
    pad = DigitPad(lambda image: [0.1] * 10, 300, 200)
    draw_seven(pad)
    pad.recognise()
    assert pad.number == "?" and pad._layer.answer == "not sure"
    draw_seven(pad, right=120)
    pad.recognise()
    assert pad.number == "??" and "? stands for" in said(pad)


def test_the_answer_follows_the_drawing(pad):
    in_kernel(pad, lambda: draw(pad, SEVEN, up=False))
    assert pad.number == "7"  # while the pen rests
    in_kernel(pad, pad.undo)
    assert pad.prediction is None and pad._layer.answer == ""


def test_only_the_latest_ink_is_recognised_and_clearing_asks_nothing():
    seen = []
    pad = DigitPad(lambda image: (seen.append(image), ONE_HOT)[1], 300, 200)
    in_kernel(pad, lambda: draw_seven(pad), pad.clear)
    assert not seen and not pad.answers
    in_kernel(pad, lambda: draw_seven(pad), *[lambda: draw(pad, SEVEN[:1])] * 20)
    assert pad.prediction is not None and len(seen) <= 4  # once, and not once a stroke


def test_without_auto_the_pad_waits_to_be_asked():
    pad = DigitPad(Recognizer(Always(7)), 300, 200, auto=False)
    in_kernel(pad, lambda: draw_seven(pad), rest=2 * PAUSE)
    assert pad.prediction is None and pad._layer.boxes == [red_rectangle(pad.drawing)]
    press(pad, "recognise")
    assert pad.number == "7"
    draw(pad, [[5, 5]])
    assert pad._layer.answer == ""  # it was the answer to something else
    pad._controls.auto.value = True
    assert pad.digits


@pytest.mark.parametrize("pressure", [None, [0.25, 1, 0.5]])
def test_a_replay_draws_the_same(pad, pressure):
    drawing = Drawing(300, 200, [Stroke(SEVEN, 4, pressure=pressure), Stroke([[90, 160]], 9, erase=True)])
    asyncio.run(pad.replay(drawing))
    assert pad.drawing == drawing
    pad.undo()
    assert not pad.drawing.strokes


@pytest.mark.parametrize("act", [draw_seven, DigitPad.undo, DigitPad.clear])
def test_a_replay_gives_way(pad, act):
    long = Drawing(300, 200, [Stroke(np.linspace([10, 10], [200, 150], 200)), Stroke(SEVEN)])

    async def both():
        replay = asyncio.ensure_future(pad.replay(long))
        await asyncio.sleep(0.1)
        before = pad.drawing
        act(pad)
        after = pad.drawing
        await replay
        assert pad.drawing == after  # nothing more came
        assert 1 < len(before.strokes[0].points) < 200

    asyncio.run(both())
    assert [len(stroke.points) for stroke in pad.drawing.strokes][1:] == ([3] if act is draw_seven else [])


@pytest.mark.parametrize("recognizer", [Always(7), lambda image: torch.tensor(ONE_HOT)], ids=["network", "function"])
def test_a_recognizer_and_its_framings(recognizer):
    pad = DigitPad(recognizer, 300, 200)
    draw_seven(pad)
    assert pad.recognise().digit == 7
    assert (pad.prediction.image - frame_as_mnist(mnist_raster(pad.drawing))).abs().mean() < 0.06  # a pixel beside
    pad._controls.framing.value = "paper"
    assert (pad.prediction.image == frame_as_paper(pad.drawing.raster(), 10)).all()


def test_without_a_recognizer():
    pad = DigitPad()
    assert (pad.drawing.width, pad.drawing.height) == (800, 600)
    in_kernel(pad, lambda: draw_seven(pad))
    assert pad.recognise() is None and "no recognizer" in said(pad)
    assert pad._controls.asking not in pad.children[1].children
    assert pad.snapshot().size[1] == 600
    with pytest.raises(RecognizerError, match="a str recognises nothing"):
        DigitPad("class-mnist")


def fail(_image):
    raise ValueError("my <own> fault")


FAULTY = {
    "sum": (lambda image: [1.0] * 10, "logits before a softmax"),
    "exit": (lambda image: sys.exit("enough"), "SystemExit: enough"),
    "fault": (fail, "my &lt;own&gt; fault"),
}


@pytest.mark.parametrize(("recognizer", "message"), FAULTY.values(), ids=FAULTY)
def test_a_faulty_recognizer_is_told_so_and_freezes_nothing(recognizer, message):
    pad = DigitPad(recognizer, 300, 200)
    in_kernel(pad, lambda: draw_seven(pad))
    assert message in said(pad) and pad._layer.answer == "" and len(pad.drawing.strokes) == 1
    pad.recognizer = Recognizer(lambda image: ONE_HOT)
    press(pad, "recognise")
    assert pad.number == "7" and message not in said(pad)


def test_callbacks_get_each_answer_and_may_fail(pad):
    answers = []
    pad.on_prediction(lambda prediction: sys.exit("enough"))
    pad.on_prediction(answers.append)
    draw_seven(pad)
    pad.recognise()
    assert answers == [pad.prediction] and "enough" in said(pad)


def test_a_slow_recognizer_is_asked_once_per_drawing():
    asked = []

    def slow(image):
        asked.append(image)
        time.sleep(SLOW + 0.1)
        return [0.1] * 10  # of which a wide shape would be cut into slices, each asked about

    pad = DigitPad(slow, 300, 200)
    pad.draw(Drawing(300, 200, [Stroke([[x, 100 + 40 * (x % 40 > 20)] for x in range(10, 290, 20)])]))
    assert pad.recognise().digit == 0 and len(asked) == 1 and "slow" in said(pad)
    pad.recognise()
    assert len(asked) == 2


def test_the_history_of_answers(pad):
    draw_seven(pad)
    pad.clear()
    assert pad.answers == []  # that one was never answered
    draw_seven(pad)
    first = pad.drawing
    pad.recognise()
    pad.clear()
    draw_seven(pad)
    draw_seven(pad, right=120)
    pad.recognise()
    pad.draw(first)
    assert [number for _, number in pad.answers] == ["7", "77"] and pad.answers[0][0] == first
    assert pad._controls.history.value.count("<img") == 2 and pad._controls.history.value.index("77") > 0


def test_keeping_and_loading(pad, home):
    draw(pad, [[50, 50]])
    draw(pad, [[50, 50]], erase=True, radius=40)
    with pytest.raises(DrawingError, match="nothing is drawn"):
        pad.keep()
    pad.clear()
    press(pad, "load")
    assert "no drawing was kept" in said(pad)
    draw_seven(pad)
    pad._controls.label.value = "1"
    press(pad, "keep")
    assert str(home / "drawings.jsonl") in said(pad)
    (kept,) = read_drawings()
    assert kept.label == 1 and kept.strokes == pad.drawing.strokes and kept.time
    assert pad._controls.label.index == 0  # the next drawing is another digit
    later = DigitPad(width=300, height=200)
    draw(later, [[5, 5]])
    press(later, "load")
    assert later.drawing.strokes == kept.strokes
    later.undo()
    assert len(later.drawing.strokes[0].points) == 1  # loading can be taken back


def test_a_drawing_of_a_larger_pad_is_loaded_smaller():
    append_drawing(Drawing(600, 600, [Stroke([[30, 60], [600, 600]], 9)]))
    pad = DigitPad(width=300, height=200)
    press(pad, "load")
    (stroke,) = pad.drawing.strokes
    np.testing.assert_allclose(stroke.points, [[10, 20], [200, 200]], rtol=1e-6)
    assert stroke.radius == pytest.approx(3)


def test_a_file_of_drawings_that_cannot_be_read_keeps_no_pad_from_opening(home):
    (home / "drawings.jsonl").mkdir(parents=True)
    assert "cannot read drawings" in said(DigitPad(width=300, height=200))
    (home / "drawings.jsonl").rmdir()
    path = append_drawing(Drawing(strokes=[Stroke(SEVEN)], label=7))
    path.write_text("no drawing\n" + path.read_text())
    pad = DigitPad(width=300, height=200)
    assert "line 1" in said(pad) and len(pad._controls.kept.options) == 1


def test_export(pad, home):
    press(pad, "PNG")
    assert "nothing is drawn" in said(pad) and not (home / "exports").exists()
    draw_seven(pad)
    press(pad, "PNG")
    np.testing.assert_array_equal(np.asarray(Image.open(home / "exports" / "drawing.png")), np.asarray(pad.image))
    press(pad, "SVG")
    assert (home / "exports" / "drawing.svg").read_text() == pad.drawing.to_svg()
    press(pad, "PNG")
    assert "drawing-2.png" in said(pad)  # the first one stays
    with pytest.raises(DrawingError, match=r"\.png or \.svg"):
        pad.export(home / "drawing.gif")


def test_a_snapshot_shows_the_pad_in_use_and_stands_where_no_kernel_runs(pad):
    blank = np.asarray(pad.snapshot()).astype(int)
    draw_seven(pad)
    pad.recognise()
    picture = np.asarray(pad.snapshot()).astype(int)
    red, green, blue = picture[42, 100]
    assert blue > green > red  # ink
    left, top, right, bottom = red_rectangle(pad.drawing)
    assert tuple(picture[top, (left + right) // 2]) == tuple(picture[bottom - 1, left]) == (255, 34, 0)
    assert (picture != blank)[:, 300:].any() and (picture != blank)[:30, :50].any()  # bars and digit; the answer
    bundle = pad._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))), picture)


def test_readers_without_a_kernel_see_an_example_while_nothing_is_drawn(pad):
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(pad._repr_mimebundle_()["image/png"])))).astype(int)
    red, green, blue = picture.T
    assert ((blue > green) & (green > red))[: pad._layer.width].sum() > 1_000  # ink
    assert not pad.drawing.strokes and pad.prediction is None and not pad.answers
    asked = []
    DigitPad(lambda image: asked.append(image))._repr_mimebundle_()
    assert not asked  # a function of the reader's is asked about real ink only


def adapted(recognizer: Recognizer, right_after: int = 9) -> Adapted:
    """What `adapt` gives: here a network that was taught to take everything for a 3."""
    taught = Recognizer(Always(3), recognizer.framing)
    return Adapted(taught, "my-hand", 10, 5, right_after, images=100, images_before=90, images_after=88)


def teach(pad, monkeypatch, adapt, meanwhile=lambda: None) -> list[str]:
    """Press the button where `adapt` stands for the real one, wait, and return what was said from then on."""
    monkeypatch.setattr("mnist_kit.adaptation.adapt", adapt)
    messages = []
    pad._controls.message.observe(lambda change: messages.append(change["new"]), "value")

    async def live():
        press(pad, "teach")
        meanwhile()
        while pad._teaching.disabled:
            await asyncio.sleep(0.005)

    asyncio.run(live())
    return messages


def test_teaching_and_taking_it_back(pad, monkeypatch):
    given = pad.recognizer
    draw_seven(pad)
    asked = threading.Event()

    def adapt(recognizer, progress):
        assert asked.wait(60) and not progress
        return adapted(recognizer)

    def meanwhile():
        assert pad._teaching.description == "learning…" and pad.recognise().digit == 7
        asked.set()

    messages = teach(pad, monkeypatch, adapt, meanwhile)
    assert "you can draw on" in messages[0] and "9 after; images" in messages[-1]
    assert pad.number == "3" and given.predict(pad.drawing).digit == 7  # what the reader gave is as it was
    pad._controls.framing.value = "paper"
    press(pad, "unteach")
    assert pad.number == "7" and pad.recognizer.framing == "paper" and pad._teaching.description == "teach"


def test_teaching_that_does_not_pay_or_fails_changes_nothing(pad, monkeypatch):
    teach(pad, monkeypatch, lambda recognizer, progress: adapted(recognizer, right_after=5))
    draw_seven(pad)
    assert pad.recognise().digit == 7 and pad._teaching.description == "teach"
    messages = teach(pad, monkeypatch, lambda recognizer, progress: 1 / 0)
    assert "ZeroDivisionError" in messages[-1] and pad.recognise().digit == 7


def test_the_reader_has_a_canvas_over_the_ink(pad):
    assert isinstance(pad.canvas, Canvas) and pad.canvas is pad.canvas
    assert (pad.canvas.width, pad.canvas.height) == (300, 200)
    assert pad.canvas._canvas_manager is not pad._paper._canvas_manager  # what goes wrong there leaves the ink alone
