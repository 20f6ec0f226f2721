import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_kit import synthetic
from mnist_kit.data import Digits
from mnist_kit.errors import DataError, DataNotFound, DrawingError
from mnist_kit.framing import frame_as_mnist
from mnist_kit.synthetic import STYLES, load_digits, make_digits, sample_drawing

ALL_STYLES = [(digit, style) for digit, styles in STYLES.items() for style in styles]


def make_few(seed: int = 0) -> Digits:
    return make_digits(train=40, test=20, seed=seed, progress=False)


def same(one: Digits, other: Digits) -> bool:
    return all(
        torch.equal(getattr(one.splits[split], field), getattr(other.splits[split], field))
        for split in ("train", "test")
        for field in ("images", "labels")
    )


def cache_file(home):
    (path,) = (home / "synthetic").iterdir()
    return path


def test_make_digits_gives_the_form_of_mnist():
    digits = make_few()
    assert digits.name == "synthetic"
    assert digits.classes == tuple("0123456789")
    for split, size in ((digits.train, 40), (digits.test, 20)):
        assert split.images.shape == (size, 1, 28, 28)
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert split.images.amax(dim=(1, 2, 3)).min() > 128  # every image has ink
        assert torch.bincount(split.labels, minlength=10).tolist() == [size // 10] * 10
        assert split.labels.tolist() != sorted(split.labels.tolist())


def test_the_same_seed_gives_the_same_digits_and_another_seed_others(home, monkeypatch):
    first = make_few()
    cache_file(home).unlink()
    assert same(make_few(), first)
    assert not same(make_few(seed=1), first)
    monkeypatch.setattr(synthetic, "sample_drawing", lambda *_: pytest.fail("they are read from the cache"))
    assert same(make_few(), first)


def test_test_digits_are_no_training_digits():
    digits = make_digits(train=40, test=40, progress=False)
    train, test = ({image.numpy().tobytes() for image in split.images} for split in (digits.train, digits.test))
    assert len(train) == len(test) == 40
    assert not train & test


def test_digits_look_like_their_class_and_vary():
    # A nearest-mean classifier is weak, so it only works when classes are apart and the framing is the same for all.
    digits = make_digits(train=600, test=300, progress=False)
    means = torch.stack([digits.train.images[digits.train.labels == digit].float().mean(dim=0) for digit in range(10)])
    distances = torch.cdist(digits.test.images.flatten(1).float(), means.flatten(1))
    assert (distances.argmin(dim=1) == digits.test.labels).float().mean() > 0.6
    ink = digits.train.images.float().mean() / 255
    assert 0.10 < ink < 0.17  # MNIST: 0.131


@pytest.mark.parametrize(("digit", "style"), ALL_STYLES)
def test_every_style_is_drawn_whole_and_fits_mnists_frame(digit, style):
    drawing = sample_drawing(digit, seed=3, size=(120, 90), style=style)
    raster = drawing.raster()
    assert len(drawing.strokes) == len(STYLES[digit][style])
    assert not (raster[0].any() or raster[-1].any() or raster[:, 0].any() or raster[:, -1].any())
    rows, columns = np.nonzero(frame_as_mnist(raster)[0].numpy())
    assert max(np.ptp(rows), np.ptp(columns)) + 1 in (19, 20)  # the faintest edge may vanish


def test_a_corner_is_sharp_and_a_curve_is_not():
    def sharpest_turn(stroke):
        points, weights = synthetic._skeleton(stroke)
        steps = np.diff(weights @ points, axis=0)
        directions = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
        return np.degrees(np.abs(np.diff(directions)).max())

    assert sharpest_turn("0,0 50,0! 50,50") == pytest.approx(90)
    assert sharpest_turn("0,0 50,0 50,50") < 40


@settings(max_examples=50)
@given(
    points=st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=2, max_size=8),
    corner=st.integers(1, 6),
)
def test_a_curve_goes_through_its_points(points, corner):
    points = np.array(points)
    corners = (corner,) if corner < len(points) - 1 else ()
    curve = synthetic._through(points, corners, steps=5)
    np.testing.assert_allclose(curve[::5], points, atol=1e-12)


@settings(max_examples=40)
@given(digit=st.integers(0, 9), seed=st.integers(0, 2**64), size=st.tuples(st.integers(40, 900), st.integers(40, 900)))
def test_a_sample_is_repeatable_and_stays_on_the_pad(digit, seed, size):
    drawing = sample_drawing(digit, seed, size)
    assert drawing == sample_drawing(digit, seed, size)
    assert (drawing.width, drawing.height, drawing.label) == (*size, digit)
    for stroke in drawing.strokes:
        assert (stroke.points - stroke.radius >= 0).all()
        assert (stroke.points + stroke.radius <= size).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        *(((digit,), DataError, "0–9") for digit in (-1, 10, 2.5, "3", None, True)),
        *(((0, seed), DataError, "seed") for seed in (-1, 1.5, "seed")),
        *(((0, 0, size), DrawingError, "pixels") for size in ((0, 100), (100, -1), (100, 10**6))),
        ((7, 0, (60, 60), "gothic"), DataError, "serif and bar"),
    ],
)
def test_a_drawing_that_cannot_be_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        sample_drawing(*arguments)


@pytest.mark.parametrize(
    "wrong",
    [*({"train": size} for size in (0, 10**11, True)), {"test": 2.5}, *({"seed": seed} for seed in (-1, "a", True))],
)
def test_impossible_sizes_and_seeds_are_refused_by_name(wrong):
    with pytest.raises(DataError, match=next(iter(wrong))):
        make_digits(**wrong)


@pytest.mark.parametrize("damage", ["truncated", "empty", "one byte", "other content", "other shapes", "fewer"])
def test_a_damaged_cache_is_drawn_again(home, damage):
    first = make_few()
    path = cache_file(home)
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    contents = {"truncated": whole[:-100], "empty": b"", "one byte": flipped, "other content": b"{}" * 99}
    with open(path, "wb") as file:
        if damage in contents:
            file.write(contents[damage])
        else:
            images = first.test.images if damage == "fewer" else np.zeros((20, 2))
            arrays = [images, first.test.labels] * 2
            np.savez(file, **dict(zip(synthetic.ARRAYS, arrays, strict=True)))
    assert same(make_few(), first)
    assert path.read_bytes() == whole


def test_a_home_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way of a folder")
    first = make_few()
    monkeypatch.setenv("MNIST_KIT_HOME", str(tmp_path / "file"))
    assert same(make_few(), first)


def failing_with(error):
    def load(name):
        raise error

    return load


def test_missing_digits_are_replaced_under_a_banner(monkeypatch, capsys):
    monkeypatch.setattr(synthetic, "load_mnist", failing_with(DataNotFound("looked in /nowhere, asked a mirror")))
    monkeypatch.setattr(synthetic, "make_digits", make_few)
    assert load_digits().name == "synthetic"
    banner = capsys.readouterr().out
    for part in ("SYNTHETIC", "no figure of the paper", "MNIST_KIT_DATA", "looked in /nowhere, asked a mirror"):
        assert part in banner


@pytest.mark.parametrize(
    ("name", "error"), [("mnist", DataError("labels are truncated")), ("fashion", DataNotFound("no mirror has it"))]
)
def test_damaged_files_and_other_things_than_digits_are_not_replaced(monkeypatch, capsys, name, error):
    monkeypatch.setattr(synthetic, "load_mnist", failing_with(error))
    with pytest.raises(DataError, match=str(error)):
        load_digits(name)
    assert capsys.readouterr().out == ""
