"""Calibration: probabilities worth believing, and the threshold below which an answer is "not sure"."""

import math

import numpy as np
import pandas as pd
from scipy import optimize
from torch import Tensor
from torch.nn import functional

from mnist_kit.errors import TrainingError


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The number that logits are to be divided by, so that their softmax is as probable as what happens.

    logits: float32 (N, classes), labels: int64 (N,), of images that were not trained on. Minimises the cross-entropy,
    which has one minimum. Source: C. Guo et al., "On Calibration of Modern Neural Networks", 2017. Raises TrainingError
    without images.
    """
    _check(logits, labels)

    def loss(log_temperature: float) -> float:
        return functional.cross_entropy(logits.double() / math.exp(log_temperature), labels).item()

    return math.exp(optimize.minimize_scalar(loss, bounds=(-7, 7), method="bounded").x)


def reliability(probabilities: Tensor | np.ndarray, labels: Tensor | np.ndarray, bins: int = 10) -> pd.DataFrame:
    """A reliability diagram as a table: how sure the network was, and how often it was right.

    probabilities: float (N, classes); labels: (N,). The most probable class of each image is its answer. Returns a row
    per bin of equal width: from, to, images, confidence (the mean probability of the answers) and accuracy, the last
    two NaN in an empty bin. Raises TrainingError without images.
    """
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    _check(probabilities, labels)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1)
    answers = pd.DataFrame({"confidence": confidence, "accuracy": right})
    bins = answers.groupby(pd.cut(confidence, edges, include_lowest=True), observed=False)
    table = pd.DataFrame({"from": edges[:-1], "to": edges[1:], "images": bins.size().to_numpy()})
    return table.join(bins.mean().reset_index(drop=True))


def expected_calibration_error(table: pd.DataFrame) -> float:
    """By how much confidence and accuracy differ on average, a fraction: of the table that `reliability` makes.

    Source: M. Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", 2015.
    """
    gaps = (table["confidence"] - table["accuracy"]).abs().fillna(0)
    return float((gaps * table["images"]).sum() / table["images"].sum())


def threshold_at(price: float, confidence: Tensor | np.ndarray) -> float:
    """The threshold that doubts a share of at most `price` of what should be believed.

    confidence: float (N,), of answers that are right and clear. An answer at or above the threshold is sure.
    """
    confidence = np.sort(np.asarray(confidence))
    if not len(confidence):
        raise TrainingError("there are no answers to choose a threshold by")
    return float(confidence[int(price * len(confidence))])


def _check(scores: Tensor | np.ndarray, labels: Tensor | np.ndarray) -> None:
    if scores.ndim != 2 or len(scores) != len(labels) or not len(labels):
        raise TrainingError(
            f"calibration takes scores (N, classes) and labels (N,), N ≥ 1, not {tuple(scores.shape)} and "
            f"{tuple(labels.shape)}"
        )
