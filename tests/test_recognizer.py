from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from mnist_kit.checkpoints import save_weights
from mnist_kit.errors import EmptyDrawing, ImageError, RecognizerError, WeightsError
from mnist_kit.framing import FRAMINGS, frame_as_mnist, frame_as_paper
from mnist_kit.ink import Drawing, Stroke
from mnist_kit.models import Net
from mnist_kit.recognizer import Recognizer
from mnist_kit.synthetic import sample_drawing

SEVEN = Drawing(300, 200, [Stroke([[60, 40], [140, 45], [90, 160]], 7)])
SCRIBBLE = Drawing(300, 200, [Stroke([[x, 60 + 80 * (n % 2)] for n, x in enumerate(range(60, 160, 5))], 3)])


class Constant(nn.Module):
    """Whatever it is shown, these are the logits."""

    def __init__(self, *logits):
        super().__init__()
        self.register_buffer("logits", torch.tensor(logits))

    def forward(self, images):
        return self.logits.expand(len(images), -1)


SEVENS = Constant(*[0.0] * 7, 9.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    torch.manual_seed(0)
    return Recognizer(Net())


def test_a_drawing_and_pictures_of_it_are_the_same_digit(recognizer, tmp_path):
    raster = SEVEN.raster()
    SEVEN.to_image().save(tmp_path / "seven.png")
    expected = recognizer.predict(raster)
    assert expected.probabilities.shape == (10,) and expected.probabilities.dtype == np.float32
    assert expected.probabilities.sum() == pytest.approx(1, abs=1e-5) and expected.image.shape == (1, 28, 28)
    assert expected.digit == expected.probabilities.argmax()
    for picture in (torch.from_numpy(raster)[None].float().requires_grad_(), str(tmp_path / "seven.png")):
        prediction = recognizer.predict(picture)
        np.testing.assert_allclose(prediction.probabilities, expected.probabilities, atol=1e-3)


@pytest.mark.parametrize("framing", [*FRAMINGS, frame_as_mnist])
def test_a_network_of_ten_classes_is_doubted_where_the_reader_sees_no_digit(framing):
    recognizer = Recognizer(SEVENS, framing)
    for digit in range(10):
        assert recognizer.predict(sample_drawing(digit, 1)).likeness > 0.5
    doubted = recognizer.predict(SCRIBBLE)
    assert doubted.digit == 7 and doubted.probabilities[7] > 0.99
    assert doubted.likeness < 0.5 and not doubted.sure and doubted.confidence < 0.5 and "not sure" in repr(doubted)


def test_an_eleventh_class_takes_from_the_others():
    prediction = Recognizer(Constant(*[0.0] * 9, 2.0, 3.0)).predict(SEVEN)
    powers = np.exp([2.0, 3.0])
    assert prediction.digit == 9 and prediction.probabilities.shape == (10,)
    assert prediction.likeness == pytest.approx(1 - powers[1] / (9 + powers.sum()), abs=1e-5)
    assert prediction.probabilities[9] == pytest.approx(powers[0] / (9 + powers[0]), abs=1e-5)


def test_the_framing_is_the_chosen_one():
    recognizer = Recognizer(Net(), framing="paper")
    torch.testing.assert_close(recognizer.predict(SEVEN).image, frame_as_paper(SEVEN.raster(), 7))
    faint = Recognizer(Net(), framing=lambda ink: frame_as_mnist(ink) * 0.5)
    assert faint.predict(SEVEN).image.max() <= 0.5
    for framing in ("square", ["mnist"], {"mnist"}, None):
        with pytest.raises(ImageError, match="mnist, paper"):
            Recognizer(Net(), framing=framing)
    for wrong in (None, "image", np.zeros((28, 28), np.float32), torch.full((1, 28, 28), 255.0)):
        with pytest.raises(ImageError):
            Recognizer(Net(), framing=lambda raster, wrong=wrong: wrong).predict(SEVEN)


def test_many_images_at_once(recognizer):
    images = torch.randint(0, 256, (700, 1, 28, 28), dtype=torch.uint8)
    probabilities = recognizer.predict_images(images)
    assert probabilities.shape == (700, 10) and probabilities.dtype == np.float32
    assert recognizer.predict_images(images[:0]).shape == (0, 10)
    of_the_last = probabilities[650:]
    images = images[650:] / 255
    for kind in (images, images.numpy(), images.to_sparse(), images.double(), images.clone().requires_grad_()):
        np.testing.assert_allclose(recognizer.predict_images(kind), of_the_last, atol=1e-5)


def test_a_model_in_training_stays_in_training():
    model = Net().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recognizer = Recognizer(model)
    first, second = recognizer.predict(SEVEN), recognizer.predict(SEVEN)
    assert model.training and all(module.training for module in model.modules())
    np.testing.assert_array_equal(first.probabilities, second.probabilities)  # no dropout
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_weights_by_name(home):
    model = Net()
    save_weights(model, "mine")
    expected = Recognizer(model).predict(SEVEN)
    np.testing.assert_array_equal(Recognizer.load("mine").predict(SEVEN).probabilities, expected.probabilities)
    with pytest.raises(WeightsError, match="other"):
        Recognizer.load("other")


@pytest.mark.parametrize("picture", [Drawing(), np.zeros((28, 28)), Drawing(90, 90, [Stroke([[-500, -500]])])])
def test_nothing_to_recognise(recognizer, picture):
    with pytest.raises(EmptyDrawing):
        recognizer.predict(picture)


ONE = torch.zeros(1, 1, 28, 28)
UNUSABLE = [torch.zeros(1, 28, 28), torch.zeros(2, 3, 28, 28), ONE + torch.nan, ONE + torch.inf, ONE + 255, ONE.long()]


@pytest.mark.parametrize("images", [*UNUSABLE, ONE.cfloat(), ONE.to("meta"), np.full((1, 1, 28, 28), "7"), None])
def test_images_that_cannot_be_used(recognizer, images):
    with pytest.raises(ImageError):
        recognizer.predict_images(images)


class Classifier:
    """As scikit-learn's: no function, but a method."""

    def predict_proba(self, images):
        assert images.shape[1:] == (784,) and images.max() <= 1
        return np.eye(10)[[4] * len(images)]


def test_any_function_or_classifier_will_do():
    four = np.eye(10)[4]
    for answer in (four, list(four), torch.tensor(four), torch.tensor(four)[None].requires_grad_()):
        assert Recognizer(lambda image, answer=answer: answer).predict(SEVEN).digit == 4
    answers = Recognizer(Classifier()).predict_rasters([SEVEN.raster()] * 3)
    assert [prediction.digit for prediction in answers] == [4] * 3


ANSWERS = [None, "four", 4, [0.5, 0.5], [[0.1] * 10] * 2, [np.nan] * 10, [-0.1] * 5 + [0.3] * 5, [5.0] * 10]


class Answers(nn.Module):
    """What `change` makes of ten logits."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, images):
        return self.change(torch.zeros(len(images), 10))


CHANGES = [lambda _: None, lambda x: (x, x), lambda x: {"logits": x}, lambda x: [x], torch.Tensor.numpy]
CHANGES += [torch.Tensor.sum, torch.Tensor.to_sparse, lambda x: x.to("meta"), lambda x: x + 1j, torch.Tensor.long]
NETWORKS = [
    *map(Answers, CHANGES),
    nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).to("meta"),
    nn.Flatten(),
    nn.Sequential(nn.Flatten(), nn.Linear(784, 9)),
    Constant(*[torch.inf] * 10),
]


@pytest.mark.parametrize("model", [*(lambda image, answer=answer: answer for answer in ANSWERS), *NETWORKS])
def test_answers_that_are_no_probabilities(model):
    with pytest.raises(RecognizerError):
        Recognizer(model).predict(SEVEN)


@pytest.mark.parametrize("model", [None, 4, "net", Net, object()])
def test_what_recognises_nothing(model):
    with pytest.raises(RecognizerError, match="recognises nothing"):
        Recognizer(model)


def test_a_network_in_double_precision(recognizer):
    expected = recognizer.predict(SEVEN).probabilities
    double = Recognizer(deepcopy(recognizer.model).double())
    np.testing.assert_allclose(double.predict(SEVEN).probabilities, expected, atol=1e-5)
