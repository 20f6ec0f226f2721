"""From a drawing, or any picture of a digit, to the digit it is."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from mnist_kit.checkpoints import load_weights, weights_about
from mnist_kit.device import as_logits, computing, images_at_once
from mnist_kit.errors import EmptyDrawing, ImageError, RecognizerError
from mnist_kit.framing import FRAMINGS, SIDE, frame_as_mnist, frame_as_paper, mnist_raster
from mnist_kit.ink import Drawing
from mnist_kit.photos import as_raster

CLASSES = 10  # the digits; a model may have an eleventh, "no digit"


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network makes of a picture.

    digit: 0–9, the most probable; probabilities: float32 (10,), sum 1; image: float32 (1, 28, 28) in [0, 1], what the
    network was shown; likeness: how much the picture looks like a digit at all, in [0, 1]; threshold: the confidence
    that the network's calibration asks of a sure answer.
    """

    digit: int
    probabilities: np.ndarray
    image: Tensor
    likeness: float = 1.0
    threshold: float = 0.0

    @property
    def sure(self) -> bool:
        """Whether the picture looks like a digit, and like this one more than like all the others."""
        likely = self.likeness >= 0.5 and bool(self.probabilities[self.digit] >= 0.5)
        return likely and self.confidence >= self.threshold

    @property
    def confidence(self) -> float:
        """How probable the digit is, times how much the picture looks like a digit at all, in [0, 1]."""
        return float(self.probabilities[self.digit]) * self.likeness

    def __repr__(self) -> str:
        doubt = "" if self.sure else ", not sure"
        return f"Prediction(digit={self.digit}, probability={self.probabilities[self.digit]:.1%}{doubt})"


class Recognizer:
    """Whatever tells digits apart, and the framing of its input.

    model: a network from images, float32 (N, 1, 28, 28) in [0, 1], to logits (N, 10), or (N, 11) where it knows
    "no digit" too, used on the device it is on;
    a classifier with `predict_proba`, such as scikit-learn's, which is given (N, 784); or any function from an image,
    float32 (1, 28, 28), to ten probabilities.
    framing: a name in `framing.FRAMINGS`, such as "mnist" (20 px, centre of mass) or "paper" (stretched), or a function
    from a raster, uint8 (H, W), white ink on black, to an image, float32 (1, 28, 28). Raises RecognizerError for
    another model, ImageError for a framing of another name.
    """

    def __init__(self, model: nn.Module | Callable, framing: str | Callable[[np.ndarray], Tensor] = "mnist"):
        if isinstance(model, type) or not (callable(model) or hasattr(model, "predict_proba")):
            wanted = "a network, a classifier with predict_proba, or a function from an image to ten probabilities"
            raise RecognizerError(f"a {type(model).__name__} recognises nothing: give {wanted}")
        if not callable(framing) and not (isinstance(framing, str) and framing in FRAMINGS):
            raise ImageError(f"{framing!r} is no framing; choose one of {', '.join(FRAMINGS)}, or give a function")
        self.model, self.framing = model, framing
        self.temperature, self.threshold = 1.0, 0.0  # of calibrated weights: see mnist_kit.calibration
        self._private = False  # whether nobody else may train the model, or switch its mode, meanwhile

    @classmethod
    def load(cls, name: str = "reader", framing: str | Callable[[np.ndarray], Tensor] = "mnist") -> "Recognizer":
        """With the weights saved as `name`. Two ship with the package: "reader", trained on MNIST and on the pens of
        many people, with its calibration; and "class-mnist", the paper's run.

        Raises WeightsError when there are none or they are damaged.
        """
        recognizer, about = cls(load_weights(name), framing), weights_about(name)
        recognizer.temperature = about.get("temperature", 1.0)
        recognizer.threshold = about.get("threshold", 0.0)
        recognizer._private = True
        return recognizer

    def predict(self, picture) -> Prediction:
        """One digit: a `Drawing`, or a picture as `as_raster` takes them (PIL image, array, tensor, path).

        Raises EmptyDrawing when there is no ink, ImageError when the picture cannot be used.
        """
        if not isinstance(picture, Drawing):
            return self.predict_rasters([as_raster(picture)])[0]
        raster = mnist_raster(picture) if self.framing == "mnist" else picture.raster()
        return self.predict_rasters([raster], round(picture.widest_pen))[0]

    def predict_rasters(self, rasters: Sequence[np.ndarray], margin: int = 0) -> list[Prediction]:
        """Recognise one digit in each of `rasters`, uint8 (H, W), white ink on black, together.

        margin: of the red rectangle that the "paper" framing shows the network, px. Raises EmptyDrawing where there is
        no ink.
        """
        if not rasters:
            return []
        images = torch.stack([self._frame(raster, margin) for raster in rasters])
        shares = doubt = self._shares(images)  # (N, 10) or (N, 11)
        if shares.shape[1] == CLASSES:  # a network that was only ever shown digits is often sure of what is none
            mnist = self.framing == "mnist"
            doubt = _reader()._shares(images if mnist else torch.stack([frame_as_mnist(raster) for raster in rasters]))
        likeness = 1 - doubt[:, CLASSES:].sum(axis=1)
        answers = zip(_of_digits(shares), images, likeness.tolist(), strict=True)
        return [Prediction(int(p.argmax()), p, image, like, self.threshold) for p, image, like in answers]

    def predict_images(self, images: Tensor | np.ndarray) -> np.ndarray:
        """Probabilities, float32 (N, 10), of images framed already: (N, 1, 28, 28), uint8 or float in [0, 1].

        Raises ImageError for another shape, type or range, RecognizerError when the model does not answer with ten
        finite numbers per image.
        """
        return _of_digits(self._shares(_checked_images(images)))

    def _shares(self, images: Tensor) -> np.ndarray:
        """What the model answers: probabilities of the ten digits and, if it knows such a class, of "no digit"."""
        if hasattr(self.model, "predict_proba"):
            return _checked_answers(self.model.predict_proba(images.reshape(-1, SIDE * SIDE).numpy()), len(images))
        if not isinstance(self.model, nn.Module):
            answers = [_checked_answers(self.model(image), 1) for image in images]
            return np.concatenate(answers or [np.empty((0, CLASSES), np.float32)])
        parameter = next((p for p in self.model.parameters() if p.is_floating_point()), images)
        # Another thread may be training the model, or start to: a copy answers.
        if self._private and not self.model.training:
            model = self.model
        else:
            with computing:
                model = deepcopy(self.model).eval()
        with torch.inference_mode():
            batches = images.split(images_at_once(parameter.device))
            logits = torch.cat(
                [as_logits(model(batch.to(parameter)), len(batch), CLASSES, RecognizerError) for batch in batches]
            )
            return _checked_answers((logits / self.temperature).softmax(dim=1), len(images))

    def _frame(self, raster: np.ndarray, margin: int) -> Tensor:
        if not raster.any():
            raise EmptyDrawing("there is no ink to recognise")
        if self.framing == "paper":
            return frame_as_paper(raster, margin)
        image = (self.framing if callable(self.framing) else FRAMINGS[self.framing])(raster)
        if not isinstance(image, Tensor | np.ndarray):
            raise ImageError(f"a framing returns an image, float32 (1, {SIDE}, {SIDE}), not {image!r:.80}")
        return _checked_images(image[None])[0]


