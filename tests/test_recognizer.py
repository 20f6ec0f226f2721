import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mnist_kit.checkpoints import save_weights
from mnist_kit.errors import EmptyDrawing, ImageError, WeightsError
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
    torch.testing.assert_close(recognizer.predict(SEVEN).image, frame_as_paper(SEVEN))
    faint = Recognizer(Net(), framing=lambda ink: frame_as_mnist(ink) * 0.5)
    assert faint.predict(SEVEN).image.max() <= 0.5
    with pytest.raises(ImageError, match="mnist, paper"):
        Recognizer(Net(), framing="square")


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
    "images", [torch.zeros(1, 28, 28), torch.zeros(2, 3, 28, 28), torch.full((1, 1, 28, 28), torch.nan)]
)
def test_images_that_cannot_be_used(recognizer, images):
    with pytest.raises(ImageError):
        recognizer.predict_images(images)


class Constant(nn.Module):
    def forward(self, images):
        return torch.arange(10.0).expand(len(images), 10)


def test_any_model_with_logits_will_do():
    assert Recognizer(Constant()).predict(SEVEN).digit == 9
    assert Recognizer(Constant()).predict_images(torch.zeros(0, 1, 28, 28)).shape == (0, 10)
