import os
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mnist_kit.errors import EmptyDrawing, ImageError
from mnist_kit.framing import FRAMINGS, frame_as_mnist, frame_as_paper, ink_box, mnist_raster, red_rectangle
from mnist_kit.ink import Drawing, Stroke
from mnist_kit.photos import as_raster

SEVEN = [[60, 40], [140, 45], [90, 160]]


def seven(shift=(0, 0)) -> np.ndarray:
    return Drawing(200, 200, [Stroke(np.add(SEVEN, shift), 8)]).raster()


def as_bytes(image: torch.Tensor) -> np.ndarray:
    return (image[0].numpy() * 255).round().astype(np.uint8)


@given(shift=st.tuples(st.integers(-50, 50), st.integers(-30, 30)))
def test_framing_does_not_see_where_the_digit_was_drawn(shift):
    for frame in FRAMINGS.values():
        image = frame(seven(shift))
        assert image.shape == (1, 28, 28) and image.dtype == torch.float32
        assert image.min() == 0 and 0.5 < image.max() <= 1
        torch.testing.assert_close(image, frame(seven()), rtol=0, atol=0)


@given(points=st.lists(st.tuples(st.floats(30, 270), st.floats(30, 170)), min_size=1, max_size=6))
def test_mnist_s_framing_of_anything(points):
    image = frame_as_mnist(Drawing(300, 200, [Stroke(points, 9)]).raster())
    left, top, right, bottom = ink_box(as_bytes(image))
    assert max(right - left, bottom - top) in (19, 20)  # 19 where an edge fades to nothing
    pixels, index = image[0].double(), torch.arange(28, dtype=torch.float64)
    centre = torch.stack([pixels.sum(0) @ index, pixels.sum(1) @ index]) / pixels.sum()
    assert (centre - 14).abs().max() <= 0.5 + 1e-6


def test_an_image_of_mnist_s_comes_back_as_it_was(mnist):
    digit = as_bytes(frame_as_mnist(seven()))
    np.testing.assert_array_equal(as_raster(digit), digit)
    np.testing.assert_array_equal(as_bytes(frame_as_mnist(digit)), digit)
    images = mnist.train.images[::100]
    rasters = np.stack([as_raster(image[0].numpy()) for image in images])
    assert np.abs(rasters - images[:, 0].numpy().astype(int)).max() <= 2
    framed = torch.stack([frame_as_mnist(raster) for raster in rasters])
    same = ((framed * 255 - images).abs() < 2.01).flatten(1).all(1)
    assert same.float().mean() > 0.93  # the rest have a pen unlike the others, which is evened out


def test_the_paper_s_framing_fills_the_square():
    stretched = frame_as_paper(seven())
    assert stretched[0].amax(0).min() > 0 and stretched[0].amax(1).min() > 0
    assert frame_as_paper(seven(), margin=8).mean() < stretched.mean()


line = st.lists(st.lists(st.integers(-20, 80), min_size=2, max_size=2), min_size=1, max_size=4)


@given(st.lists(st.tuples(line, st.integers(1, 9)), min_size=1, max_size=4))
def test_the_red_rectangle_is_the_box_of_the_ink_and_the_brush_as_margin(lines):
    strokes = [Stroke(points, radius) for points, radius in lines]
    drawing = Drawing(60, 40, strokes)
    box = red_rectangle(drawing)
    if all((stroke.points >= 0).all() and (stroke.points <= (60, 40)).all() for stroke in strokes):
        np.testing.assert_allclose(box, ink_box(drawing.raster(), round(drawing.widest_pen)), atol=1)
    assert box is None or (0 <= box[0] < box[2] <= 60 and 0 <= box[1] < box[3] <= 40)


def test_the_red_rectangle_of_what_was_erased():
    assert red_rectangle(Drawing(60, 40)) is None
    assert red_rectangle(Drawing(60, 40, [Stroke([[5, 5]], 3), Stroke([[5, 5]], 9, erase=True)])) is None
    drawing = Drawing(200, 200, [Stroke(SEVEN, 8), Stroke([[199, 199]], 30, erase=True)])
    assert red_rectangle(drawing) == ink_box(seven(), margin=8)


@given(radius=st.floats(2, 30), size=st.floats(0.5, 1.2))
def test_neither_brush_nor_pressure_nor_size_changes_a_drawing_framed_as_mnist(radius, size):
    drawing = Drawing(300, 300, [Stroke(np.multiply(SEVEN, size), radius, pressure=[0.2, 0.9, 0.4])])
    expected = frame_as_mnist(mnist_raster(Drawing(300, 300, [Stroke(SEVEN, 8)])))
    torch.testing.assert_close(frame_as_mnist(mnist_raster(drawing)), expected, rtol=0, atol=0.02)


AS_SEEN = {
    "erased": [Stroke(SEVEN, 8), Stroke([[90, 160]], 40, erase=True)],
    "a dot": [Stroke([[100, 100], [101, 100]], 10)],
    "beyond the page": [Stroke([[20, 20], [900, 900]], 8)],
    "nothing": [],
}


@pytest.mark.parametrize("strokes", AS_SEEN.values(), ids=AS_SEEN)
def test_what_lines_do_not_tell_is_framed_as_it_is_seen(strokes):
    drawing = Drawing(200, 200, strokes)
    np.testing.assert_array_equal(mnist_raster(drawing), drawing.raster())


