"""The one training loop of the project, and the evaluation of what it trained."""

import math
import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from mnist_kit import paper
from mnist_kit.data import Digits, Split
from mnist_kit.errors import ImageError, TrainingError
from mnist_kit.history import History
from mnist_kit.recipes import Recipe


def best_device() -> torch.device:
    """The fastest device at hand: a CUDA GPU, Apple's GPU, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def as_device(device: torch.device | str | None) -> torch.device:
    """`device` as a torch.device, the best one for None. Raises TrainingError when this machine has no such device."""
    if device is None:
        return best_device()
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(
            f"device {str(device)!r} cannot be used here ({reason}); this machine has {best_device()}"
        ) from error
    return device


class Callback:
    """Follows a training run; override what you need. Each method gets the `Run`."""

    def on_start(self, run: "Run") -> None:
        """Before the first step."""

    def on_step(self, run: "Run") -> None:
        """After each step, thousands of times: do not wait for the device (no `.item()`, seldom `run.history()`)."""

    def on_epoch(self, run: "Run") -> None:
        """After each epoch and its evaluation."""

    def on_end(self, run: "Run") -> None:
        """When training is over, also after an interruption or an error."""


@dataclass
class Run:
    """A training run as callbacks see it.

    step: steps done so far; epoch: the one that is running, from 1; losses: float32 (total_steps,), NaN where there was
    no step yet, on the device until `history()` reads them.
    """

    recipe: Recipe
    digits_name: str
    device: torch.device
    steps_per_epoch: int
    step: int = 0
    epoch: int = 1
    interrupted: bool = False
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self):
        self.losses = torch.full((self.total_steps,), math.nan, device=self.device)
        self._epochs: list[dict] = []
        self._paper_accuracies: list[float] = []
        self._clock = _StepClock(self.device)

    @property
    def total_steps(self) -> int:
        return self.recipe.epochs * self.steps_per_epoch

    @property
    def seconds(self) -> float:
        """Seconds since the start, evaluation included."""
        return time.perf_counter() - self.started

    def history(self) -> History:
        """Everything so far. It waits for the device: ask at most once a second."""
        steps = pd.DataFrame(
            {
                "step": range(1, self.step + 1),
                "epoch": [1 + step // self.steps_per_epoch for step in range(self.step)],
                "seconds": self._clock.laps()[: self.step],
                "loss": self.losses[: self.step].tolist(),
            }
        )
        columns = ["epoch", "loss", "val_loss", "val_accuracy", "seconds", "eval_seconds", "learning_rate"]
        about = {
            "recipe": self.recipe.as_dict(),
            "data": self.digits_name,
            "device": device_name(self.device),
            "system": platform.platform(),
            "torch": torch.__version__,
            "interrupted": self.interrupted,
            "paper_accuracy": list(self._paper_accuracies),
        }
        return History(steps, pd.DataFrame(self._epochs, columns=columns), about)


def device_name(device: torch.device) -> str:
    """What the device calls itself, for the record of a run."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor_name()}, {torch.get_num_threads()} threads"


def _processor_name() -> str:
    try:  # Linux keeps the name there; platform.processor() is empty on many of its distributions
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def fit(
    model: nn.Module,
    digits: Digits,
    recipe: Recipe,
    callbacks: Iterable[Callback] = (),
    device: torch.device | str | None = None,
) -> History:
    """Train `model` in place on `digits.train` by `recipe`, evaluate on `digits.test` after each epoch.

    model: any module from float32 images (batch, 1, 28, 28) in [0, 1] to logits (batch, 10). It is moved to `device`
    and returned to evaluation mode. The images are kept on the device as uint8. Seeds torch with `recipe.seed`: the
    same seed and the same initial weights give the same history on the same CPU; a GPU may differ in the last digits.

    Interrupting it (Ctrl+C, the notebook's stop button) ends training: the history so far is returned, the model holds
    the last step's weights.

    Raises RecipeError when no full batch fits the data, TrainingError for an empty test split or a missing device.
    """
    device = as_device(device)
    if len(digits.test) == 0:
        raise TrainingError(f"{digits.name} has no test images to evaluate on after each epoch")
    run = Run(recipe, digits.name, device, recipe.steps_per_epoch(len(digits.train)))
    callbacks = list(callbacks)

    torch.manual_seed(recipe.seed)
    torch.set_flush_denormal(True)  # Adam's averages of MNIST's always-black corners decay into slow denormals
    shuffle = torch.Generator().manual_seed(recipe.seed)  # on the CPU: the same order on every device
    images = digits.train.images[: recipe.train_images].to(device)
    labels = digits.train.labels[: recipe.train_images].to(device)
    model.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate, fused=device.type in ("cpu", "cuda"))
    schedule, schedule_by_step = _schedule(optimizer, recipe, run.total_steps)

    for callback in callbacks:
        callback.on_start(run)
    try:
        for run.epoch in range(1, recipe.epochs + 1):
            epoch_started = time.perf_counter()
            learning_rate = schedule.get_last_lr()[0]
            order = torch.randperm(len(images), generator=shuffle).to(device)
            model.train()
            run._clock.start()
            with pooling_first(model):
                for batch in order[: run.steps_per_epoch * recipe.batch_size].split(recipe.batch_size):
                    logits = model(as_input(images[batch]))  # (batch, 10)
                    loss = functional.cross_entropy(logits, labels[batch])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    if schedule_by_step:
                        schedule.step()
                    run.losses[run.step] = loss.detach()
                    run._clock.lap()
                    run.step += 1
                    for callback in callbacks:
                        callback.on_step(run)
            if not schedule_by_step:
                schedule.step()
            _end_epoch(run, model, digits.test, epoch_started, learning_rate)
            for callback in callbacks:
                callback.on_epoch(run)
    except KeyboardInterrupt:
        run.interrupted = True
    finally:
        model.eval()
        torch.set_flush_denormal(False)
        for callback in callbacks:
            callback.on_end(run)
    return run.history()


