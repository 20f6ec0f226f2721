import codecs
import json
import subprocess
import sys
import warnings
from dataclasses import replace
from datetime import datetime
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_kit.errors import DrawingError, StorageError
from mnist_kit.ink import Drawing, Stroke, append_drawing, read_drawings

WIDTH, HEIGHT = 60, 40

coordinates = st.one_of(st.floats(-30, 90, width=32), st.floats(-(2.0**100), 2.0**100, width=32))
shares = st.floats(0.0625, 1, width=32)


@st.composite
def some_strokes(draw) -> Stroke:
    points = draw(st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=8))
    pressure = draw(st.none() | st.lists(shares, min_size=len(points), max_size=len(points)))
    return Stroke(points, draw(st.floats(0.1, 60)), draw(st.booleans()), pressure)


strokes = some_strokes()
drawings = st.builds(
    Drawing,
    width=st.just(WIDTH),
    height=st.just(HEIGHT),
    strokes=st.lists(strokes, max_size=5),
    label=st.none() | st.integers(0, 9),
    writer=st.none() | st.integers() | st.text(),
    time=st.none() | st.datetimes().map(datetime.isoformat),
)


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
def test_bad_points_are_refused(points):
    with pytest.raises(DrawingError):
        Stroke(points)


@pytest.mark.parametrize("radius", [0, -1, np.nan, np.inf, None, "wide"])
def test_bad_radius(radius):
    with pytest.raises(DrawingError, match="radius"):
        Stroke([[1, 1]], radius)


@pytest.mark.parametrize(
    "fields",
    [
        {"width": 0},
        {"height": 100_000},
        {"width": 2.5},
        {"label": 10},
        {"label": 3.0},
        {"time": "now"},
        {"time": 7},
        {"strokes": [[[1, 2]]]},
    ],
)
def test_bad_drawing(fields):
    with pytest.raises(DrawingError):
        Drawing(**fields)


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
    kept = read_drawings(path)
    assert [replace(drawing, time=None) for drawing in kept] == [first, second]
    assert all(datetime.fromisoformat(drawing.time).tzinfo for drawing in kept)
    timed = replace(first, time="2026-01-31T12:00:00+01:00")
    assert read_drawings(append_drawing(timed))[-1] == timed
    assert all(set(json.loads(line)) >= {"label", "writer", "strokes"} for line in path.open())


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"7",
        b'{"label": 1}',
        b'{"strokes": [[[1, 2]]], "radii": [1, 2]}',
        b'{"strokes": [[[1, NaN]]]}',
        b'{"strokes": 3}',
        b'{"strokes": [], "size": [0, 0]}',
        b'{"strokes": [], "label": 11}',
        b'{"strokes": [], "time": "noon"}',
        b'{"strokes": [[[1' + b"0" * 400 + b", 1]]]}",
        b"[" * 100_000,
        b'{"strokes": {}}',
    ],
)
def test_a_broken_line_is_named_and_the_rest_is_read(tmp_path, line):
    path = tmp_path / "mine.jsonl"
    good = Drawing(strokes=[Stroke([[1, 2]])])
    path.write_bytes(b"\n".join([good.to_json().encode(), b"", line, good.to_json().encode(), b"\xff"]))
    with pytest.warns(UserWarning, match=r"mine\.jsonl: 2 of 4 lines[^\n]*\nline 3: .*\nline 5: ") as caught:
        assert read_drawings(path) == [good, good]
    assert len(caught) == 1 and caught[0].filename == __file__


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("last", [None, 0, 1, 3, 50])
def test_the_last_drawings_of_a_file_with_any_line_ends(tmp_path, end, last):
    drawings = [Drawing(strokes=[Stroke([[n, 0.125]] * 600)], writer=n) for n in range(30)]
    path = tmp_path / "mine.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + end.join([*(d.to_json().encode() for d in drawings), b" ", b""]))
    assert read_drawings(path, last) == (drawings if last is None else drawings[max(0, 30 - last) :])


def test_the_last_drawings_are_read_without_the_rest(tmp_path):
    path = tmp_path / "mine.jsonl"
    good = Drawing(strokes=[Stroke([[1, 2]])])
    with path.open("wb") as file:
        file.truncate(1 << 36)  # 64 GB of zeros, which the disk does not hold
    append_drawing(replace(good, time="2026-01-31"), path)
    append_drawing(replace(good, time="2026-02-01"), path)
    path.open("ab").write(b"{\n")
    with pytest.warns(UserWarning, match="1 of 2 lines .*\nline 1 from the end"):
        assert [drawing.time for drawing in read_drawings(path, last=2)] == ["2026-02-01"]


