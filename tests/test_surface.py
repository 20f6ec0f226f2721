import json
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_kit.errors import DrawingError
from mnist_kit.ink import MAX_SIDE, Drawing, Stroke
from mnist_kit.surface import MOST_BROWSERS, MOST_POINTS, Surface

SEVEN = [[60, 40], [140, 45], [90, 160]]
PLAIN_SEVEN = {"points": SEVEN, "radius": 10, "erase": False, "pressure": None}


class Heard(list):
    """A surface that is listened to: what it sent to browsers, and what it reported."""

    def __init__(self, width=300, height=200):
        self.changes, self.commands, self.failures = [], [], []
        self.surface = Surface(width, height, self.changes.append, self.commands.append, self.failures.append)
        self.surface.send = self.append

    def get(self, kind, client="a", **content):
        """A message as a browser sends it."""
        self.surface._handle_custom_msg({"kind": kind, "client": client, **content}, [])

    def draw(self, points, stroke=1, client="a", radius=10, erase=False):
        self.get("down", client, stroke=stroke, point=points[0], radius=radius, erase=erase)
        if points[1:]:
            self.get("move", client, stroke=stroke, points=points[1:])
        self.get("up", client, stroke=stroke)

    @property
    def strokes(self):
        return self.surface.ink.strokes


@pytest.fixture
def heard() -> Heard:
    return Heard()


def test_a_browser_draws(heard):
    heard.draw(SEVEN, radius=7)
    heard.draw([[60, 40]], stroke=2, erase=True)
    assert heard.strokes == (Stroke(SEVEN, 7), Stroke([[60, 40]], 10, erase=True))
    assert heard.changes == [False, False, True, False, True]
    assert not heard.failures


def test_a_pen_that_feels_pressure(heard):
    heard.get("down", stroke=1, point=SEVEN[0], radius=10, pressure=0.5)
    heard.get("move", stroke=1, points=SEVEN[1:], pressure=[0.75, 90])
    heard.get("up", stroke=1)
    assert heard.strokes == (Stroke(SEVEN, 10, pressure=[0.5, 0.75, 1]),)
    assert heard[-1]["stroke"] == PLAIN_SEVEN | {"pressure": [0.5, 0.75, 1]}
    for pressure in ([0.5], [0.5, None], "hard", {"0": 1}):
        heard.get("down", stroke=2, point=SEVEN[0], radius=10, pressure=0.5)
        heard.get("move", stroke=2, points=SEVEN[1:], pressure=pressure)
        assert isinstance(heard.failures.pop(), DrawingError) and len(heard.strokes[-1].points) == 1


def test_other_browsers_get_a_stroke_when_it_is_finished(heard):
    heard.get("down", stroke=1, point=SEVEN[0], radius=10)
    heard.get("move", stroke=1, points=SEVEN[1:])
    assert not heard  # its own browser has the ink on the screen already
    heard.get("up", stroke=1)
    assert heard == [{"kind": "line", "from": "a", "begin": True, "stroke": PLAIN_SEVEN}]


def test_browsers_see_at_once_what_python_draws(heard):
    heard.surface.pen_down(*SEVEN[0], 10)
    heard.surface.pen_move(SEVEN[1:])
    heard.surface.pen_up()
    assert [(line["begin"], line["stroke"]["points"]) for line in heard] == [(True, SEVEN[:1]), (False, SEVEN[1:])]


def test_a_browser_that_comes_gets_everything(heard):
    heard.draw(SEVEN)
    heard.get("down", "b", stroke=5, point=[1, 1], radius=3)
    heard.clear()
    heard.get("ready", "c")
    (state,) = heard
    assert [stroke["points"] for stroke in state["strokes"]] == [SEVEN, [[1, 1]]]
    assert state["last"] == {"a": 1, "b": 5} and state["live"] == "b"  # so that b keeps what is not here yet
    json.dumps(state)


