import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_kit.errors import DrawingError, StorageError
from mnist_kit.ink import Drawing, Ink, Stroke, append_drawing, read_drawings

WIDTH, HEIGHT = 60, 40

coordinates = st.one_of(st.floats(-30, 90, width=32), st.floats(-(2.0**100), 2.0**100, width=32))
strokes = st.builds(
    Stroke,
    points=st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=8),
    radius=st.floats(0.1, 60),
    erase=st.booleans(),
)
drawings = st.builds(
    Drawing,
    width=st.just(WIDTH),
    height=st.just(HEIGHT),
    strokes=st.lists(strokes, max_size=5),
    label=st.none() | st.integers(0, 9),
    writer=st.none() | st.integers() | st.text(),
)


def point_by_point(drawing: Drawing) -> Ink:
    ink = Ink(drawing.width, drawing.height)
    for stroke in drawing.strokes:
        (x, y), *rest = stroke.points
        ink.pen_down(x, y, stroke.radius, stroke.erase)
        for point in rest:
            ink.pen_move([point])
    return ink


@given(drawings)
@settings(deadline=None)
def test_the_incremental_raster_is_the_full_one_bit_for_bit(drawing):
    ink = point_by_point(drawing)
    assert ink.drawing.strokes == drawing.strokes
    np.testing.assert_array_equal(ink.raster, drawing.raster())


@given(drawings, strokes)
@settings(deadline=None)
def test_undo_takes_back_exactly_the_last_stroke(drawing, stroke):
    ink = Ink.of(drawing)
    ink.pen_down(*stroke.points[0], stroke.radius, stroke.erase)
    ink.pen_move(stroke.points[1:])
    ink.undo()
    assert ink.drawing.strokes == drawing.strokes
    np.testing.assert_array_equal(ink.raster, drawing.raster())


@given(drawings)
@settings(deadline=None)
def test_a_drawing_survives_json(drawing):
    line = drawing.to_json()
    assert "\n" not in line
    assert Drawing.from_json(line) == drawing


@given(st.tuples(st.floats(5, 55), st.floats(5, 35)), st.tuples(st.floats(5, 55), st.floats(5, 35)), st.floats(1, 5))
@settings(deadline=None)
def test_ink_is_the_distance_to_the_line(start, end, radius):
    raster = Drawing(WIDTH, HEIGHT, [Stroke([start, end], radius)]).raster()
    start, end = np.float32(start).astype(float), np.float32(end).astype(float)
    points = start + np.linspace(0, 1, 400)[:, None] * (end - start)
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    distance = np.hypot(x[..., None] - points[:, 0], y[..., None] - points[:, 1]).min(axis=-1)
    expected = np.clip(radius + 0.5 - distance, 0, 1) * 255
    assert np.abs(raster - expected).max() < 6  # 400 sampled points are not quite a line


def test_one_point_is_a_dot_of_the_pen_s_size():
    raster = Drawing(WIDTH, HEIGHT, [Stroke([[30, 20]], 10)]).raster()
    assert raster.sum() / 255 == pytest.approx(np.pi * 10**2, rel=0.01)


def test_the_eraser_takes_ink_away_and_later_ink_comes_back():
    line, dot = [[10, 20], [50, 20]], [[30, 20]]
    strokes = [Stroke(line, 3), Stroke(dot, 6, erase=True)]
    erased = Drawing(WIDTH, HEIGHT, strokes).raster()
    assert erased[20, 30] == 0 and erased[20, 12] == 255
    assert Drawing(WIDTH, HEIGHT, [*strokes, Stroke(dot, 2)]).raster()[20, 30] == 255


def test_ink_outside_of_the_canvas_is_cut_off():
    far = Drawing(WIDTH, HEIGHT, [Stroke([[1e30, -1e30]], 10), Stroke([[-500, -500], [500, -500]], 10)])
    assert not far.raster().any()
    through = Drawing(WIDTH, HEIGHT, [Stroke([[-1e6, 20], [1e6, 20]], 2)]).raster()
    assert (through[20] == 255).all() and not through[:15].any()


@pytest.mark.parametrize(
    "points",
    [[], [1, 2], [[1, 2, 3]], [[1]], [[1, 2], [3]], [["a", "b"]], None, [[np.nan, 0]], [[0, np.inf]], [[1e39, 0]]],
)
def test_bad_points_are_refused_and_change_nothing(points):
    with pytest.raises(DrawingError):
        Stroke(points)
    ink = Ink(WIDTH, HEIGHT)
    ink.pen_down(10, 10)
    before = ink.raster.copy()
    if points != []:  # moving through no points is allowed
        with pytest.raises(DrawingError):
            ink.pen_move(points)
    assert ink.drawing.strokes == (Stroke([[10, 10]]),)
    np.testing.assert_array_equal(ink.raster, before)


@pytest.mark.parametrize("radius", [0, -1, np.nan, np.inf, None, "wide"])
def test_bad_radius(radius):
    with pytest.raises(DrawingError, match="radius"):
        Stroke([[1, 1]], radius)


@pytest.mark.parametrize(
    "fields",
    [{"width": 0}, {"height": 100_000}, {"width": 2.5}, {"label": 10}, {"label": 3.0}, {"strokes": [[[1, 2]]]}],
)
def test_bad_drawing(fields):
    with pytest.raises(DrawingError):
        Drawing(**fields)


def test_move_before_the_pen_is_down():
    with pytest.raises(DrawingError, match="pen_down"):
        Ink().pen_move([[1, 1]])


def test_a_line_without_sizes_is_of_a_500_px_pad_and_a_pen_of_10():
    drawing = Drawing.from_json('{"label": 8, "writer": 12, "strokes": [[[267, 167], [267, 164]], [[1, 2]]]}')
    assert (drawing.width, drawing.height, drawing.label, drawing.writer) == (500, 500, 8, 12)
    assert [(len(stroke.points), stroke.radius, stroke.erase) for stroke in drawing.strokes] == [
        (2, 10, False),
        (1, 10, False),
    ]


def test_drawings_are_appended_and_read_back(tmp_path, monkeypatch):
    monkeypatch.setenv("MNIST_KIT_HOME", str(tmp_path))
    first = Drawing(strokes=[Stroke([[0.1, 2], [3, 4]], 2.5)], label=1)
    second = Drawing(100, 50, [Stroke([[1, 2]], erase=True)], writer="Änne\u2028")
    append_drawing(first)
    path = append_drawing(second)
    assert path == tmp_path / "drawings.jsonl"
    assert read_drawings(path) == [first, second]
    assert all(set(json.loads(line)) >= {"label", "writer", "strokes"} for line in path.open())


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "7",
        '{"label": 1}',
        '{"strokes": [[[1, 2]]], "radii": [1, 2]}',
        '{"strokes": [[[1, NaN]]]}',
        '{"strokes": 3}',
        '{"strokes": [], "size": [0, 0]}',
        '{"strokes": [], "label": 11}',
    ],
)
def test_a_broken_line_is_named_by_file_and_number(tmp_path, line):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"strokes": []}\n\n' + line + "\n")
    with pytest.raises(DrawingError, match=r"mine\.jsonl, line 3"):
        read_drawings(path)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(DrawingError, match="none"):
        read_drawings(tmp_path / "none.jsonl")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        append_drawing(Drawing(), tmp_path / "file" / "drawings.jsonl")
