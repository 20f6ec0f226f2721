import codecs
from dataclasses import replace
from datetime import datetime
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_kit.errors import DrawingError, StorageError
from mnist_kit.ink import Drawing, Stroke, append_drawing, read_drawings

WIDTH, HEIGHT = 60, 40

coordinates = st.one_of(st.floats(-30, 90, width=32), st.floats(-(2.0**100), 2.0**100, width=32))


@st.composite
def some_strokes(draw) -> Stroke:
    points = draw(st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=8))
    shares = st.lists(st.floats(0.0625, 1, width=32), min_size=len(points), max_size=len(points))
    return Stroke(points, draw(st.floats(0.1, 60)), draw(st.booleans()), draw(st.none() | shares))


drawings = st.builds(
    Drawing,
    width=st.just(WIDTH),
    height=st.just(HEIGHT),
    strokes=st.lists(some_strokes(), max_size=5),
    label=st.none() | st.integers(0, 9),
    writer=st.none() | st.integers() | st.text(),
    time=st.none() | st.datetimes().map(datetime.isoformat),
)


@given(drawings)
def test_a_drawing_survives_json_and_can_be_drawn(drawing):
    line = drawing.to_json()
    assert "\n" not in line
    assert Drawing.from_json(line) == drawing
    assert drawing.raster().shape == (HEIGHT, WIDTH)


def test_a_line_without_sizes_is_of_a_500_px_pad_and_a_pen_of_10():
    drawing = Drawing.from_json('{"label": 8, "writer": 12, "strokes": [[[267, 167], [267, 164]], [[1, 2]]]}')
    assert drawing == Drawing(500, 500, (Stroke([[267, 167], [267, 164]], 10), Stroke([[1, 2]], 10)), 8, 12)


def test_a_writer_may_be_one_of_numpy_s_numbers():
    assert '"writer":3,' in Drawing(writer=np.int64(3)).to_json()


@given(st.tuples(st.floats(5, 55), st.floats(5, 35)), st.tuples(st.floats(5, 55), st.floats(5, 35)), st.floats(1, 5))
def test_ink_is_the_distance_to_the_line(start, end, radius):
    raster = Drawing(WIDTH, HEIGHT, [Stroke([start, end], radius)]).raster()
    start, end = np.float32(start).astype(float), np.float32(end).astype(float)
    points = start + np.linspace(0, 1, 400)[:, None] * (end - start)
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    distance = np.hypot(x[..., None] - points[:, 0], y[..., None] - points[:, 1]).min(axis=-1)
    expected = np.clip(radius + 0.5 - distance, 0, 1) * 255
    assert np.abs(raster - expected).max() < 6  # 400 sampled points are not quite a line


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


def test_pressure_makes_a_line_thinner_and_thicker():
    line = Stroke([[10, 20], [50, 20]], 10, pressure=[0.2, 1])
    raster = Drawing(WIDTH, HEIGHT, [line]).raster()
    thickness = [int((raster[:, x] > 127).sum()) for x in (12, 30, 48)]
    assert thickness == pytest.approx([2 * (2 + 0.8 * x) for x in (1, 5, 9.5)], abs=1.5)
    full = Drawing(WIDTH, HEIGHT, [replace(line, pressure=[1, 1])])
    np.testing.assert_array_equal(full.raster(), Drawing(WIDTH, HEIGHT, [replace(line, pressure=None)]).raster())
    assert Stroke([[1, 1]] * 3, pressure=[-5, 0.5, 7]).pressure == pytest.approx([0.05, 0.5, 1])  # clipped


BAD_POINTS = [[], [1, 2], [[1, 2, 3]], [[1, 2], [3]], [["a", "b"]], None, [[np.nan, 0]], [[0, np.inf]], [[1e39, 0]]]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        *(({"points": points}, "points") for points in BAD_POINTS),
        *(({"radius": radius}, "radius") for radius in (0, -1, np.nan, np.inf, 10**400, 1e5, None, "wide", [1, 2])),
        *(({"pressure": share}, "pressure") for share in ([], [0.5], [0.5, np.nan], ["a", "b"], 0.5, [[0.5, 0.5]])),
    ],
)
def test_strokes_that_make_no_sense(fields, name):
    with pytest.raises(DrawingError, match=name):
        Stroke(**{"points": [[1, 1], [2, 2]]} | fields)


BAD = [("width", 0), ("height", 100_000), ("width", 2.5), ("label", 10), ("label", 3.0), ("strokes", [[[1, 2]]])]


@pytest.mark.parametrize(("field", "value"), BAD)
def test_drawings_that_make_no_sense(field, value):
    with pytest.raises(DrawingError):
        Drawing(**{field: value})


