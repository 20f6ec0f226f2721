"""Callbacks that follow training while it runs: curves in a notebook, a line of numbers anywhere."""

import io
import sys
import time
import warnings
from collections.abc import Callable
from datetime import timedelta

import numpy as np
from IPython import get_ipython
from IPython.display import Image, display
from matplotlib.figure import Figure

from mnist_kit.history import History
from mnist_kit.plots import ACCURACY, LOSS, TEST_LOSS
from mnist_kit.training import Callback, Run

MOST_POINTS = 1_000
RECENT_STEPS = 50


class _Watcher(Callback):
    """Reports on a run now and then: at most once a second, and for no more than `share` of the time.

    What it costs is measured, the wait for the device included. A report that fails never stops the training: it
    warns once and stays silent from then on.
    """

    moves = True  # whether it reports between epochs too

    def __init__(self, share: float, clock: Callable[[], float] = time.perf_counter):
        self.share, self.clock = share, clock

    def on_start(self, run: Run) -> None:
        self.works, self.handle = True, None
        if self.moves:
            self._report(run)

    def on_step(self, run: Run) -> None:
        if self.moves and self.clock() >= self.due:
            self._report(run)

    def on_end(self, run: Run) -> None:
        if self.moves:
            self._report(run, final=True)

    def report(self, run: Run, history: History, final: bool) -> None:
        """Show where `run` stands."""

    def _report(self, run: Run, final: bool = False) -> None:
        started = self.clock()
        if self.works:
            try:
                self.report(run, run.history(), final)
            except Exception as error:
                self.works = False
                warnings.warn(f"{type(self).__name__} stopped, training continues: {error!r}", stacklevel=2)
        now = self.clock()
        self.due = now + max(1.0, (now - started) / self.share)

    def _show(self, content: object, **options) -> None:
        """Display `content` the first time, then update it in its place."""
        if self.handle is None:
            self.handle = display(content, display_id=True, **options)
        else:
            self.handle.update(content, **options)


class ProgressLine(_Watcher):
    """One line: epoch, step, loss, val_loss, val_accuracy, time, time left.

    In a notebook and on a terminal the line is overwritten, at most once a second. Elsewhere, and with a `title` that
    tells several runs apart, each epoch prints one. loss is the mean of the last 50 steps.
    """

    def __init__(self, share: float = 0.005, clock: Callable[[], float] = time.perf_counter, title: str = ""):
        super().__init__(share, clock)
        self.title = title

    def on_start(self, run: Run) -> None:
        self.moves = not self.title and (in_notebook() or sys.stdout.isatty())
        super().on_start(run)

    def on_epoch(self, run: Run) -> None:
        if not self.moves:
            self._report(run)

    def on_end(self, run: Run) -> None:
        if self.moves or run.interrupted:  # else the last epoch has printed its line
            self._report(run, final=True)

    def report(self, run: Run, history: History, final: bool) -> None:
        line = _line(run, history)
        if not self.moves:
            print(f"{self.title} · {line}" if self.title else line, flush=True)
        elif in_notebook():
            self._show({"text/plain": line}, raw=True)
        else:
            print(f"\r{line:<110}", end="\n" if final else "", flush=True)


class LiveCurves(ProgressLine):
    """Curves that move while training runs in a notebook: loss, test loss and accuracy, with a `ProgressLine` below.

    One figure in one output, redrawn at most once a second and for at most 1 % of the time; the last state stays.
    Where there is no notebook, only the line is shown.
    """

    def __init__(self, share: float = 0.01, clock: Callable[[], float] = time.perf_counter):
        super().__init__(clock=clock)
        self.curves = _Curves(share, clock)

    def on_start(self, run: Run) -> None:
        self.curves.on_start(run)
        super().on_start(run)

    def on_step(self, run: Run) -> None:
        self.curves.on_step(run)
        super().on_step(run)

    def on_end(self, run: Run) -> None:
        self.curves.on_end(run)
        super().on_end(run)


class _Curves(_Watcher):
    """The figure of `LiveCurves`. Only its lines change, which is several times cheaper than drawing it again."""

    def on_start(self, run: Run) -> None:
        self.moves = in_notebook()
        self.figure = None
        super().on_start(run)

    def report(self, run: Run, history: History, final: bool) -> None:
        if self.figure is None:
            self._begin(run)
        self._show(self.picture(run, history))

    def _begin(self, run: Run) -> None:
        self.figure = Figure(figsize=(9, 3.2), dpi=90)
        self.figure.subplots_adjust(left=0.07, right=0.985, bottom=0.15, top=0.9, wspace=0.18)
        self.losses, self.accuracies = self.figure.subplots(1, 2)
        (self.loss,) = self.losses.plot([], [], color=LOSS, linewidth=0.7, label="training loss")
        (self.val_loss,) = self.losses.plot([], [], color=TEST_LOSS, marker="o", markersize=4, label="test loss")
        (self.accuracy,) = self.accuracies.plot([], [], color=ACCURACY, marker="o", markersize=4)
        self.losses.set(title="loss", yscale="log", ylim=(0.01, 3), xlim=(0, run.total_steps), xlabel="step")
        last = run.recipe.epochs + 0.5
        self.accuracies.set(title="test accuracy (%)", ylim=(90, 100), xlim=(0.5, last), xlabel="epoch")
        self.accuracies.xaxis.get_major_locator().set_params(integer=True)
        self.losses.legend(loc="upper right", frameon=False)
        for ax in (self.losses, self.accuracies):
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(color="#e6e8eb")

    def picture(self, run: Run, history: History) -> Image:
        every = 1 + len(history.steps) // MOST_POINTS
        steps, epochs = history.steps.iloc[::-every], history.epochs  # from the latest back
        self.loss.set_data(steps["step"], steps["loss"])
        self.val_loss.set_data(epochs["epoch"] * run.steps_per_epoch, epochs["val_loss"])
        self.accuracy.set_data(epochs["epoch"], epochs["val_accuracy"] * 100)
        losses = np.concatenate([steps["loss"].to_numpy(float), epochs["val_loss"].to_numpy(float)])
        losses = losses[np.isfinite(losses) & (losses > 0)]
        if len(losses):
            self.losses.set_ylim(losses.min() / 1.3, losses.max() * 1.3)
        lowest = epochs["val_accuracy"].min() * 100
        if np.isfinite(lowest):
            self.accuracies.set_ylim(lowest - 0.1 * (100 - lowest) - 0.01, 100)
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png")
        return Image(buffer.getvalue(), format="png", alt="loss, test loss and test accuracy so far")


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this, so that outputs can be updated."""
    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def _line(run: Run, history: History) -> str:
    parts = [f"epoch {run.epoch}/{run.recipe.epochs}", f"step {run.step:,}/{run.total_steps:,}"]
    if run.step:
        parts.append(f"loss {history.steps['loss'].iloc[-RECENT_STEPS:].mean():.4f}")
    if len(history.epochs):
        last = history.epochs.iloc[-1]
        parts += [f"val_loss {last['val_loss']:.4f}", f"val_accuracy {last['val_accuracy']:.2%}"]
    parts.append(f"time {_clock_time(run.seconds)}")
    if run.interrupted:
        parts.append("stopped")
    elif 0 < run.step < run.total_steps:
        parts.append(f"{_clock_time(run.seconds / run.step * (run.total_steps - run.step))} left")
    return " · ".join(parts)


def _clock_time(seconds: float) -> str:
    """Seconds as "2:05", or "1:02:05" from an hour on."""
    return str(timedelta(seconds=round(seconds))).removeprefix("0:").removeprefix("0")
