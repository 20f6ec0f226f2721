import json
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ipycanvas.canvas import _CMD_LIST

from mnist_kit.errors import DrawingError
from mnist_kit.ink import Drawing, Stroke
from mnist_kit.pad.canvas import Page

SEVEN = [[60, 40], [140, 45], [90, 160]]


class Heard(Page):
    """A page that is listened to: what it told browsers, drew on the canvas, and reported."""

    def __init__(self, width=300, height=200):
        self.sent, self.changes, self.failures = [], [], []
        super().__init__(width, height)
        self._layer.send = self.sent.append
        self._paper._canvas_manager.send = self._hear_batch

    def _changed(self, finished):
        self.changes.append(finished)

    def _fail(self, error):
        self.failures.append(error)

    def _hear_batch(self, _metadata, buffers):
        """Each batch as a list of the commands' names, and how many lines it strokes."""
        commands = json.loads(bytes(buffers[0]))
        lines = sum(command[1][0] for command in commands if _CMD_LIST[command[0]] == "strokeLineSegments")
        self.sent.append(([_CMD_LIST[command[0]] for command in commands], lines))

    def get(self, kind, client="a", **content):
        """A message as a browser sends it."""
        self._layer._handle_custom_msg({"kind": kind, "client": client, **content}, [])

    def scribble(self, points, stroke=1, client="a", radius=10, erase=False):
        self.get("down", client, stroke=stroke, points=points[:1], radius=radius, erase=erase)
        if points[1:]:
            self.get("move", client, stroke=stroke, points=points[1:])
        self.get("up", client, stroke=stroke)

    @property
    def strokes(self):
        return self.drawing.strokes


@pytest.fixture
def heard() -> Heard:
    return Heard()


def test_a_pen_that_feels_pressure(heard):
    heard.get("down", stroke=1, points=SEVEN[:1], radius=10, pressure=[0.5])
    heard.get("move", stroke=1, points=SEVEN[1:], pressure=[0.75, 90])
    heard.get("up", stroke=1)
    assert heard.strokes == (Stroke(SEVEN, 10, pressure=[0.5, 0.75, 1]),)
    assert heard.sent[-1][0].count("strokeLine") == 3  # the dot and two segments, each with its width
    heard.get("down", stroke=2, points=SEVEN[:1], radius=10, pressure=[0.5])
    heard.get("move", stroke=2, points=SEVEN[1:])
    assert isinstance(heard.failures[0], DrawingError)


def test_a_stroke_is_drawn_on_the_canvas_when_it_is_finished(heard):
    heard.get("down", stroke=1, points=SEVEN[:1], radius=10)
    heard.get("move", stroke=1, points=SEVEN[1:])
    assert not heard.sent  # its own browser has the ink on the screen already
    heard.get("up", stroke=1)
    known, (commands, lines) = heard.sent
    assert known == {"kind": "known", "heard": {"a": 1}, "live": None} and lines == 1
    assert "clear" not in commands  # the strokes before it stay
    assert commands[0] == "switchCanvas"  # said each time: a browser may have been reloaded


def test_a_browser_that_comes_gets_everything(heard):
    heard.scribble(SEVEN)
    heard.get("down", "b", stroke=5, points=[[1, 1]], radius=3)
    heard.sent.clear()
    heard.get("ready", "c", ratio=1)
    known, (commands, lines) = heard.sent
    assert known == {"kind": "known", "heard": {"a": 1, "b": 5}, "live": ("b", 5)}  # b keeps what is not here yet
    assert "clear" in commands and lines == 2
    heard.sent.clear()
    heard._paper._client_ready_callbacks()
    assert heard.sent[-1] == (commands, lines)


def test_the_canvas_is_as_fine_as_the_finest_screen(heard):
    sides = []
    for ratio in (1, 2, 1.5, 0.5, 90, float("nan")):
        heard.get("ready", ratio=ratio)
        sides.append((heard._paper.width, heard._paper.height))
    assert sides == [(300, 200), *[(600, 400)] * 3, *[(900, 600)] * 2]


def test_a_stroke_that_was_undone_while_it_was_drawn_stays_undone(heard):
    heard.get("down", stroke=1, points=[[5, 5]], radius=10)
    heard.undo()
    heard.get("move", stroke=1, points=SEVEN)
    heard.get("up", stroke=1)
    assert heard.strokes == () and not heard.failures
    assert heard.sent[-2]["live"] is None and heard.sent[-1][1] == 0


def test_with_nothing_to_redo_a_stroke_goes_on(heard):
    heard.get("down", stroke=1, points=[[5, 5]], radius=10)
    heard.get("do", command="redo", stroke=2)
    assert heard.sent[0] == {"kind": "known", "heard": {"a": 2}, "live": ("a", 1)}
    heard.get("move", stroke=1, points=SEVEN)
    assert len(heard.strokes[0].points) == 4


def test_a_stroke_that_another_browser_ends_is_told_to_its_own(heard):
    heard.get("down", stroke=1, points=[[5, 5]], radius=10)
    heard.get("move", stroke=1, points=[[6, 6]])
    heard.get("down", "b", stroke=1, points=[[50, 50]], radius=10)
    heard.get("move", stroke=1, points=SEVEN)  # too late
    assert [len(stroke.points) for stroke in heard.strokes] == [2, 1]
    known, (commands, lines) = heard.sent[-2:]
    assert known["live"] == ("b", 1) and known["heard"] == {"a": 1, "b": 1} and "clear" in commands and lines == 2