@cache
def _reader() -> Recognizer:
    """The network that knows "no digit": it is asked where another one does not."""
    return Recognizer.load()


def _checked_images(images) -> Tensor:
    """Images as float32 (N, 1, 28, 28) on the CPU. Raises ImageError."""
    try:
        images = (images if isinstance(images, Tensor) else torch.as_tensor(images, device="cpu")).detach()
        scale = 255 if images.dtype == torch.uint8 else 1
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise TypeError(f"their type is {images.dtype}")
        images = images.to_dense().cpu().float() / scale
    except (TypeError, ValueError, RuntimeError) as error:  # NotImplementedError, of meta tensors, is a RuntimeError
        raise ImageError(f"images have to be uint8, or floating point from 0 to 1: {error}") from error
    if images.ndim != 4 or images.shape[1:] != (1, SIDE, SIDE):
        raise ImageError(f"images have to be (N, 1, {SIDE}, {SIDE}), not {tuple(images.shape)}")
    if not ((images >= 0) & (images <= 1)).all():  # NaN is neither
        raise ImageError(f"pixels have to be from 0 to 1; these are from {images.min():.4g} to {images.max():.4g}")
    return images


def _checked_answers(answers, count: int) -> np.ndarray:
    """Probabilities as float32 (count, 10 or 11). Raises RecognizerError for anything else."""
    if isinstance(answers, Tensor):
        answers = answers.detach().cpu()
    try:
        answers = np.asarray(answers, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise RecognizerError(f"the recognizer answered with no numbers: {error}") from error
    if answers.ndim == 1 and count == 1:
        answers = answers[None]
    if answers.shape not in [(count, CLASSES), (count, CLASSES + 1)]:
        raise RecognizerError(f"the recognizer has to answer with ten probabilities, not with shape {answers.shape}")
    if not (np.abs(answers.sum(axis=1) - 1) <= 1e-3).all() or answers.min(initial=0) < 0:  # NaN is neither
        wanted = "ten probabilities, each ≥ 0 and their sum 1; are they logits before a softmax?"
        raise RecognizerError(f"the recognizer did not answer with {wanted} {answers}")
    return answers


def _of_digits(shares: np.ndarray) -> np.ndarray:
    """The probabilities of the ten digits, given that it is one, float32 (N, 10)."""
    digits = shares[:, :CLASSES]
    return digits / digits.sum(axis=1, keepdims=True).clip(min=1e-9) if shares.shape[1] > CLASSES else digits
