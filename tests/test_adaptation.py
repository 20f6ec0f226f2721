"""Fine-tuning on a made-up hand: what it gains, what it costs, and that it can be undone."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mnist_kit import (
    Drawing,
    DrawingError,
    Recognizer,
    RecognizerError,
    WeightsError,
    adaptation,
    append_drawing,
    make_digits,
    sample_drawing,
    save_weights,
)
from mnist_kit.adaptation import adapt, forget


def hand(seeds, size=(120, 90)):
    """Somebody who writes every 7 as in a mirror, and the other digits as they are."""
    drawings = [sample_drawing(digit, seed, size) for digit in range(10) for seed in seeds]
    return [mirrored(drawing) if drawing.label == 7 else drawing for drawing in drawings]


def mirrored(drawing):
    strokes = [replace(s, points=s.points * [-1, 1] + [drawing.width, 0]) for s in drawing.strokes]
    return replace(drawing, strokes=strokes)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MNIST_KIT_HOME", str(tmp_path_factory.mktemp("digits")))
        return make_digits(600, 10, progress=False)


@pytest.fixture
def recognizer():
    return Recognizer.load("class-mnist")


def right(recognizer, drawings):
    return sum(recognizer.predict(drawing).digit == drawing.label for drawing in drawings)


def state(recognizer):
    return {name: tensor.clone() for name, tensor in recognizer.model.state_dict().items()}


def test_it_learns_a_hand_keeps_the_rest_and_is_undone(recognizer, digits, home):
    before, others = state(recognizer), hand(range(100, 110))
    recognizer.temperature, recognizer.threshold = 0.9, 0.6
    adapted = adapt(recognizer, hand(range(5)), digits=digits, progress=False)
    assert adapted.replaced and adapted.right_after > adapted.right_before and adapted.drawings == 50
    assert adapted.images_before - adapted.images_after <= 0.02 * adapted.images
    assert right(adapted.recognizer, others) >= right(recognizer, others) + 4
    torch.testing.assert_close(state(recognizer), before, rtol=0, atol=0)
    loaded, changed = Recognizer.load("my-hand"), state(adapted.recognizer)
    torch.testing.assert_close(state(loaded), changed, rtol=0, atol=0)
    for each in (adapted.recognizer, loaded):
        assert (each.temperature, each.threshold) == (0.9, 0.6)
    assert {key for key in before if not torch.equal(before[key], changed[key])} == {
        "linear_block.9.weight",
        "linear_block.9.bias",
    }
    assert forget("my-hand") and not forget("my-hand")
    assert not list((home / "weights").iterdir())
    with pytest.raises(WeightsError):
        Recognizer.load("my-hand")


def test_the_same_seed_gives_the_same_weights(recognizer, digits):
    drawings = hand(range(2)) + hand(range(5, 8))
    first, second = (adapt(recognizer, drawings, digits=digits, progress=False) for _ in range(2))
    torch.testing.assert_close(state(first.recognizer), state(second.recognizer), rtol=0, atol=0)


def test_what_gains_nothing_is_not_saved(recognizer, digits, home):
    drawings = [d for d in hand(range(3)) if recognizer.predict(d).digit == d.label]  # nothing is left to gain
    adapted = adapt(recognizer, drawings, digits=digits, progress=False)
    assert not adapted.replaced and adapted.recognizer is recognizer and "not saved" in str(adapted)
    assert not (home / "weights").exists()


def test_an_interruption_changes_nothing(recognizer, digits, home, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    before = state(recognizer)
    monkeypatch.setattr(adaptation, "_trained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        adapt(recognizer, hand(range(1)), digits=digits, progress=False)
    torch.testing.assert_close(state(recognizer), before, rtol=0, atol=0)
    assert not (home / "weights").exists()


def test_the_eleventh_class_stays(recognizer):
    digits = make_digits(5_000, 10, progress=False)  # 2,000 to learn with, as MNIST would give
    model = deepcopy(recognizer.model)
    last = nn.Linear(64, 11)
    with torch.no_grad():  # "no digit" where no digit has a clear vote
        last.weight.zero_(), last.bias.zero_()
        last.weight[:10], last.bias[:10] = model.linear_block[-1].weight, model.linear_block[-1].bias
        last.bias[10] = 4.0
    model.linear_block[-1] = last
    adapted = adapt(Recognizer(model), hand(range(5)), digits=digits, progress=False)
    assert adapted.replaced
    assert adapted.images == 3_000 and "of 3,000 before" in str(adapted)  # all that it has not learned
    noise = torch.rand(200, 1, 28, 28, generator=torch.Generator().manual_seed(0)).round()
    halves = digits.train.images[-300:].roll((14, 14), (2, 3)) / 255  # not those that were learned with
    with torch.no_grad():
        for images in (noise, halves, digits.train.images[-300:] / 255):
            old, new = (each.eval()(images).softmax(1)[:, 10] for each in (model, adapted.recognizer.model))
            assert (new - old).abs().mean() < 0.05


def test_kept_drawings_are_read_from_the_file_of_the_pad(recognizer, digits):
    unlabelled, empty = replace(sample_drawing(3, 9), label=None), Drawing(label=4)
    for drawing in [*hand(range(1)), unlabelled, empty]:
        append_drawing(drawing)
    assert adapt(recognizer, digits=digits, progress=False).drawings == 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_of_one_layer(digits, dtype):
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).to(dtype)
    assert adapt(Recognizer(linear), hand(range(2)), digits=digits, progress=False).replaced


@pytest.mark.parametrize("drawings", [[], hand(range(1))[:4], [replace(d, label=None) for d in hand(range(1))]])
def test_too_few_drawings(recognizer, digits, drawings):
    with pytest.raises(DrawingError, match="keep 5"):
        adapt(recognizer, drawings, digits=digits, progress=False)


@pytest.mark.parametrize("model", [lambda image: np.eye(10)[4], nn.Flatten(), nn.Sequential(nn.Linear(28, 9))])
def test_what_cannot_be_fine_tuned(digits, model):
    with pytest.raises(RecognizerError, match="fine-tune"):
        adapt(Recognizer(model), hand(range(1)), digits=digits, progress=False)


def test_other_weights_are_neither_replaced_nor_deleted(recognizer, digits):
    path = save_weights(recognizer.model, "mine", data="mnist")
    for name in ("mine", "class-mnist"):
        with pytest.raises(WeightsError, match="choose another name"):
            adapt(recognizer, hand(range(1)), name, digits=digits)
        with pytest.raises(WeightsError, match="choose another name"):
            forget(name)
    assert path.is_file()