def test_commands_of_a_browser_come_in_line_with_its_strokes(heard):
    heard.scribble(SEVEN)
    heard.get("do", command="clear", stroke=2)
    heard.scribble([[9, 9]], stroke=3)  # drawn after the clearing, and kept
    assert heard.strokes == (Stroke([[9, 9]]),)
    heard.get("do", command="undo", stroke=4)
    heard.get("do", command="undo", stroke=5)
    assert heard.strokes == (Stroke(SEVEN),) and heard.sent[-2]["heard"] == {"a": 5}


DOWN = {"kind": "down", "client": "a", "stroke": 2, "points": [[1, 1]], "radius": 10}
MOVE = {"kind": "move", "client": "a", "stroke": 1}
BAD = {
    "nothing": {},
    "no dictionary": ["down"],
    "unknown kind": {"kind": "format the disk"},
    "no client": {"kind": "down", "stroke": 2, "points": [[1, 1]], "radius": 10},
    "a long name": DOWN | {"client": "x" * 10_000_000},
    "NaN": DOWN | {"points": [[float("nan"), 1]]},
    "stroke is text": DOWN | {"stroke": "2"},
    "too little pressure": MOVE | {"points": [[1, 1], [2, 2]], "pressure": [0.5]},
    "infinite points": MOVE | {"points": [[1, 1], [1e300, 1]]},
    "a number of 400 digits": MOVE | {"points": [[10**400, 1]]},
    "unknown command": {"kind": "do", "command": "shown"},
    "no ratio": {"kind": "ready"},
}


@pytest.mark.parametrize("message", BAD.values(), ids=BAD)
def test_a_message_that_makes_no_sense_is_refused_and_changes_nothing(heard, message):
    heard.get("down", stroke=1, points=SEVEN[:1], radius=10)
    before, changes = heard.drawing, len(heard.changes)
    heard._layer._handle_custom_msg(message, [])
    assert isinstance(heard.failures[-1], DrawingError) and len(str(heard.failures[-1])) < 300
    assert heard.drawing == before and len(heard.changes) == changes and len(heard._heard) == 1
    heard.get("move", stroke=1, points=SEVEN[1:])  # the pen draws on
    assert heard.strokes == (Stroke(SEVEN),)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
messages = st.fixed_dictionaries(
    {"kind": st.sampled_from(["ready", "down", "move", "up", "do"])},
    optional={
        "client": st.just("a") | anything,
        "stroke": st.just(1) | anything,
        "command": st.sampled_from(["undo", "redo", "clear", "recognise"]) | anything,
        **dict.fromkeys(["points", "radius", "pressure", "erase", "ratio"], anything),
    },
)


@given(st.lists(messages | anything, max_size=20))
@settings(max_examples=200)
def test_no_message_does_harm(messages):
    heard = Heard(60, 40)
    for message in messages:
        heard._layer._handle_custom_msg(message, [])
    heard.clear()
    heard.scribble([[5, 5], [6, 6]], 2**50, "z")
    assert heard.strokes == (Stroke([[5, 5], [6, 6]]),)


line = st.lists(st.lists(st.integers(-20, 80), min_size=2, max_size=2), min_size=1, max_size=4)
actions = st.one_of(
    st.tuples(st.just("scribble"), line, st.booleans(), st.sampled_from("ab")),
    st.sampled_from([("undo",), ("redo",), ("clear",)]),
)


@given(st.lists(actions, max_size=10))
@settings(max_examples=50)
def test_undo_and_redo_give_back_each_state(actions):
    page, states, now = Heard(60, 40), [()], 0
    for number, (name, *arguments) in enumerate(actions):
        before = page.strokes
        if name == "scribble":
            points, erase, client = arguments
            page.scribble(points, number, client, erase=erase)
        else:
            getattr(page, name)()
        if name == "scribble" or (name == "clear" and before):
            states = [*states[: now + 1], page.strokes]
        now = {"undo": max(now - 1, 0), "redo": min(now + 1, len(states) - 1)}.get(
            name, len(states) - 1 if page.strokes != before else now
        )
        assert page.strokes == states[now]
        commands, _lines = page.sent[-1]
        assert name == "scribble" or "clear" in commands  # everything is shown again
    assert not page.failures


def test_of_many_browsers_the_last_ones_are_remembered(heard):
    heard.scribble(SEVEN, client="stays")
    for number in range(150):
        heard.scribble(SEVEN, client=f"reload {number}")
        if number % 50 == 0:
            heard.get("do", "stays", command="undo", stroke=number)
    told = next(message["heard"] for message in reversed(heard.sent) if isinstance(message, dict))
    assert len(told) == 100 and told["stays"] == 100 and "reload 149" in told and "reload 0" not in told


def test_a_browser_and_a_cell_may_draw_at_once():
    """JupyterLab hears browsers in a thread of its own."""
    heard = Heard()

    def browser():
        for stroke in range(40):
            heard.scribble(np.random.default_rng(stroke).uniform(0, 200, (20, 2)).tolist(), stroke)

    thread = threading.Thread(target=browser)
    thread.start()
    for _ in range(40):
        heard.draw(Drawing(strokes=[Stroke([[100, 100]])]))
        heard.undo()
        heard.redo()
    thread.join()
    assert not heard.failures
    for known, batch in zip(heard.sent, heard.sent[1:], strict=False):
        assert isinstance(known, tuple) or isinstance(batch, tuple)  # nothing comes between the word and its batch