def test_a_torn_last_line_does_not_swallow_the_next_drawing(tmp_path):
    path = append_drawing(Drawing(), tmp_path / "mine.jsonl")
    path.write_bytes(path.read_bytes()[:-9])
    append_drawing(Drawing(label=3), path)
    with pytest.warns(UserWarning, match="line 1"):
        assert [drawing.label for drawing in read_drawings(path)] == [3]


def test_a_whole_file_gives_no_warning(tmp_path):
    path = append_drawing(Drawing(), tmp_path / "mine.jsonl")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_drawings(path)) == 1


def test_processes_that_append_at_once_lose_nothing(tmp_path):
    path = tmp_path / "mine.jsonl"
    code = (
        "import sys; from mnist_kit.ink import Drawing, Stroke, append_drawing\n"
        "drawings = [Drawing(strokes=[Stroke([[n, 1]] * 1000)], writer=sys.argv[2]) for n in range(40)]\n"
        "for drawing in drawings: append_drawing(drawing, sys.argv[1])"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(path), writer]) for writer in "abc"]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    drawings = read_drawings(path)
    for writer in "abc":
        own = [int(drawing.strokes[0].points[0, 0]) for drawing in drawings if drawing.writer == writer]
        assert own == list(range(40))


def test_svg_has_the_strokes_round_and_true():
    drawing = Drawing(
        80, 50, [Stroke([[10, 20], [30.5, 40]], 3), Stroke([[20, 20]], 6, erase=True), Stroke([[5, 5]], 2)]
    )
    root = ElementTree.fromstring(drawing.to_svg())
    space = "{http://www.w3.org/2000/svg}"
    assert (root.get("width"), root.get("height"), root.get("viewBox")) == ("80", "50", "0 0 80 50")
    paths = {path.get("d"): path for path in root.iter(f"{space}path")}
    assert [path.get("stroke-width") for path in paths.values()] == ["12", "6", "4"]
    assert "M10 20L10 20L30.5 40" in paths
    (mask,) = root.iter(f"{space}mask")
    (erased,) = (group for group in root.iter(f"{space}g") if group.get("mask"))
    assert erased.get("mask") == f"url(#{mask.get('id')})"
    assert [path.get("stroke-width") for path in erased.iter(f"{space}path")] == ["6"]  # the later dot is not erased
    other = Drawing(80, 50, [*drawing.strokes, Stroke([[1, 1]])])
    assert mask.get("id") not in other.to_svg()


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(DrawingError, match="none"):
        read_drawings(tmp_path / "none.jsonl")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        append_drawing(Drawing(), tmp_path / "file" / "drawings.jsonl")


def test_pressure_makes_a_line_thinner_and_thicker():
    line = Stroke([[10, 20], [50, 20]], 10, pressure=[0.2, 1])
    raster = Drawing(WIDTH, HEIGHT, [line]).raster()
    thickness = [int((raster[:, x] > 127).sum()) for x in (12, 30, 48)]
    assert thickness == pytest.approx([2 * (2 + 0.8 * x) for x in (1, 5, 9.5)], abs=1.5)
    full = Drawing(WIDTH, HEIGHT, [replace(line, pressure=None)]).raster()
    assert (raster <= full).all() and raster.sum() < 0.8 * full.sum()


def test_full_pressure_is_none():
    line = Stroke([[10, 20], [50, 25]], 7)
    pressed = replace(line, pressure=[1, 1])
    np.testing.assert_array_equal(Drawing(strokes=[line]).raster(), Drawing(strokes=[pressed]).raster())


def test_pressure_beyond_its_range_is_clipped():
    assert Stroke([[1, 1]] * 3, pressure=[-5, 0.5, 7]).pressure == pytest.approx([0.05, 0.5, 1])


@pytest.mark.parametrize("pressure", [[], [0.5], [0.5, np.nan], [0.5, np.inf], ["a", "b"], 0.5, [[0.5, 0.5]]])
def test_pressure_that_makes_no_sense(pressure):
    with pytest.raises(DrawingError, match="pressure has to be"):
        Stroke([[1, 1], [2, 2]], pressure=pressure)


def test_in_json_pressure_is_there_where_a_pen_gave_it():
    plain, pressed = Stroke([[1, 2], [3, 4]]), Stroke([[1, 2], [3, 4]], pressure=[0.25, 0.5])
    assert "pressure" not in json.loads(Drawing(strokes=[plain]).to_json())
    assert json.loads(Drawing(strokes=[plain, pressed]).to_json())["pressure"] == [None, [0.25, 0.5]]


def test_in_svg_a_line_with_pressure_has_a_width_a_segment():
    svg = Drawing(WIDTH, HEIGHT, [Stroke([[5, 5], [9, 5], [9, 9]], 10, pressure=[0.5, 0.5, 1])]).to_svg()
    paths = [element for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("path")]
    assert [float(path.get("stroke-width")) for path in paths] == [10, 10, 15]
