import numpy as np
import pytest
from unipen import read_unipen

from mnist_kit.errors import DrawingError

DESCRIPTION = """.VERSION 1.0
.DATA_INFO
    Written for this test.
.ALPHABET "0" "1"
    "2"
.X_DIM 2000
.Y_DIM 1000
.X_POINTS_PER_INCH 200
.Y_POINTS_PER_INCH 100
.COORD X Y T P
"""
# A 1 of one stroke; a stroke in the air; a 4 of two; a 7 that begins inside of a component; a quotation mark; no ink.
PATH = """.WRITER_ID somebody
.PEN_DOWN
100 300 0 9
100 200 10 9
.PEN_UP
.PEN_DOWN
.PEN_UP
150 250 20 0
.PEN_DOWN
200 300 30 9
200 250 40 9
300 250 50 9
.DT 100
.PEN_UP
.PEN_DOWN
300 300 60 9
300 200 70 9
.PEN_UP
.PEN_DOWN
0 0 80 9
400 300 90 9
500 300 100 9
450 200 110 9
.PEN_UP
"""
SEGMENTS = r""".VERSION 1.0
.INCLUDE xyz/xyz.doc
.INCLUDE xyz/words.lex
.INCLUDE xyz/data/one.dat
.HIERARCHY PAGE CHARACTER
.SEGMENT PAGE 0-4 ? "147"
.SEGMENT CHARACTER 0 ? "1"
.SEGMENT CHARACTER 2,3 OK "4"
.SEGMENT CHARACTER 4:1-4:3 GOOD "7"
.SEGMENT CHARACTER 0-1 ? "\""
.SEGMENT CHARACTER 1 ? "5"
.SEGMENT CHARACTER 40 ? "6"
.SEGMENT CHARACTER 3 ? "Z"
"""


@pytest.fixture
def distribution(tmp_path):
    for name, text in {
        "include/xyz/xyz.doc": DESCRIPTION,
        "include/xyz/data/one.dat": PATH,
        "data/1a/xyz/one.dat": SEGMENTS,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="latin-1")
    return tmp_path


def test_characters_are_read_in_order_with_their_signs(distribution):
    characters = list(read_unipen(distribution))
    # The one in the air and the one that is not there are left out.
    assert [character.sign for character in characters] == ["1", "4", "7", '"', "Z"]
    assert [character.drawing.label for character in characters] == [1, 4, 7, None, None]
    assert {character.site for character in characters} == {"xyz"}
    assert {character.drawing.writer for character in characters} == {"xyz-one"}
    assert [len(character.drawing.strokes) for character in characters] == [1, 2, 1, 1, 1]


def test_drawings_are_upright_centred_and_have_the_tablet_s_proportions(distribution):
    one, four, seven, *_ = (character.drawing for character in read_unipen(distribution))
    assert (one.width, one.height) == (500, 500)
    # The upper end of the 1 was drawn first: y goes up on the tablet and down on the pad.
    np.testing.assert_allclose(one.strokes[0].points, [[250, 50], [250, 450]])
    # The 4 measures 100 × 100 points, 0.5 × 1 inch.
    np.testing.assert_allclose(four.strokes[0].points, [[150, 50], [150, 250], [350, 250]])
    np.testing.assert_allclose(four.strokes[1].points, [[350, 50], [350, 450]])
    np.testing.assert_allclose(seven.strokes[0].points, [[150, 50], [350, 50], [250, 450]])


def test_what_is_not_there_is_named(distribution):
    with pytest.raises(DrawingError, match="1d"):
        list(read_unipen(distribution, kinds=("1a", "1d")))
    (distribution / "include/xyz/data/one.dat").unlink()
    with pytest.raises(DrawingError, match=r"one\.dat"):
        list(read_unipen(distribution))
