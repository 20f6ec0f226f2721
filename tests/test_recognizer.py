from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mnist_kit.checkpoints import save_weights
from mnist_kit.errors import EmptyDrawing, ImageError, RecognizerError, WeightsError
from mnist_kit.framing import frame_as_mnist, frame_as_paper
from mnist_kit.ink import Drawing, Stroke
from mnist_kit.models import Net
from mnist_kit.recognizer import Recognizer

SEVEN = Drawing(300, 200, [Stroke([[60, 40], [140, 45], [90, 160]], 7)])


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    torch.manual_seed(0)
    return Recognizer(Net())


def test_a_prediction(recognizer):
    prediction = recognizer.predict(SEVEN)
    assert prediction.probabilities.shape == (10,) and prediction.probabilities.dtype == np.float32
    assert prediction.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert prediction.digit == prediction.probabilities.argmax()
    assert prediction.image.shape == (1, 28, 28)


def test_a_drawing_and_pictures_of_it_are_the_same_digit(recognizer, tmp_path):
    raster = SEVEN.raster()
    SEVEN.to_image().save(tmp_path / "seven.png")
    expected = recognizer.predict(raster)
    pictures = [
        Image.fromarray(255 - raster),
        (255 - raster) / 255,
        torch.from_numpy(raster)[None].float().requires_grad_(),
        tmp_path / "seven.png",
        str(tmp_path / "seven.png"),
    ]
    for picture in pictures:
        prediction = recognizer.predict(picture)
        np.testing.assert_allclose(prediction.probabilities, expected.probabilities, atol=1e-3)


def test_the_framing_is_the_chosen_one():
    recognizer = Recognizer(Net(), framing="paper")
    torch.testing.assert_close(recognizer.predict(SEVEN).image, frame_as_paper(SEVEN.raster(), 7))
    faint = Recognizer(Net(), framing=lambda ink: frame_as_mnist(ink) * 0.5)
    assert faint.predict(SEVEN).image.max() <= 0.5
    with pytest.raises(ImageError, match="mnist, paper"):
        Recognizer(Net(), framing="square")
    for wrong in (None, "image", np.zeros((28, 28), np.float32), torch.full((1, 28, 28), 255.0)):
        with pytest.raises(ImageError):
            Recognizer(Net(), framing=lambda raster, wrong=wrong: wrong).predict(SEVEN)


def test_a_drawing_s_brush_makes_no_difference(recognizer):
    thick = replace(SEVEN, strokes=[replace(stroke, radius=15) for stroke in SEVEN.strokes])
    np.testing.assert_array_equal(recognizer.predict(thick).image, recognizer.predict(SEVEN).image)


def test_many_images_at_once(recognizer):
    images = torch.randint(0, 256, (700, 1, 28, 28), dtype=torch.uint8)
    probabilities = recognizer.predict_images(images)
    assert probabilities.shape == (700, 10) and probabilities.dtype == np.float32
    np.testing.assert_allclose(recognizer.predict_images(images[650:].float() / 255), probabilities[650:], atol=1e-5)


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


@pytest.mark.parametrize("picture", [None, "none.png", np.zeros((1, 1)), np.full((28, 28), np.nan), [[]]])
def test_pictures_that_cannot_be_used(recognizer, picture):
    with pytest.raises(ImageError):
        recognizer.predict(picture)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 28, 28),
        torch.zeros(2, 3, 28, 28),
        torch.full((1, 1, 28, 28), torch.nan),
        torch.full((1, 1, 28, 28), torch.inf),
        torch.full((1, 1, 28, 28), 255.0),
        torch.zeros((1, 1, 28, 28), dtype=torch.int64),
        torch.zeros((1, 1, 28, 28), dtype=torch.complex64),
        torch.zeros((1, 1, 28, 28), device="meta"),
        np.full((1, 1, 28, 28), "7"),
        None,
    ],
)
def test_images_that_cannot_be_used(recognizer, images):
    with pytest.raises(ImageError):
        recognizer.predict_images(images)


@pytest.mark.parametrize(
    "of",
    [
        torch.Tensor.numpy,
        torch.Tensor.to_sparse,
        torch.Tensor.double,
        torch.Tensor.bfloat16,
        lambda images: torch.quantize_per_tensor(images, 1 / 255, 0, torch.quint8),
        torch.Tensor.requires_grad_,
    ],
)
def test_images_of_any_kind_of_numbers(recognizer, of):
    images = torch.randint(0, 2, (3, 1, 28, 28)).float()
    np.testing.assert_allclose(recognizer.predict_images(of(images)), recognizer.predict_images(images), atol=1e-5)


class Constant(nn.Module):
    def forward(self, images):
        return torch.arange(10.0).expand(len(images), 10)


def test_any_model_with_logits_will_do():
    assert Recognizer(Constant()).predict(SEVEN).digit == 9
    assert Recognizer(Constant()).predict_images(torch.zeros(0, 1, 28, 28)).shape == (0, 10)


class Classifier:
    """As scikit-learn's: no function, but a method."""

    def predict_proba(self, images):
        assert images.shape[1:] == (784,) and images.max() <= 1
        return np.eye(10)[[4] * len(images)]


def test_any_function_or_classifier_will_do():
    four = np.eye(10)[4]
    for answer in (four, list(four), torch.tensor(four), torch.tensor(four)[None].requires_grad_()):
        assert Recognizer(lambda image, answer=answer: answer).predict(SEVEN).digit == 4
    assert [prediction.digit for prediction in Recognizer(Classifier()).predict_rasters([SEVEN.raster()] * 3)] == [
        4
    ] * 3


@pytest.mark.parametrize(
    "answer", [None, "four", 4, [0.5, 0.5], [[0.1] * 10] * 2, [np.nan] * 10, [-0.1] * 5 + [0.3] * 5, [5.0] * 10]
)
def test_answers_that_are_no_probabilities(answer):
    with pytest.raises(RecognizerError):
        Recognizer(lambda image: answer).predict(SEVEN)


@pytest.mark.parametrize("model", [None, 4, "net", Net, object()])
def test_what_recognises_nothing(model):
    with pytest.raises(RecognizerError, match="recognises nothing"):
        Recognizer(model)


def test_a_function_that_ends_python_ends_nothing():
    with pytest.raises(RecognizerError, match=r"sys\.exit"):
        Recognizer(lambda image: exit()).predict(SEVEN)


@pytest.mark.parametrize("model", [nn.Flatten(), nn.Sequential(nn.Flatten(), nn.Linear(784, 9))])
def test_networks_that_give_no_ten_logits(model):
    with pytest.raises(RecognizerError):
        Recognizer(model).predict(SEVEN)


def test_a_network_with_broken_weights_gives_no_digit():
    model = Net()
    nn.init.constant_(model.linear_block[-1].weight, torch.inf)
    with pytest.raises(RecognizerError):
        Recognizer(model).predict(SEVEN)


def test_a_network_in_double_precision():
    torch.manual_seed(0)
    model = Net()
    expected = Recognizer(model).predict(SEVEN).probabilities
    np.testing.assert_allclose(Recognizer(model.double()).predict(SEVEN).probabilities, expected, atol=1e-5)
