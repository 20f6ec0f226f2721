"""Who is measured: `fit` and the rivals, behind the same few methods."""

import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import nn

from benchmarks.machine import digits_called, operations, peak_memory, wait_for
from benchmarks.rivals import ClassicExample, FastScript, PaperLoop
from mnist_kit import PAPER, QUICK, Callback, Digits, Recipe, Run, evaluate, fit, make_model

FIT_PAPER, FIT_QUICK = "fit, PAPER", "fit, QUICK"
PAPER_LOOP, CLASSIC, FAST_SCRIPT = "the paper's loop", "the classic example", "train_mnist_fast"
RIVALS = {PAPER_LOOP: PaperLoop, CLASSIC: ClassicExample, FAST_SCRIPT: FastScript}
FITS = {FIT_PAPER: PAPER, FIT_QUICK: QUICK}
AtEpoch = Callable[[int, float, float], bool]  # epoch, seconds, accuracy: whether to stop


class Fit:
    """`mnist_kit.fit` on the network of `recipe`."""

    def __init__(self, digits: Digits, device: torch.device, seed: int, recipe: Recipe):
        torch.manual_seed(seed)
        self.model = make_model(recipe.network)
        self.digits, self.device, self.seed, self.recipe = digits, device, seed, recipe

    @property
    def batch_size(self) -> int:
        return self.recipe.batch_size

    @property
    def epochs(self) -> int:
        return self.recipe.epochs

    @property
    def steps_per_epoch(self) -> int:
        return self.recipe.steps_per_epoch(len(self.digits.train))

    def steps(self, count: int) -> tuple[list[float], float]:
        """Seconds of each of `count` steps that follow a first one, and seconds until that first one was done."""
        brief = self.recipe.but(name="bench", epochs=1, train_images=(count + 1) * self.batch_size, seed=self.seed)
        digits = Digits(self.digits.name, self.digits.train, self.digits.test.first(1))
        laps = Laps(count + 1)
        fit(self.model, digits, brief, [laps], self.device)
        return laps.seconds, laps.first

    def evaluate(self) -> float:
        """The fraction of the test images recognised."""
        return evaluate(self.model, self.digits.test, self.device).accuracy

    def train(self, at_epoch: AtEpoch, most_epochs: int | None = None) -> float:
        """Train by the recipe to its end, which its schedule needs. Returns the seconds until the first step was done,
        set-up included, and compiling or capturing where there is any.
        """
        epochs = min(self.recipe.epochs, most_epochs or self.recipe.epochs)
        recipe = self.recipe.but(seed=self.seed, epochs=epochs)
        follow = Epochs(at_epoch)
        fit(self.model, self.digits, recipe, [follow], self.device)
        return follow.first


class Laps(Callback):
    """Times steps without waiting for a GPU in between: there the mean of the whole stretch stands for each."""

    def __init__(self, count: int):
        self.count = count

    def on_start(self, run: Run) -> None:
        self.marks, self.started = [], time.perf_counter()

    def on_step(self, run: Run) -> None:
        if run.step in (1, self.count) or run.device.type == "cpu":
            wait_for(run.device)
            self.marks.append((run.step, time.perf_counter()))

    @property
    def first(self) -> float:
        return self.marks[0][1] - self.started

    @property
    def seconds(self) -> list[float]:
        return [(now - before) / (step - last) for (last, before), (step, now) in pairwise(self.marks)]


class Epochs(Callback):
    """Tells after each epoch what has been reached, and when."""

    def __init__(self, at_epoch: AtEpoch):
        self.at_epoch, self.first, self.started = at_epoch, 0.0, time.perf_counter()

    def on_step(self, run: Run) -> None:
        if run.step == 1:
            wait_for(run.device)
            self.first = time.perf_counter() - self.started

    def on_epoch(self, run: Run) -> None:
        seconds = time.perf_counter() - self.started
        self.at_epoch(run.epoch, seconds, run.history().epochs["val_accuracy"].iloc[-1])


