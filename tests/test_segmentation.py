from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_kit.errors import ImageError
from mnist_kit.ink import Drawing, Stroke
from mnist_kit.recognizer import Prediction, Recognizer
from mnist_kit.segmentation import as_text, split
from mnist_kit.synthetic import sample_drawing

load = cache(Recognizer.load)


class Certain:
    """Takes whatever it is shown for a 7, for sure."""

    framing = "mnist"

    def predict_rasters(self, rasters, margin=0):
        return [Prediction(7, np.eye(10, dtype=np.float32)[7], None) for _ in rasters]


def number(digits, gap: float = 80, height: float = 150, left: float = 50, top: float = 200) -> Drawing:
    """Synthetic digits beside each other, `gap` px between them; digits: (digit, seed) each."""
    strokes = []
    for digit, seed in digits:
        drawn = [stroke.points for stroke in sample_drawing(digit, seed).strokes]
        points = np.concatenate(drawn)
        corner, size = points.min(axis=0), np.ptp(points, axis=0)
        scale = height / size[1]
        strokes += [Stroke((points - corner) * scale + (left, top), 6) for points in drawn]
        left += size[0] * scale + gap
    return Drawing(800, 600, strokes)


def boxes(digits) -> np.ndarray:
    return np.array([digit.box for digit in digits])


some_digits = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 999)), min_size=1, max_size=3)
blots = st.lists(
    st.builds(Stroke, st.lists(st.tuples(st.floats(0, 100), st.floats(0, 300)), min_size=2, max_size=8), st.just(8)),
    min_size=1,
    max_size=3,
).filter(lambda strokes: all(np.ptp(stroke.points[:, 1]) > 150 for stroke in strokes))


def shifted(strokes, x: float, y: float = 0) -> list[Stroke]:
    return [replace(stroke, points=stroke.points + np.float32([x, y])) for stroke in strokes]


@given(blots, blots, st.booleans())
@settings(deadline=None, max_examples=50)
def test_ink_far_apart_is_never_one_digit(left, right, as_raster):
    drawing = Drawing(800, 400, [*shifted(right, 500, 50), *shifted(left, 50, 50)])  # the right one drawn first
    digits = split(drawing.raster() if as_raster else drawing, Certain())
    assert len(digits) >= 2
    found = boxes(digits)
    assert all((box[2] < 250) != (box[0] > 400) for box in found)
    middles = found[:, 0] + found[:, 2]
    assert (np.diff(middles) > 0).all()


@given(some_digits, st.integers(0, 20), st.integers(-100, 100))
@settings(max_examples=10, derandomize=True)  # a network answers: its rare mistakes are no matter of chance here
def test_where_a_number_stands_makes_no_difference(digits, x, y):
    drawing = number(digits)
    before = split(drawing, load())
    after = split(replace(drawing, strokes=shifted(drawing.strokes, x, y)), load())
    assert as_text(after) == as_text(before)
    assert np.abs(boxes(after) - boxes(before) - [x, y, x, y]).max() <= 1


def test_digits_apart_are_counted():
    numbers = [[((7 * n + 3 * place) % 10, 10 * n + place) for place in range(1 + n % 4)] for n in range(60)]
    miscounted = [digits for digits in numbers if len(split(number(digits), load())) != len(digits)]
    assert len(miscounted) <= 6, miscounted  # 4 when this was written: a 4 or a 5 with a gap, taken for two


@pytest.mark.parametrize("kind", ["drawing", "raster", "erased"])
def test_a_number_is_read(kind):
    drawing = number([(2, 5), (0, 5), (2, 8), (6, 5)])
    if kind == "erased":  # a slip of the pen was taken away; strokes no longer tell what is to be seen
        slip = [[700, 100], [760, 500]]
        drawing = replace(drawing, strokes=[*drawing.strokes, Stroke(slip, 5), Stroke(slip, 20, erase=True)])
    digits = split(drawing.raster() if kind == "raster" else drawing, load())
    assert as_text(digits) == "2026"
    raster = drawing.raster()
    for digit in digits:  # its box holds it, and alone it is the same digit
        left, top, right, bottom = digit.box
        assert load().predict_rasters([raster[top:bottom, left:right]])[0].digit == digit.prediction.digit
    for first, second in pairwise(digits):
        assert first.box[2] < second.box[0]


@pytest.mark.parametrize(
    ("digit", "style"),
    [(4, "open"), (4, "closed"), (5, "two strokes"), (5, "apart"), (7, "bar"), (1, "foot"), (8, "two rings")],
)
def test_strokes_of_one_digit_stay_together(digit, style):
    for seed in (0, 1, 3, 4):
        drawing = sample_drawing(digit, seed, style=style)
        assert len(drawing.strokes) == 2
        assert as_text(split(drawing, load())) == str(digit)


