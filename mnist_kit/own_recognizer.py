"""The reader's own function as a recognizer, checked at every answer."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from mnist_kit.errors import RecognizerError
from mnist_kit.recognizer import Recognizer


class OwnRecognizer(Recognizer):
    """A recognizer made of the reader's own function from an image, float32 (1, 28, 28), to ten probabilities."""

    def __init__(self, read: Callable[[Tensor], object]):
        self.read = read
        self.framing = "mnist"

    def predict_images(self, images: Tensor) -> np.ndarray:
        """Probabilities, float32 (N, 10), of images (N, 1, 28, 28). Raises RecognizerError when they are none."""
        try:
            return np.stack([_checked(self.read(image)) for image in images])
        except SystemExit as error:  # it would end the thread in which JupyterLab hears the browser
            raise RecognizerError("the recognizer called sys.exit() in place of answering") from error


def as_recognizer(recognizer: Recognizer | Callable | None) -> Recognizer | None:
    """`recognizer` itself, or a function made one. Raises RecognizerError for what is neither."""
    if recognizer is None or isinstance(recognizer, Recognizer):
        return recognizer
    if not callable(recognizer):
        raise RecognizerError(
            f"a {type(recognizer).__name__} recognises nothing: give a Recognizer, or a function from an image, "
            "float32 (1, 28, 28), to ten probabilities"
        )
    return OwnRecognizer(recognizer)


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
