"""Callbacks that follow training while it runs: curves in a notebook, a line of numbers anywhere."""

import io
import sys
import time
import warnings

from IPython import get_ipython
from IPython.display import Image, display
from matplotlib import rc_context
from matplotlib.figure import Figure
from tqdm import tqdm

from mnist_kit.history import History
from mnist_kit.plots import ACCURACY, LOSS, STYLE, TEST_LOSS
from mnist_kit.training import Callback, Run

RECENT_STEPS = 50


class ProgressLine(Callback):
    """One line: epoch, step, loss, val_loss, val_accuracy, time, time left.

    In a notebook and on a terminal the line is overwritten: at most once a second, and for no more than `share` of the
    time. What it costs is measured, the wait for the device included. Elsewhere, and with a `title` that tells several
    runs apart, each epoch prints one. loss is the mean of the last 50 steps. A report that fails never stops the
    training: it warns once and stays silent from then on.
    """

    share = 0.005

    def __init__(self, title: str = ""):
        self.title = title

    def on_start(self, run: Run) -> None:
        self.works, self.shown = True, {}
        self.moves = not self.title and (in_notebook() or sys.stdout.isatty())
        if self.moves:
            self._report(run)

    def on_step(self, run: Run) -> None:
        if self.moves and time.perf_counter() >= self.due:
            self._report(run)

    def on_epoch(self, run: Run) -> None:
        if not self.moves:
            self._report(run)

    def on_end(self, run: Run) -> None:
        if self.moves or run.interrupted:  # else the last epoch has printed its line
            self._report(run, end="\n")

    def _report(self, run: Run, end: str = "") -> None:
        started = time.perf_counter()
        if self.works:
            try:
                self.report(run, run.history(), end)
            except Exception as error:
                self.works = False
                warnings.warn(f"{type(self).__name__} stopped, training continues: {error!r}", stacklevel=2)
        now = time.perf_counter()
        self.due = now + max(1.0, (now - started) / self.share)

    def report(self, run: Run, history: History, end: str) -> None:
        """Show where `run` stands. end: what a terminal's line ends with, a newline in the end."""
        line = _line(run, history)
        if not self.moves:
            print(f"{self.title} · {line}" if self.title else line, flush=True)
        elif in_notebook():
            self.show("line", {"text/plain": line}, raw=True)
        else:
            print(f"\r{line:<110}", end=end, flush=True)

    def show(self, name: str, content: object, **options) -> None:
        """Display `content` the first time, then update what is called `name` in its place."""
        if name in self.shown:
            self.shown[name].update(content, **options)
        else:
            self.shown[name] = display(content, display_id=True, **options)


class LiveCurves(ProgressLine):
    """Curves that move while training runs in a notebook: loss, test (or validation) loss and accuracy, a line below.

    One figure in one output, redrawn at most once a second and for at most 1 % of the time; the last state stays. Only
    its lines change, which is several times cheaper than drawing it again. Where there is no notebook, only the line
    is shown.
    """

    share = 0.01

    def on_start(self, run: Run) -> None:
        figure = Figure(figsize=(9, 3.2), dpi=90)
        figure.subplots_adjust(left=0.07, right=0.985, bottom=0.15, top=0.9, wspace=0.18)
        with rc_context(STYLE):
            self.losses, self.accuracies = figure.subplots(1, 2)
        (self.loss,) = self.losses.plot([], [], color=LOSS, linewidth=0.7, label="training loss")
        (self.val_loss,) = self.losses.plot([], [], color=TEST_LOSS, marker="o", markersize=4)
        (self.accuracy,) = self.accuracies.plot([], [], color=ACCURACY, marker="o", markersize=4)
        self.losses.set(title="loss", yscale="log", ylim=(0.01, 3), xlim=(0, run.total_steps), xlabel="step")
        last = run.recipe.epochs + 0.5
        self.accuracies.set(ylim=(90, 100), xlim=(0.5, last), xlabel="epoch")
        self.accuracies.xaxis.get_major_locator().set_params(integer=True)
        super().on_start(run)

    def report(self, run: Run, history: History, end: str) -> None:
        if in_notebook():
            self.show("curves", self.picture(run, history))
        super().report(run, history, end)

    def picture(self, run: Run, history: History) -> Image:
        """The curves so far."""
        self.val_loss.set_label(f"{history.held_back} loss")
        self.losses.legend(loc="upper right", frameon=False)
        self.accuracies.set_title(f"{history.held_back} accuracy (%)")
        steps, epochs = history.steps, history.epochs
        self.loss.set_data(steps["step"], steps["loss"])
        self.val_loss.set_data(epochs["epoch"] * run.steps_per_epoch, epochs["val_loss"])
        self.accuracy.set_data(epochs["epoch"], epochs["val_accuracy"] * 100)
        for ax, values in ((self.losses, steps["loss"]), (self.accuracies, epochs["val_accuracy"])):
            if values.notna().any():
                ax.relim()
                ax.autoscale(axis="y")
        buffer = io.BytesIO()
        self.losses.figure.savefig(buffer, format="png")
        return Image(buffer.getvalue(), format="png", alt="training loss; loss and accuracy on the images held back")


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
    parts.append(f"time {tqdm.format_interval(round(run.seconds))}")
    if run.interrupted:
        parts.append("stopped")
    elif 0 < run.step < run.total_steps:
        parts.append(f"{tqdm.format_interval(run.seconds / run.step * (run.total_steps - run.step))} left")
    return " · ".join(parts)
