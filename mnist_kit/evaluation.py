"""What a model makes of a split: logits, accuracy, and what follows from them."""

from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from mnist_kit import paper
from mnist_kit.data import Split
from mnist_kit.device import answering, as_device, as_input, as_logits, describe, images_at_once, parameter_dtype
from mnist_kit.errors import TrainingError
from mnist_kit.models import require_module


@dataclass(frozen=True)
class Evaluation:
    """How a model does on a split. logits: float (N, classes); labels: int64 (N,); both on the CPU.

    loss: mean cross-entropy over the images (nats); accuracy: the exact fraction recognised.
    """

    logits: Tensor
    labels: Tensor

    @cached_property
    def predictions(self) -> Tensor:
        """The likeliest class of each image, int64 (N,)."""
        return self.logits.argmax(1)

    @cached_property
    def probabilities(self) -> Tensor:
        """softmax of the logits, float (N, classes)."""
        return self.logits.softmax(1)

    @cached_property
    def loss(self) -> float:
        return functional.cross_entropy(self.logits, self.labels).item()

    @cached_property
    def correct(self) -> Tensor:
        """bool (N,)"""
        return self.predictions == self.labels

    @property
    def accuracy(self) -> float:
        """The exact fraction recognised, 0 to 1."""
        return self.correct.sum().item() / len(self.labels)

    @property
    def batch_accuracy(self) -> float:
        """By the paper's listing 2.4: the mean accuracy of batches of 128; a short last one weighs as much as any."""
        batches = self.correct.double().split(paper.BATCH_SIZE)
        return sum(batch.mean().item() for batch in batches) / len(batches)

    @property
    def confusion(self) -> pd.DataFrame:
        """Counts, (classes, classes): a row per true class, a column per predicted one."""
        classes = self.logits.shape[1]
        counts = torch.bincount(self.labels * classes + self.predictions, minlength=classes**2)
        return pd.DataFrame(
            counts.reshape(classes, classes).numpy(),
            index=pd.RangeIndex(classes, name="true"),
            columns=pd.RangeIndex(classes, name="predicted"),
        )

    @property
    def per_digit(self) -> pd.DataFrame:
        """precision, recall, f1 (fractions; NaN for a digit that never occurs) and support per digit."""
        counts = self.confusion
        hits, predicted, support = pd.Series(counts.to_numpy().diagonal()), counts.sum(axis=0), counts.sum(axis=1)
        scores = {"precision": hits / predicted, "recall": hits / support, "f1": 2 * hits / (predicted + support)}
        return pd.DataFrame({**scores, "support": support}).rename_axis("digit")


def evaluate(
    model: nn.Module, split: Split, device: torch.device | str | None = None, batch_size: int | None = None
) -> Evaluation:
    """Run `model` over `split` in evaluation mode, without gradients; its mode is as before afterwards.

    Moves the model to `device` (None: the best one). batch_size: images at once (None: what is fastest there).
    Raises TrainingError for an empty split or what is none, a batch size below 1 or a missing device, ModelError for
    what is no module, or does not answer with logits for each class.
    """
    require_module(model, lazy=True)
    if not isinstance(split, Split):
        raise TrainingError(f"evaluate takes a Split, such as digits.test, not {describe(split)}")
    if len(split) == 0:
        raise TrainingError("there are no images to evaluate on")
    device = as_device(device)
    batch_size = images_at_once(device) if batch_size is None else batch_size
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise TrainingError(f"batch_size must be a whole number of at least 1, not {batch_size!r}")
    dtype, classes = parameter_dtype(model), int(split.labels.max()) + 1
    logits = []
    with answering(model):
        model.to(device)
        for images in split.images.split(min(batch_size, len(split))):
            answers = model(as_input(images.to(device)).to(dtype))  # (batch, 1, 28, 28) -> (batch, classes)
            logits.append(as_logits(answers, len(images), classes))
    return Evaluation(torch.cat(logits).cpu(), split.labels.cpu())
