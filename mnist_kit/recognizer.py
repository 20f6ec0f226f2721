"""From a drawing, or any picture of a digit, to the digit it is."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mnist_kit.checkpoints import load_weights
from mnist_kit.doubt import digit_likeness
from mnist_kit.errors import ImageError, RecognizerError
from mnist_kit.framing import FRAMINGS, SIDE, as_ink, frame_as_mnist
from mnist_kit.ink import Drawing, Ink

Framing = Callable[[np.ndarray | Drawing], Tensor]
BATCH = 500  # images at once: bounds the memory, and is as quick as any


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network makes of a picture.

    digit: 0–9, the most probable; probabilities: float32 (10,), sum 1; image: float32 (1, 28, 28) in [0, 1], what the
    network was shown; likeness: how much the picture looks like a digit at all, in [0, 1].
    """

    digit: int
    probabilities: np.ndarray
    image: Tensor
    likeness: float = 1.0

    @property
    def sure(self) -> bool:
        """Whether the picture looks like a digit, and like this one more than like all the others."""
        return self.likeness >= 0.5 and bool(self.probabilities[self.digit] >= 0.5)

    def __repr__(self) -> str:
        doubt = "" if self.sure else ", not sure"
        return f"Prediction(digit={self.digit}, probability={self.probabilities[self.digit]:.1%}{doubt})"


class Recognizer:
    """A trained network, or a function, and the framing of its input.

    model: a network, images float32 (N, 1, 28, 28) in [0, 1] to logits (N, 10), used on the device it is on; a function
    from an image, float32 (1, 28, 28), to ten probabilities; or anything with `predict_proba`, asked with (1, 784).
    framing: "mnist" (20 px, centre of mass), "paper" (stretched), or a function from a raster, uint8 (H, W), or a
    `Drawing` to an image, float32 (1, 28, 28). Raises ImageError for a framing of another name.
    """

    def __init__(self, model: nn.Module | Callable, framing: str | Framing = "mnist"):
        if not callable(framing) and framing not in FRAMINGS:
            raise ImageError(
                f"there is no framing {framing!r}; choose one of {', '.join(FRAMINGS)}, or give a function"
            )
        if isinstance(model, nn.Module):
            model = model.to(memory_format=torch.channels_last)  # a quarter faster
        elif not (callable(model) or hasattr(model, "predict_proba")):
            raise RecognizerError(
                f"a {type(model).__name__} recognises nothing: give a network, or a function from an image, "
                "float32 (1, 28, 28), to ten probabilities"
            )
        self.model = model
        self.framing = framing

    @classmethod
    def load(cls, name: str = "class-mnist", framing: str | Framing = "mnist") -> "Recognizer":
        """With the weights saved as `name`; "class-mnist", the paper's run, ships with the package.

        Raises WeightsError when there are none or they are damaged.
        """
        return cls(load_weights(name), framing)

    def predict(self, picture) -> Prediction:
        """One digit: a `Drawing` or `Ink`, or a picture as `as_ink` takes them (PIL image, array, tensor, path).

        Raises EmptyDrawing when there is no ink, ImageError when the picture cannot be used.
        """
        return self.predict_inks([_as_ink(picture)])[0]

    def predict_inks(self, inks: Sequence[np.ndarray | Drawing | Ink]) -> list[Prediction]:
        """Recognise one digit in each of `inks` together: drawings, or rasters, uint8 (H, W), white ink on black.

        Raises EmptyDrawing where there is no ink.
        """
        if not inks:
            return []
        images = torch.stack([self._frame(ink) for ink in inks])
        by_mnist = self.framing in ("mnist", frame_as_mnist)
        likeness = digit_likeness(images if by_mnist else torch.stack([frame_as_mnist(ink) for ink in inks]))
        return [
            Prediction(int(probabilities.argmax()), probabilities, image, float(like))
            for probabilities, image, like in zip(self.predict_images(images), images, likeness, strict=True)
        ]

    def predict_images(self, images: Tensor) -> np.ndarray:
        """Probabilities, float32 (N, 10), of images framed already: (N, 1, 28, 28), uint8 or float in [0, 1].

        Raises ImageError for another shape or for NaN.
        """
        if images.ndim != 4 or images.shape[1:] != (1, SIDE, SIDE):
            raise ImageError(f"images have to be (N, 1, {SIDE}, {SIDE}), not {tuple(images.shape)}")
        if not isinstance(self.model, nn.Module):
            return np.stack([self._ask(image) for image in images])
        device = next((parameter.device for parameter in self.model.parameters()), images.device)
        images = images.to(device).float() / (255 if images.dtype == torch.uint8 else 1)
        if images.isnan().any():
            raise ImageError("there is NaN among the pixels of the images")
        # Another thread may be training the model: it is not switched, a copy is.
        model = deepcopy(self.model).eval() if self.model.training else self.model
        with torch.inference_mode():
            batches = [model(batch).softmax(dim=1) for batch in images.split(BATCH)]
        return torch.cat(batches).cpu().numpy()

    def _ask(self, image: Tensor) -> np.ndarray:
        """Ten probabilities, of a function or a `predict_proba`. Raises RecognizerError when they are none."""
        try:
            if hasattr(self.model, "predict_proba"):
                return _checked(self.model.predict_proba(image.reshape(1, -1).numpy()))
            return _checked(self.model(image))
        except SystemExit as error:  # it would end the thread in which JupyterLab hears the browser
            raise RecognizerError("the recognizer called sys.exit() in place of answering") from error

    def frame(self, picture) -> Tensor:
        """What the network is shown of `picture`: float32 (1, 28, 28) in [0, 1]. Raises as `predict` does."""
        return self._frame(_as_ink(picture))

    def _frame(self, ink: np.ndarray | Drawing | Ink) -> Tensor:
        if callable(self.framing):
            return self.framing(ink.drawing if isinstance(ink, Ink) else ink)
        return FRAMINGS[self.framing](ink)


def _as_ink(picture) -> np.ndarray | Drawing | Ink:
    if isinstance(picture, Tensor):
        picture = picture.detach().cpu().numpy()
    return picture if isinstance(picture, Drawing | Ink) else as_ink(picture)


def _checked(answer) -> np.ndarray:
    """Ten probabilities as float32 (10,). Raises RecognizerError for anything else."""
    if isinstance(answer, Tensor):
        answer = answer.detach().cpu()
    try:
        shares = np.asarray(answer, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise RecognizerError(f"the recognizer answered with no numbers: {error}") from error
    shares = shares.reshape(-1) if shares.shape == (1, 10) else shares
    if shares.shape != (10,):
        raise RecognizerError(f"the recognizer has to answer with ten probabilities, not with shape {shares.shape}")
    if not np.isfinite(shares).all() or shares.min() < 0:
        raise RecognizerError(f"the recognizer's probabilities are not all numbers ≥ 0: {shares}")
    if abs(shares.sum() - 1) > 1e-3:
        raise RecognizerError(
            f"the recognizer's probabilities sum to {shares.sum():.4g}, not to 1; are they logits before a softmax?"
        )
    return shares