def test_a_stroke_that_was_undone_while_it_was_drawn_stays_undone(heard):
    heard.get("down", stroke=1, point=[5, 5], radius=10)
    heard.surface.undo()
    heard.get("move", stroke=1, points=SEVEN)
    heard.get("up", stroke=1)
    assert heard.strokes == () and not heard.failures
    assert heard[-1]["strokes"] == [] and heard[-1]["live"] is None


def test_with_nothing_to_redo_a_stroke_goes_on(heard):
    heard.get("down", stroke=1, point=[5, 5], radius=10)
    heard.surface.redo()
    heard.get("move", stroke=1, points=SEVEN)
    assert len(heard.strokes[0].points) == 4 and not heard


@pytest.mark.parametrize("by", ["Python", "another browser"])
def test_a_stroke_that_another_pen_ends_is_told_to_its_browser(heard, by):
    heard.get("down", stroke=1, point=[5, 5], radius=10)
    heard.get("move", stroke=1, points=[[6, 6]])
    if by == "Python":
        heard.surface.pen_down(50, 50, 10)
    else:
        heard.get("down", "b", stroke=1, point=[50, 50], radius=10)
    heard.get("move", stroke=1, points=SEVEN)  # too late
    assert [len(stroke.points) for stroke in heard.strokes] == [2, 1]
    state = next(message for message in heard if message["kind"] == "strokes")
    assert len(state["strokes"]) == 2 and state["live"] != "a" and state["last"]["a"] == 1


def test_undo_redo_clear_and_draw_tell_every_browser(heard):
    heard.draw(SEVEN)
    heard.draw([[9, 9]], stroke=2)
    counts = []
    for change in (heard.surface.undo, heard.surface.redo, heard.surface.clear, heard.surface.undo):
        change()
        counts.append(len(heard[-1]["strokes"]))
    assert counts == [1, 2, 0, 2]
    heard.surface.draw(Drawing(500, 500, [Stroke(SEVEN, 3)]))
    assert heard[-1]["strokes"][0]["radius"] == 3


def test_commands(heard):
    for command in ("undo", "redo", "clear", "recognise"):
        heard.get("do", command=command)
    assert heard.commands == ["undo", "redo", "clear", "recognise"]


BAD = {
    "nothing": {},
    "unknown kind": {"kind": "format the disk"},
    "no point": {"kind": "down", "client": "a", "stroke": 2, "radius": 10},
    "no client": {"kind": "down", "stroke": 2, "point": [1, 1], "radius": 10},
    "point of three": {"kind": "down", "client": "a", "stroke": 2, "point": [1, 1, 1], "radius": 10},
    "NaN": {"kind": "down", "client": "a", "stroke": 2, "point": [float("nan"), 1], "radius": 10},
    "null": {"kind": "down", "client": "a", "stroke": 2, "point": [None, 1], "radius": 10},
    "NaN radius": {"kind": "down", "client": "a", "stroke": 2, "point": [1, 1], "radius": float("nan")},
    "negative radius": {"kind": "down", "client": "a", "stroke": 2, "point": [1, 1], "radius": -3},
    "stroke is text": {"kind": "down", "client": "a", "stroke": "2", "point": [1, 1], "radius": 10},
    "infinite points": {"kind": "move", "client": "a", "stroke": 1, "points": [[1, 1], [1e300, 1]]},
    "points are no list": {"kind": "move", "client": "a", "stroke": 1, "points": {"0": 1}},
    "a number of 400 digits": {"kind": "move", "client": "a", "stroke": 1, "points": [[10**400, 1]]},
    "a radius of 400 digits": {"kind": "down", "client": "a", "stroke": 2, "point": [1, 1], "radius": 10**400},
    "ragged points": {"kind": "move", "client": "a", "stroke": 1, "points": [[1, 1], [1]]},
    "too many points": {"kind": "move", "client": "a", "stroke": 1, "points": [[1, 1]] * 10 * MOST_POINTS},
    "pressure is NaN": {
        "kind": "down",
        "client": "b",
        "stroke": 2,
        "point": [1, 1],
        "radius": 10,
        "pressure": float("nan"),
    },
    "pressure is a list": {"kind": "down", "client": "b", "stroke": 2, "point": [1, 1], "radius": 10, "pressure": [1]},
    "unknown command": {"kind": "do", "command": "shown"},
    "command is no text": {"kind": "do", "command": ["clear"]},
    "no dictionary": ["down"],
}