def test_drawings_are_appended_and_read_back(home):
    first = Drawing(strokes=[Stroke([[0.1, 2], [3, 4]], 2.5)], label=1)
    second = Drawing(100, 50, [Stroke([[1, 2]], erase=True)], writer="Änne\u2028")
    append_drawing(first)
    path = append_drawing(second)
    assert path == home / "drawings.jsonl"
    kept = read_drawings(path)
    assert [replace(drawing, time=None) for drawing in kept] == [first, second]
    assert all(datetime.fromisoformat(drawing.time).tzinfo for drawing in kept)
    timed = replace(first, time="2026-01-31T12:00:00+01:00")
    assert read_drawings(append_drawing(timed))[-1] == timed


BROKEN = [
    *(b"{", b"[]", b"7", b'{"label": 1}', b'{"strokes": 3}', b'{"strokes": {}}', b"[" * 100_000),
    *(b'{"strokes": [[[1, NaN]]]}', b'{"strokes": [[[1' + b"0" * 400 + b", 1]]]}"),
    *(b'{"strokes": [[[1, 2]]], "radii": [1, 2]}', b'{"strokes": [], "size": [0, 0]}'),
    b'{"strokes": [], "label": 11}',
]


@pytest.mark.parametrize("line", BROKEN)
def test_a_broken_line_is_named_and_the_rest_is_read(tmp_path, line):
    path = tmp_path / "mine.jsonl"
    good = Drawing(strokes=[Stroke([[1, 2]])])
    path.write_bytes(b"\n".join([good.to_json().encode(), b"", line, good.to_json().encode(), b"\xff"]))
    with pytest.warns(UserWarning, match=r"mine\.jsonl: 2 of 4 lines[^\n]*\nline 3: .*\nline 5: ") as caught:
        assert read_drawings(path) == [good, good]
    assert len(caught) == 1 and caught[0].filename == __file__


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("last", [None, 0, 3, 50])
def test_the_last_drawings_of_a_file_with_any_line_ends(tmp_path, end, last):
    drawings = [Drawing(strokes=[Stroke([[n, 0.125]] * 600)], writer=n) for n in range(30)]
    path = tmp_path / "mine.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + end.join([*(d.to_json().encode() for d in drawings), b" ", b""]))
    assert read_drawings(path, last) == (drawings if last is None else drawings[max(0, 30 - last) :])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("last", [None, 1, 10**30])
def test_a_byte_order_mark_alone_in_its_line_is_blank(tmp_path, last):
    (tmp_path / "mine.jsonl").write_bytes(codecs.BOM_UTF8 + b"\n" + Drawing().to_json().encode())
    assert read_drawings(tmp_path / "mine.jsonl", last) == [Drawing()]


def test_the_last_drawing_before_many_blank_lines(tmp_path):
    drawings, path = [Drawing(writer=n) for n in range(3)], tmp_path / "mine.jsonl"
    path.write_bytes(b"\n".join([*(d.to_json().encode() for d in drawings), b"broken", *[b" \t"] * 100_000]))
    with pytest.warns(UserWarning, match="line 4:"):
        assert read_drawings(path, 2) == drawings[2:]


@pytest.mark.parametrize("last", ["2", 2.5, True, -1, [1]])
def test_a_number_of_last_drawings_that_makes_no_sense(tmp_path, last):
    with pytest.raises(DrawingError, match="last has to be a whole number"):
        read_drawings(append_drawing(Drawing()), last)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(DrawingError, match="none"):
        read_drawings(tmp_path / "none.jsonl")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        append_drawing(Drawing(), tmp_path / "file" / "drawings.jsonl")


def test_svg_has_each_stroke_as_a_path_and_with_pressure_each_segment():
    strokes = [
        Stroke([[10, 20], [30.5, 40]], 3),
        Stroke([[20, 20]], 6, erase=True),
        Stroke([[5, 5], [9, 5], [9, 9]], 10, pressure=[0.5, 0.5, 1]),
    ]
    root = ElementTree.fromstring(Drawing(80, 50, strokes).to_svg())
    assert (root.get("width"), root.get("height"), root.get("viewBox")) == ("80", "50", "0 0 80 50")
    paths = root.iter("{http://www.w3.org/2000/svg}path")
    assert [(path.get("d"), path.get("stroke"), float(path.get("stroke-width"))) for path in paths] == [
        ("M10 20L10 20L30.5 40", "#000", 6),
        ("M20 20L20 20", "#fff", 12),
        ("M5 5L5 5", "#000", 10),
        ("M5 5L9 5", "#000", 10),
        ("M9 5L9 9", "#000", 15),
    ]