class Rival:
    """A rival of `benchmarks.rivals`, driven as `Fit` is."""

    def __init__(self, make: Callable, digits: Digits, device: torch.device, seed: int = 0):
        self.rival = make(digits, device, seed)
        self.device, self.stream = device, None

    @property
    def model(self) -> nn.Module:
        return self.rival.model

    @property
    def batch_size(self) -> int:
        return self.rival.batch_size

    @property
    def epochs(self) -> int:
        return self.rival.epochs

    @property
    def steps_per_epoch(self) -> int:
        return len(self.rival.train)

    def steps(self, count: int) -> tuple[list[float], float]:
        """Seconds of each of `count` steps, loading included, that follow a first one; seconds of that first one."""
        self.rival.model.train()
        self.stream = self.stream or self._endless()
        started = time.perf_counter()
        next(self.stream)
        wait_for(self.device)
        marks = [time.perf_counter()]
        for number in range(1, count + 1):
            next(self.stream)
            if number == count or self.device.type == "cpu":
                wait_for(self.device)
                marks.append(time.perf_counter())
        if self.device.type != "cpu":
            return [(marks[1] - marks[0]) / count], marks[0] - started
        return [now - before for before, now in pairwise(marks)], marks[0] - started

    def evaluate(self) -> float:
        """The fraction of the test images recognised."""
        return self.rival.evaluate()

    def train(self, at_epoch: AtEpoch, most_epochs: int | None = None) -> float:
        """Train until `at_epoch` says so or its epochs are over. Returns the seconds until the first step was done."""
        started, first = time.perf_counter(), 0.0
        for epoch in range(1, min(self.rival.epochs, most_epochs or self.rival.epochs) + 1):
            for _ in self.rival.epoch():
                if not first:
                    wait_for(self.device)
                    first = time.perf_counter() - started
            accuracy = self.rival.evaluate()
            if at_epoch(epoch, time.perf_counter() - started, accuracy):
                break
        return first

    def _endless(self) -> Iterator:
        while True:
            yield from self.rival.epoch()


class Contestant:
    """One of them by `name`, as a worker makes it: plain values in, plain values out."""

    def __init__(self, name: str, data: str, device: str, seed: int = 0):
        self.name, self.device = name, torch.device(device)
        self.digits = digits_called(data)
        if name in FITS:
            self.subject = Fit(self.digits, self.device, seed, FITS[name])
        else:
            self.subject = Rival(RIVALS[name], self.digits, self.device, seed)

    def about(self) -> dict:
        """Its sizes, and the operations (FLOP) of one image, forward and in a training step."""
        model, batch_size = self.subject.model, self.subject.batch_size
        training = model.training
        forward, both = operations(model.train())
        model.zero_grad()
        model.train(training)
        return {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "batch_size": batch_size,
            "steps_per_epoch": self.subject.steps_per_epoch,
            "test_images": len(self.digits.test),
            "epochs": self.subject.epochs,
            "operations_forward": forward,
            "operations_training": both,
        }

    def steps(self, count: int) -> tuple[list[float], float]:
        """Seconds of each of `count` steps, and of the first one before them."""
        return self.subject.steps(count)

    def evaluate(self) -> float:
        """Seconds to evaluate all test images."""
        wait_for(self.device)
        started = time.perf_counter()
        self.subject.evaluate()
        wait_for(self.device)
        return time.perf_counter() - started

    def peak_memory(self) -> int:
        """Bytes."""
        return peak_memory(self.device)

    def train(self, title: str, stop_at: float, most_epochs: int | None) -> dict:
        """A whole run, a line an epoch; a rival ends with the first epoch that has the accuracy `stop_at`."""
        epochs = []

        def at_epoch(epoch: int, seconds: float, accuracy: float) -> bool:
            epochs.append({"epoch": epoch, "seconds": seconds, "accuracy": float(accuracy)})
            print(f"{title} · epoch {epoch} · {seconds:,.1f} s · {accuracy:.2%}", flush=True)
            return accuracy >= stop_at

        first = self.subject.train(at_epoch, most_epochs)
        return {"first_step": first, "epochs": epochs}