@pytest.mark.parametrize("gap", [6, 0])  # of the middles of lines 12 px wide
@pytest.mark.parametrize("pair", [[(2, 5), (0, 5)], [(5, 8), (8, 5)], [(0, 5), (5, 3)], [(3, 1), (3, 5)]])
def test_digits_that_touch_are_told_apart(pair, gap):
    drawing = number(pair, gap)
    expected = "".join(str(digit) for digit, _ in pair)
    assert as_text(split(drawing, load())) == as_text(split(drawing.raster(), load())) == expected


def test_a_digit_that_is_no_single_stroke_may_overlap_the_next():
    drawing = number([(5, 8), (8, 5)], gap=-10)
    first, second = split(drawing, load())
    assert first.box[2] > second.box[0] and as_text([first, second]) == "58"


def three_lines(lead: float) -> Drawing:
    """A phone number, a post code and a sum of money, `lead` px apart."""
    numbers = [[(5, 5), (5, 3), (0, 1), (2, 8), (7, 1)], [(9, 5), (0, 5), (2, 5), (0, 8)], [(3, 5), (8, 5)]]
    rows = [number(digits, 30, 80, top=40 + lead * place) for place, digits in enumerate(numbers)]
    return Drawing(800, 600, [stroke for row in rows for stroke in row.strokes])


@pytest.mark.parametrize("as_raster", [False, True])
@pytest.mark.parametrize("lead", [110, 180])
def test_lines_are_read_from_the_top(as_raster, lead):
    drawing = three_lines(lead)
    drawing = replace(drawing, strokes=drawing.strokes[::-1])  # drawn in another order
    digits = split(drawing.raster() if as_raster else drawing, load())
    assert as_text(digits) == "55027\n9020\n38"
    assert [digit.line for digit in digits] == [0] * 5 + [1] * 4 + [2] * 2


def test_numbers_far_apart_in_one_row_are_one_line():
    strokes = [*number([(2, 5), (0, 5)], 20, 60).strokes, *number([(3, 5), (8, 5)], 20, 60, left=620, top=205).strokes]
    assert as_text(split(Drawing(800, 600, strokes), load())) == "2038"


def test_a_rule_under_a_sum_is_no_digit():
    sum_of_money = number([(2, 5), (0, 5), (3, 5), (8, 5)], 20, 60)
    ruled = replace(sum_of_money, strokes=[*sum_of_money.strokes, Stroke([[20, 280], [780, 284]], 5)])
    for ink in (ruled, ruled.raster()):
        assert as_text(split(ink, load())) == "2038"


def test_a_line_that_climbs_is_one_line():
    rows = [
        number([(digit, 5)], left=50 + 110 * place, top=400 - 60 * place) for place, digit in enumerate([2, 0, 3, 8])
    ]
    drawing = Drawing(800, 600, [stroke for row in rows for stroke in row.strokes])
    assert as_text(split(drawing, load())) == "2038"


def test_specks_are_dropped():
    drawing = number([(3, 5)])
    speck = Stroke([[600, 500], [601, 501]], 3)
    assert len(split(drawing, load())) == len(split(replace(drawing, strokes=[*drawing.strokes, speck]), load())) == 1


@pytest.mark.parametrize("ink", [Drawing(), np.zeros((28, 28), np.uint8), Drawing(strokes=[Stroke([[-50, -50]])])])
def test_without_ink_there_is_no_digit(ink):
    assert split(ink, load()) == []
    assert as_text([]) == ""


class Counting(Certain):
    calls = images = 0

    def predict_rasters(self, rasters, margin=0):
        self.calls, self.images = self.calls + 1, self.images + len(rasters)
        return super().predict_rasters(rasters, margin)


def test_a_full_page_asks_the_network_twice():
    rows = [number([(n % 10, n) for n in range(25)], 10, 40, 20, 20 + 70 * row).strokes for row in range(12)]
    page = Drawing(1400, 900, [stroke for row in rows for stroke in row])
    counting = Counting()
    digits = split(page, counting)
    assert {digit.line for digit in digits} == set(range(12)) and len(digits) >= 290
    assert counting.calls <= 2 and counting.images <= 2_000


def test_more_pieces_than_numbers_have_are_refused():
    dots = [Stroke([[x, y], [x + 5, y]], 3) for x in range(10, 790, 15) for y in range(10, 590, 15)]
    grid = np.tile(np.pad(np.full((8, 8), 255, np.uint8), 4), (40, 60))
    for ink in (Drawing(strokes=dots), grid):
        with pytest.raises(ImageError, match="pieces"):
            split(ink, Certain())


def test_a_million_points_are_read():
    angles = np.linspace(0.3, 2 * np.pi + 0.3, 1_000_000)
    zero = Stroke(np.stack([400 + 90 * np.sin(angles), 300 - 160 * np.cos(angles)], axis=1))
    assert as_text(split(Drawing(strokes=[zero]), load())) == "0"
    scribble = Stroke(np.random.default_rng(0).uniform((300, 200), (500, 400), (1_000_000, 2)))
    assert as_text(split(Drawing(strokes=[scribble]), load())) == "?"