@pytest.mark.parametrize("message", BAD.values(), ids=BAD)
def test_a_message_that_makes_no_sense_is_refused_and_changes_nothing(heard, message):
    heard.get("down", stroke=1, point=SEVEN[0], radius=10)
    before, changes = heard.surface.ink.drawing, len(heard.changes)
    heard.surface._handle_custom_msg(message, [])
    assert isinstance(heard.failures[-1], DrawingError) and len(str(heard.failures[-1])) < 300
    assert heard.surface.ink.drawing == before and len(heard.changes) == changes and not heard.commands
    heard.get("move", stroke=1, points=SEVEN[1:])  # the pen draws on
    assert heard.strokes == (Stroke(SEVEN),)


def test_what_is_far_outside_is_brought_closer(heard):
    heard.draw([[-1e30, 50], [1e30, 60]], radius=900)
    (stroke,) = heard.strokes
    assert np.abs(stroke.points).max() == MAX_SIDE and stroke.radius == 50
    assert heard.surface.ink.raster.any()


def test_browsers_that_come_and_go_are_forgotten(heard):
    for client in range(3 * MOST_BROWSERS):
        heard.draw([[1, 1]], client=str(client))
    assert len(heard.surface._heard) == MOST_BROWSERS


def test_python_cannot_go_on_with_a_finished_stroke(heard):
    heard.draw(SEVEN)
    with pytest.raises(DrawingError, match="pen_down"):
        heard.surface.pen_move([[1, 1]])


def test_the_rectangle_of_the_growing_stroke(heard):
    surface = heard.surface
    assert surface.pen_box is None
    surface.pen_down(100, 100, 10)
    surface.pen_move([[150, 90], [120, 195]])
    assert surface.pen_box == (80, 70, 170, 200)
    surface.pen_down(100, 100, 10, erase=True)
    assert surface.pen_box is None


points = st.lists(st.lists(st.integers(-20, 80), min_size=2, max_size=2), min_size=1, max_size=4)
actions = st.one_of(
    st.tuples(st.just("draw"), points, st.booleans(), st.sampled_from("ab")),
    st.sampled_from([("undo",), ("redo",), ("clear",)]),
)


@given(st.lists(actions, max_size=10))
@settings(deadline=None, max_examples=30)
def test_whatever_happens_the_raster_is_that_of_the_strokes_and_a_new_browser_sees_them(actions):
    heard = Heard(60, 40)
    for number, (name, *arguments) in enumerate(actions):
        if name == "draw":
            line, erase, client = arguments
            heard.draw(line, number, client, erase=erase)
        else:
            getattr(heard.surface, name)()
    drawing = heard.surface.ink.drawing
    np.testing.assert_array_equal(heard.surface.ink.raster, drawing.raster())
    heard.get("ready")
    seen = [Stroke(stroke["points"], stroke["radius"], stroke["erase"]) for stroke in heard[-1]["strokes"]]
    assert tuple(seen) == drawing.strokes and not heard.failures


def test_a_browser_and_a_cell_may_draw_at_once():
    """JupyterLab hears browsers in a thread of its own."""
    heard = Heard()

    def browser():
        for stroke in range(40):
            heard.draw(np.random.default_rng(stroke).uniform(0, 200, (20, 2)).tolist(), stroke)

    thread = threading.Thread(target=browser)
    thread.start()
    for _ in range(40):
        heard.surface.pen_down(100, 100, 5)
        heard.surface.undo()
        heard.surface.redo()
    thread.join()
    assert not heard.failures
    np.testing.assert_array_equal(heard.surface.ink.raster, heard.surface.ink.drawing.raster())