def test_the_box_holds_the_ink_and_stays_on_the_canvas():
    raster = np.zeros((50, 80), np.uint8)
    raster[10:20, 30:34] = 7
    assert ink_box(raster) == (30, 10, 34, 20)
    assert ink_box(raster, margin=5) == (25, 5, 39, 25)
    assert ink_box(raster, margin=40) == (0, 0, 74, 50)


@pytest.mark.parametrize("shape", [(3, 3), (28, 28), (600, 800)])
@pytest.mark.parametrize("value", [0, 100, 255])
def test_a_picture_without_ink(shape, value):
    raster = as_raster(np.full(shape, value, np.uint8))
    assert not raster.any()
    for use in (*FRAMINGS.values(), ink_box):
        with pytest.raises(EmptyDrawing, match="no ink"):
            use(raster)


RASTER = seven()
LIGHT, DARK = Image.fromarray(RASTER), Image.fromarray(255 - RASTER)
BLACK, WHITE = Image.new("L", LIGHT.size, 0), Image.new("L", LIGHT.size, 255)
PICTURES = {
    **{f"{mode}, dark on light": DARK.convert(mode) for mode in ("L", "RGB", "CMYK", "P", "LA")},
    "L, light on dark": LIGHT,
    "black ink on nothing": Image.merge("RGBA", [BLACK, BLACK, BLACK, LIGHT]),
    "white ink on nothing": Image.merge("RGBA", [WHITE, WHITE, WHITE, LIGHT]),
    "16 bits": Image.fromarray(RASTER.astype(np.uint16) * 257),
    "I": Image.fromarray(RASTER.astype(np.int32) * 257),
    "F": Image.fromarray(RASTER / np.float32(255)),
    "uint8": RASTER,
    "weak contrast": RASTER // 2 + 20,
    "(H, W, 1)": RASTER[..., None],
    "(1, H, W)": RASTER[None],
    "(H, W, 3)": np.stack([255 - RASTER] * 3, axis=-1),
    "uint16": RASTER.astype(np.uint16) * 257,
    "0–1": RASTER / 255,
    "0–255": 255.0 - RASTER,
    "int64": RASTER.astype(np.int64),
    "tensor": torch.from_numpy(RASTER / np.float32(255))[None],
    "tensor (1, 1, H, W)": torch.from_numpy(RASTER)[None, None],
    "tensor (3, H, W)": torch.from_numpy(RASTER).expand(3, *RASTER.shape),
    "bfloat16": torch.from_numpy(RASTER / 255).bfloat16(),
    "sparse": torch.from_numpy(RASTER).to_sparse(),
}


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
def test_every_kind_of_picture_is_the_same_ink(picture):
    before = deepcopy(picture)
    ink = as_raster(picture)
    assert ink.dtype == np.uint8 and ink.shape == RASTER.shape
    faint = RASTER < 0.08 * 255  # below it, ink of large pictures counts as ringing
    assert np.abs(ink.astype(int) - RASTER)[~faint].max() <= 4
    assert ink[faint].max() <= 0.1 * 255
    if isinstance(picture, Image.Image | np.ndarray):
        np.testing.assert_array_equal(picture, before)


BITS = RASTER > 127


@pytest.mark.parametrize("picture", [BITS, BITS.astype(np.uint8), BITS.astype(np.int8), LIGHT.convert("1", dither=0)])
def test_pictures_of_two_values(picture):
    np.testing.assert_array_equal(as_raster(picture), np.where(BITS, 255, 0))


def test_a_file_in_any_format(tmp_path):
    for name in ("seven.png", "seven.jpg", "seven.bmp", "seven.gif"):
        DARK.save(tmp_path / name)
        assert (frame_as_mnist(as_raster(tmp_path / name)) - frame_as_mnist(RASTER)).abs().max() < 0.3
    assert as_raster(str(tmp_path / "seven.png")).shape == RASTER.shape


def test_50_megapixels_are_reduced():
    picture = np.full((7000, 7100), 255, np.uint8)
    picture[1000:6000, 3000:3500] = 0
    ink = as_raster(picture)
    assert max(ink.shape) <= 1024
    assert np.abs(np.subtract(ink_box(ink), np.array([3000, 1000, 3500, 6000]) / 7)).max() <= 1


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "large.png"
    Image.new("1", (9000, 9000)).save(path)
    for picture in (path, Image.new("1", (9000, 9000)), np.broadcast_to(np.uint8(0), (9000, 9000))):
        with pytest.raises(ImageError, match="too large"):
            as_raster(picture)


UNUSABLE = [
    *((np.zeros((0, 0), np.uint8), "0 × 0"), (np.zeros((1, 1), np.uint8), "1 × 1"), (Image.new("L", (1, 1)), "1 × 1")),
    *((np.full((28, 28), value), str(value)) for value in (np.nan, np.inf, -1, 300.0)),
    *((np.zeros(784), r"\(784,\)"), (np.zeros((2, 28, 28, 3)), "shape"), (np.zeros((28, 28, 2)), "shape")),
    *((np.full((28, 28), "7"), "numbers"), (None, "shape"), (7, "shape"), ([[1, 2], [3]], "list")),
    (torch.zeros(28, 28, device="meta"), "Tensor"),
]


@pytest.mark.parametrize(("picture", "message"), UNUSABLE)
def test_pictures_that_cannot_be_used(picture, message):
    with pytest.raises(ImageError, match=message):
        as_raster(picture)


def test_files_that_cannot_be_used(tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    DARK.save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:300])
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("none.png", "", "text.png", "half.png", "pipe.png"):
        with pytest.raises(ImageError, match=f"{name} cannot be (read|decoded)"):
            as_raster(tmp_path / name)