def _end_epoch(run: Run, model: nn.Module, test: Split, epoch_started: float, learning_rate: float) -> None:
    loss = run.losses[run.step - run.steps_per_epoch : run.step].mean().item()
    trained = time.perf_counter()
    evaluation = evaluate(model, test, run.device)
    now = time.perf_counter()
    run._paper_accuracies.append(evaluation.paper_accuracy)
    run._epochs.append(
        {
            "epoch": run.epoch,
            "loss": loss,
            "val_loss": evaluation.loss,
            "val_accuracy": evaluation.accuracy,
            "seconds": now - epoch_started,
            "eval_seconds": now - trained,
            "learning_rate": learning_rate,
        }
    )


def as_input(images: Tensor) -> Tensor:
    """What a model takes: `images` uint8 (N, 1, 28, 28) as float32 in [0, 1], and nothing else, as in the paper.

    Raises ImageError for images that are not uint8, since those may be scaled already.
    """
    if images.dtype != torch.uint8:
        raise ImageError(f"as_input takes uint8 images, 0 to 255, not {images.dtype}")
    return images.to(torch.float32, memory_format=torch.channels_last).div_(255)


@contextmanager
def pooling_first(model: nn.Module) -> Iterator[None]:
    """Within it, max pooling runs before the ReLU it follows: max(0, ·) keeps order, so the values stay the same, and
    the ReLU then works on a quarter of them.
    """
    swapped = []
    for block in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        for index, (layer, following) in enumerate(pairwise(list(block))):
            if isinstance(layer, nn.ReLU) and isinstance(following, nn.MaxPool2d):
                block[index], block[index + 1] = following, layer
                swapped.append((block, index))
    try:
        yield
    finally:
        for block, index in swapped:
            block[index], block[index + 1] = block[index + 1], block[index]


def _schedule(
    optimizer: torch.optim.Optimizer, recipe: Recipe, total_steps: int
) -> tuple[torch.optim.lr_scheduler.LRScheduler, bool]:
    """The schedule, and whether it moves at each step (else at each epoch)."""
    if recipe.schedule == "one-cycle":
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps), True
    return torch.optim.lr_scheduler.StepLR(optimizer, recipe.step_epochs, recipe.gamma), False


class _StepClock:
    """How long each step took, in seconds: CUDA events on a GPU, so that no step waits; the host's clock elsewhere."""

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == "cuda"
        self.done: list[float] = []
        self.marks: list = []

    def start(self) -> None:
        self.done, self.marks = self.laps(), []
        self.lap()

    def lap(self) -> None:
        if self.on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def laps(self) -> list[float]:
        if self.on_gpu and self.marks:
            self.marks[-1].synchronize()
            return self.done + [a.elapsed_time(b) / 1000 for a, b in pairwise(self.marks)]
        return self.done + [b - a for a, b in pairwise(self.marks)]


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
    model: nn.Module, split: Split, device: torch.device | str | None = None, batch_size: int = 250
) -> Evaluation:
    """Run `model` over `split` in evaluation mode, without gradients; its mode is as before afterwards.

    Moves the model to `device` (None: the best one). Raises TrainingError for an empty split, a batch size below 1 or a
    missing device.
    """
    if len(split) == 0:
        raise TrainingError("there are no images to evaluate on")
    if batch_size < 1:
        raise TrainingError(f"batch_size must be at least 1, not {batch_size!r}")
    device = as_device(device)
    model.to(device, memory_format=torch.channels_last)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), pooling_first(model):
            batches = split.images.split(batch_size)
            logits = torch.cat([model(as_input(images.to(device))).float().cpu() for images in batches])
    finally:
        model.train(was_training)
    return Evaluation(logits, split.labels.cpu())
