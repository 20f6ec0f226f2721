"""What a model makes of a split: logits, accuracy, and what follows from them."""

from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from mnist_kit import paper
from mnist_kit.data import Split
from mnist_kit.engine import as_device, as_input, pooling_first
from mnist_kit.errors import TrainingError


@dataclass(frozen=True)
class Evaluation:
    """How a model does on a split. logits: float32 (N, 10); labels: int64 (N,); both on the CPU.

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
        """softmax of the logits, float32 (N, 10)."""
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
    def paper_accuracy(self) -> float:
        """By the paper's listing 2.4: the mean accuracy of batches of 128; a short last one weighs as much as any."""
        batches = self.correct.double().split(paper.BATCH_SIZE)
        return sum(batch.mean().item() for batch in batches) / len(batches)

    @property
    def confusion(self) -> pd.DataFrame:
        """Counts, 10×10: a row a true digit, a column a predicted one."""
        counts = torch.bincount(self.labels * 10 + self.predictions, minlength=100).reshape(10, 10)
        return pd.DataFrame(
            counts.numpy(), index=pd.RangeIndex(10, name="true"), columns=pd.RangeIndex(10, name="predicted")
        )

    @property
    def per_digit(self) -> pd.DataFrame:
        """precision, recall, f1 (fractions; NaN for a digit that is never there or predicted) and support per digit."""
        counts = self.confusion.to_numpy()
        hits, predicted, support = counts.diagonal(), counts.sum(0), counts.sum(1)
        table = pd.DataFrame({"hits": hits, "predicted": predicted, "support": support}, dtype=float)
        precision, recall = table.hits / table.predicted, table.hits / table.support
        f1 = 2 * table.hits / (table.predicted + table.support)
        table = pd.DataFrame({"precision": precision, "recall": recall, "f1": f1, "support": support})
        return table.rename_axis("digit")


def evaluate(
    model: nn.Module, split: Split, device: torch.device | str | None = None, batch_size: int | None = None
) -> Evaluation:
    """Run `model` over `split` in evaluation mode, without gradients; its mode is as before afterwards.

    Moves the model to `device` (None: the best one). batch_size: images at once (None: 250 on a CPU, where they fit its
    cache, else 2,500). Raises TrainingError for an empty split, a batch size below 1 or a
    missing device.
    """
    if len(split) == 0:
        raise TrainingError("there are no images to evaluate on")
    device = as_device(device)
    batch_size = (250 if device.type == "cpu" else 2500) if batch_size is None else batch_size
    if batch_size < 1:
        raise TrainingError(f"batch_size must be at least 1, not {batch_size!r}")
    model.to(device, memory_format=torch.channels_last)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), pooling_first(model):
            batches = split.images.split(batch_size)
            logits = torch.cat([model(as_input(images.to(device))).float() for images in batches]).cpu()
    finally:
        model.train(was_training)
    return Evaluation(logits, split.labels.cpu())
