import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from test_segmentation import load, number, three_lines

from mnist_kit.__main__ import main
from mnist_kit.errors import EmptyDrawing, ImageError
from mnist_kit.ink import Drawing, Stroke, append_drawing
from mnist_kit.reading import read

NUMBER = number([(2, 5), (0, 5), (3, 5), (8, 5)])


def command(*arguments) -> int:
    return main(["read", *map(str, arguments)])


def on_paper(drawing: Drawing) -> Image.Image:
    return Image.fromarray(255 - drawing.raster())


def test_pad_and_files_are_read_alike(tmp_path):
    on_paper(NUMBER).save(tmp_path / "number.png")
    for page in (NUMBER, NUMBER.raster(), on_paper(NUMBER), tmp_path / "number.png"):
        reading = read(page, load())
        assert reading.text == "2038" and reading.sure and 0.5 < reading.confidence <= 1
        boxes = np.array([digit.box for digit in reading.digits])
        assert (np.diff(boxes[:, 0]) > 0).all() and np.abs(boxes[0, :2] - (50, 200)).max() <= 15


def test_boxes_are_in_pixels_of_a_large_picture():
    small = on_paper(NUMBER)
    large = small.resize((3 * small.width, 3 * small.height))
    boxes, expected = (np.array([digit.box for digit in read(page, load()).digits]) for page in (large, small))
    assert np.abs(boxes - 3 * expected).max() <= 12


def test_lines_and_plain_values():
    reading = read(three_lines(150), load())
    assert reading.text == "55027\n9020\n38"
    assert [len(line) for line in reading.lines] == [5, 4, 2]
    values = json.loads(json.dumps(reading.as_dict()))
    assert values["text"] == reading.text and values["sure"] is True
    assert [[digit["digit"] for digit in line] for line in values["lines"]] == [[5, 5, 0, 2, 7], [9, 0, 2, 0], [3, 8]]
    assert values["lines"][2][1]["box"] == list(reading.lines[2][1].box)


def test_answers_are_shown_in_the_picture():
    picture = on_paper(NUMBER)
    reading = read(picture, load())
    shown = np.asarray(reading.shown_in(picture)).astype(int)
    red = (shown[..., 0] - shown[..., 1]) > 100
    for left, top, right, bottom in (digit.box for digit in reading.digits):
        assert red[top, left:right].all() and red[top:bottom, right - 1].all()


@pytest.mark.parametrize("text", ["12.50", "0.5", "20-25", "1-1", "3.14-6", "1250"])
def test_points_and_dashes_between_digits_stay(text):
    page = Image.new("L", (700, 220), 255)
    ImageDraw.Draw(page).text((60, 40), text, 0, ImageFont.load_default(110))
    assert read(page, load()).text == text


@pytest.mark.parametrize(
    ("points", "text"), [([[0, 140]], "20.38"), ([[-15, 75], [15, 75]], "20-38"), ([[0, 10]], "2038")]
)
def test_a_point_a_dash_and_a_speck_on_the_pad(points, text):
    page = number([(2, 5), (0, 5), (3, 5), (8, 5)], gap=100, left=20, top=0)
    without = read(page, load())
    middle = (without.digits[1].box[2] + without.digits[2].box[0]) / 2
    mark = Stroke(np.add(points, (middle, 0)), 6)
    reading = read(replace(page, strokes=[*page.strokes, mark]), load())
    assert without.text == "2038" and reading.text == reading.as_dict()["text"] == text
    assert [digit.box for digit in reading.digits] == [digit.box for digit in without.digits]


@pytest.mark.parametrize("page", [Drawing(), Drawing(strokes=[Stroke([[-50, -50]])])])
def test_an_empty_drawing(page):
    with pytest.raises(EmptyDrawing, match="nothing is drawn yet"):
        read(page, load())


@pytest.mark.parametrize("size", [(28, 28), (600, 800)])
def test_a_picture_without_a_digit(size):
    speck = np.full(size, 255, np.uint8)
    speck[size[0] // 2 : size[0] // 2 + 2, 10:12] = 0
    for page in (np.zeros(size, np.uint8), np.full(size, 255, np.uint8), speck):
        with pytest.raises(ImageError, match="looks like a digit"):
            read(page, load())


@pytest.mark.parametrize(
    "stroke",
    [
        pytest.param(Stroke([[400, 300]]), id="dot"),
        pytest.param(Stroke([[400, 300]], 2), id="small dot"),
        pytest.param(Stroke([[400, 300], [415, 301]], 4), id="dash"),
        pytest.param(Stroke([[100, 300], [700, 310]]), id="line"),
        pytest.param(Stroke(np.stack([np.tile([5, 795], 150), np.linspace(5, 595, 300)], 1)), id="page full of ink"),
        pytest.param(Stroke(np.random.default_rng(0).uniform((100, 100), (700, 500), (80, 2))), id="scribble"),
    ],
)
def test_what_is_no_digit(stroke):
    with pytest.raises(ImageError, match="looks like a digit"):
        read(Drawing(strokes=[stroke]), load())


def test_letters_are_no_digits():
    page = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(page).text((60, 30), "A", 0, ImageFont.load_default(120))
    with pytest.raises(ImageError, match="looks like a digit"):
        read(page, load())


def test_the_command_prints_numbers(tmp_path, capsys):
    on_paper(NUMBER).save(tmp_path / "a.png")
    on_paper(three_lines(150)).save(tmp_path / "b.png")
    assert command(tmp_path / "b.png") == 0
    assert capsys.readouterr().out == "55027\n9020\n38\n"
    assert command(tmp_path / "a.png", tmp_path / "none.png") == 1
    out, err = capsys.readouterr()
    assert out == f"{tmp_path}/a.png: 2038\n" and "none.png" in err
    append_drawing(NUMBER, tmp_path / "mine.jsonl")
    assert command(tmp_path / "mine.jsonl", "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert values["text"] == "2038" and values["file"] == f"{tmp_path}/mine.jsonl:1"


def test_the_command_draws_into_one_picture(tmp_path, capsys):
    on_paper(NUMBER).save(tmp_path / "a.png")
    assert command(tmp_path / "a.png", "--show", tmp_path / "out.png") == 0
    assert Image.open(tmp_path / "out.png").size == (800, 600)
    assert command(tmp_path / "a.png", tmp_path / "a.png", "--show", tmp_path / "out.png") == 2
    assert command(tmp_path / "a.png", "--weights", "none") == 2
    assert command(tmp_path / "none.jsonl") == 2
    assert "one picture" in capsys.readouterr().err
