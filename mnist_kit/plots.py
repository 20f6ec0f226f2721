"""Figures from a history, from images and from predictions. Each function returns a matplotlib Figure; none shows one.

Images are arrays or tensors (N, 28, 28) or (N, 1, 28, 28), uint8 0..255 or float 0..1; labels are integers 0..9 (N,).
Bad input raises HistoryError (nothing to draw in a history), ImageError (no images, wrong shape) or DataError (labels).
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from mnist_kit import paper
from mnist_kit.analysis import seconds_cut
from mnist_kit.data import DIGITS
from mnist_kit.device import parameter_dtype
from mnist_kit.errors import DataError, HistoryError, ImageError, StorageError
from mnist_kit.files import figures_folder, write_atomically
from mnist_kit.history import History

# The paper's colours, in tints that read well on white.
TIME = "#d62728"
CUT_TIME = "#7b4fb5"
LOSS = "#1f5fbf"
ACCURACY = "#2a8c4a"
TEST_LOSS = "#ee7d00"
TRAIN_LOSS = "#00a0c0"
QUIET = "#b8bec6"
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e8eb",
    "axes.axisbelow": True,
    "axes.prop_cycle": plt.cycler(color=[LOSS, TEST_LOSS, ACCURACY, CUT_TIME, TIME]),
}


def save_figure(figure: Figure, name: str) -> Path:
    """Save as `name`.png in the figures folder at 300 dpi; `name` may hold one subfolder ("reference/fig3_loss").

    Raises StorageError when the name is no name or the file cannot be written.
    """
    if not re.fullmatch(r"([\w-]+/)?[\w-]+", name):
        raise StorageError(f"{name!r} is not a name for a figure: use letters, digits, dashes, and one folder at most")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=paper.DPI, facecolor="white")
    return write_atomically(figures_folder() / f"{name}.png", buffer.getvalue())


def plot_loss(history: History, cut: float | None = None) -> Figure:
    """Figure 3: training loss of every step, the lowest marked. With `cut`, only losses below it, if there are any."""
    history.require_steps()
    shown, title = history.steps["loss"], "Training loss of every step"
    if cut is not None and shown.min() < cut:
        shown, title = shown[shown < cut], f"{title}, cut at loss < {cut:g}"
    note = "○ lowest: {best:.3g} at step {step:,.0f}, epoch {epoch:.0f}"
    return _plot_steps(history, shown, "training loss (cross-entropy)", LOSS, title, note, best="min")


def plot_loss_cut(history: History, cut: float = paper.LOSS_CUT) -> Figure:
    """Figure 4: the training losses below `cut`, or all of them while none is that low."""
    return plot_loss(history, cut)


def plot_step_seconds(history: History) -> Figure:
    """Figure 5: seconds of every step; the last step of an epoch carries the evaluation that follows it."""
    history.require_steps()
    steps, evaluation = history.steps, history.epochs.set_index("epoch")["eval_seconds"]
    is_last = ~steps["epoch"].duplicated(keep="last")
    seconds = steps["seconds"] + steps["epoch"].map(evaluation).fillna(0) * is_last
    total, mean = steps["seconds"].sum(), steps["seconds"].mean()
    note = f"steps {total:,.1f} s in total, {mean:.4g} s per step; evaluations {evaluation.sum():,.1f} s in total"
    title = "Time of every step, with preparation and evaluation"
    return _plot_steps(history, seconds, "seconds per step", TIME, title, note)


def plot_step_seconds_cut(history: History) -> Figure:
    """Figure 6: seconds of the steps under the cut, 0.04 s or what suits the machine (`analysis.seconds_cut`)."""
    cut, seconds = seconds_cut(history), history.steps["seconds"]
    shown = seconds[seconds < cut]
    share = len(shown) / len(seconds)
    note = f"{share:.2%} of the steps: {shown.sum():,.1f} s in total, {shown.mean():.4g} s per step"
    title = f"Time of every step, cut at < {cut:.2g} s"
    return _plot_steps(history, shown, "seconds per step", CUT_TIME, title, note, from_zero=False)


def plot_val_loss(history: History) -> Figure:
    """Figure 7: loss on the test (or validation) images after each epoch, the lowest marked."""
    kind = history.held_back
    return _plot_epochs(history, "val_loss", f"{kind} loss (cross-entropy)", TEST_LOSS, f"{kind.title()} loss")


def plot_train_loss(history: History) -> Figure:
    """Figure 8: training loss of each epoch, the mean of its steps, the lowest marked."""
    return _plot_epochs(history, "loss", "training loss (cross-entropy)", TRAIN_LOSS, "Training loss of each epoch")


def plot_val_accuracy(history: History) -> Figure:
    """Figure 9: accuracy on the test (or validation) images after each epoch, the highest marked."""
    kind = history.held_back
    return _plot_epochs(history, "val_accuracy", f"{kind} accuracy (%)", ACCURACY, f"{kind.title()} accuracy per epoch")


def plot_samples(images, labels, per_class: int = 16, classes: Sequence[str] = DIGITS, seed: int = 0) -> Figure:
    """Figure 1: a row of `per_class` random samples for each class that occurs."""
    pictures, top = _pictures(images)
    labels = _labels(labels, len(pictures), classes)
    random = np.random.default_rng(seed)
    present = np.unique(labels)
    height, width = (side + 2 for side in pictures.shape[1:])
    cells = np.full((len(present), per_class, height, width), top, pictures.dtype)
    for row, label in zip(cells, present, strict=True):
        chosen = random.permutation(np.flatnonzero(labels == label))[:per_class]
        row[: len(chosen), :-2, :-2] = pictures[chosen]
    sheet = cells.swapaxes(1, 2).reshape(len(present) * height, per_class * width)  # 160 axes would take seconds
    figure, ((ax,),) = _grid(1, 1, (0.55 * per_class + 1, 0.55 * len(present) + 0.2), bare=True)
    _show(ax, sheet, top)
    for row, label in enumerate(present):
        ax.text(-0.5 * width, (row + 0.5) * height, classes[label], ha="right", va="center", fontsize=12)
    return figure


def plot_class_balance(labels: Mapping[str, Sequence[int]], classes: Sequence[str] = DIGITS) -> Figure:
    """How many images each class has in each split: `labels` by the split's name, e.g. {"train": …, "test": …}."""
    figure, (axes,) = _grid(1, len(labels), (4.5 * len(labels), 3.4))
    for number, (ax, (name, values)) in enumerate(zip(axes, labels.items(), strict=True)):
        counts = np.bincount(_labels(values, len(values), classes), minlength=len(classes))
        bars = ax.bar(classes, counts, color=f"C{number}")
        # Inside the bars, where the line of the mean does not strike them out.
        ax.bar_label(bars, fmt="{:,.0f}", label_type="center", rotation=90, fontsize=9, color="white")
        ax.axhline(counts.mean(), color="#222", linewidth=0.8, linestyle="--")
        ax.set(title=f"{name}: {counts.sum():,} images, dashed: the mean", xlabel="class", ylabel="images")
        _name_classes(ax, classes)
    return figure


def plot_pixel_statistics(images) -> Figure:
    """How often each grey value occurs, how much ink an image has, and the mean and spread of each of its pixels."""
    pictures, top = _pictures(images)
    figure, ((grey, ink, mean, spread),) = _grid(1, 4, (13, 3.2))
    counts, edges = np.histogram(pictures, bins=64, range=(0, top))
    grey.stairs(counts / pictures.size, edges / top, fill=True, color=LOSS)
    grey.set(title="Grey values", xlabel="value (0 paper, 1 ink)", ylabel="share of pixels", yscale="log")
    ink.hist(pictures.mean((1, 2)) / top, bins=60, color=ACCURACY)
    ink.set(title="Brightness of an image", xlabel="mean value of its pixels", ylabel="images")
    for ax, values, title in ((mean, pictures.mean(0), "Mean"), (spread, pictures.std(0), "Standard deviation")):
        shown = ax.imshow(values / top, cmap="magma")
        ax.set(title=f"{title} of each pixel", xticks=[], yticks=[])
        figure.colorbar(shown, ax=ax, shrink=0.85)
    return figure


def plot_mean_digits(images, labels, classes: Sequence[str] = DIGITS) -> Figure:
    """The mean image of each class that occurs, and below it how much each pixel varies (standard deviation)."""
    pictures, top = _pictures(images)
    labels = _labels(labels, len(pictures), classes)
    present = np.unique(labels)
    figure, axes = _grid(2, len(present), (len(present) + 0.5, 2.3), bare=True)
    for (mean, spread), label in zip(axes.T, present, strict=True):
        members = pictures[labels == label]
        _show(mean, members.mean(0), top)
        spread.imshow(members.std(0) / top, cmap="magma", vmin=0, vmax=0.5)
        mean.set_title(classes[label])
    for ax, name in zip(axes[:, 0], ("mean", "deviation"), strict=True):
        ax.text(-0.1, 0.5, name, transform=ax.transAxes, ha="right", va="center", rotation=90)
    return figure


def plot_images(images, titles: Sequence[str] | None = None, columns: int = 10, side: float = 1.0) -> Figure:
    """Images in rows of `columns`, each under its title. Where values are negative, zero is white, positive red."""
    pictures, top = _pictures(images, titles)
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    lines = max((title.count("\n") + 1 for title in titles or []), default=0)
    figure, axes = _grid(rows, columns, (columns * side + 0.5, rows * (side + 0.16 * lines) + 0.3), bare=True)
    for ax, picture, title in zip(axes.flat, pictures, titles or [""] * len(pictures), strict=False):
        _show(ax, picture, top)
        ax.set_title(title, fontsize=9)
    return figure


def plot_maps(images, maps, titles: Sequence[str] | None = None, top: float | None = None) -> Figure:
    """Each image under its title, and below it a map of its pixels with the outline of its ink: red where the map is
    positive, blue where it is negative, on one scale for all of them, to ±top (None: the largest value)."""
    pictures, full = _pictures(images, titles)
    maps = _shaped("maps", _pictures(maps)[0], *pictures.shape)
    reach = top or float(np.abs(maps).max()) or 1.0
    figure, axes = _grid(2, len(pictures), (1.3 * len(pictures) + 0.4, 3.2), bare=True)
    for (above, below), picture, values, title in zip(axes.T, pictures, maps, titles or [""] * len(maps), strict=True):
        _show(above, picture, full)
        above.set_title(title, fontsize=9)
        below.imshow(values, cmap="RdBu_r", vmin=-reach, vmax=reach)
        below.contour(picture / full, [0.5], colors="#333", linewidths=0.6)
    return figure


def plot_points(points: Mapping[str, np.ndarray], labels, classes: Sequence[str] = DIGITS) -> Figure:
    """Images as points in a plane, (N, 2) by the title of the panel, coloured and named by their class."""
    labels = _labels(labels, len(labels), classes)
    figure, (axes,) = _grid(1, len(points), (5.2 * len(points), 5))
    for ax, (title, places) in zip(axes, points.items(), strict=True):
        places = _shaped("points", places, len(labels), 2)
        for label in np.unique(labels):
            members, colour = places[labels == label], plt.get_cmap("tab10")(label % 10)
            ax.scatter(*members.T, s=5, alpha=0.6, linewidths=0, color=colour)
            box = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": colour}
            ax.text(*np.median(members, axis=0), classes[label], ha="center", va="center", fontsize=12, bbox=box)
        ax.set(title=title, xticks=[], yticks=[])
    return figure


def plot_confusion(confusion, classes: Sequence[str] = DIGITS) -> Figure:
    """A confusion matrix (classes, classes), rows true, columns predicted: counts, the redder the more mistakes."""
    side = len(classes)
    counts = _shaped("the counts of a confusion matrix", confusion, side, side)
    mistakes = counts * (1 - np.eye(side, dtype=int))
    figure, ((ax,),) = _grid(1, 1, (6.6, 6.2))
    ax.imshow(np.ma.masked_equal(mistakes, 0), cmap="Reds", vmin=0, vmax=max(mistakes.max(), 1) * 1.4)
    for true, predicted in np.argwhere(counts > 0):
        style = {"color": ACCURACY, "fontweight": "bold"} if true == predicted else {"color": "black"}
        ax.text(predicted, true, f"{counts[true, predicted]:,}", ha="center", va="center", fontsize=9, **style)
    right = 1 - mistakes.sum() / max(counts.sum(), 1)
    ax.set_title(f"{mistakes.sum():,} mistakes in {counts.sum():,} images: {right:.2%} right")
    ax.set(xlabel="predicted", ylabel="true")
    _name_classes(ax, classes)
    ax.set_yticks(range(side), classes)
    ax.grid(visible=False)
    return figure


def plot_mistakes(images, labels, probabilities, count: int = 24, classes: Sequence[str] = DIGITS) -> Figure:
    """The worst mistakes: the images whose wrong answer was surest, with the true class, the answer, its probability.

    probabilities: (N, classes), each row sums to 1. Where everything is right, the figure says so.
    """
    pictures, _ = _pictures(images)
    labels = _labels(labels, len(pictures), classes)
    probabilities = _shaped("probabilities", probabilities, len(pictures), len(classes))
    predicted, sureness = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-sureness[wrong], kind="stable")][:count]
    if not len(worst):
        figure, ((ax,),) = _grid(1, 1, (6, 1), bare=True)
        ax.text(0.5, 0.5, f"no mistakes in {len(pictures):,} images", ha="center", va="center")
        return figure
    titles = [f"{classes[labels[i]]} taken for {classes[predicted[i]]}\n{sureness[i]:.1%}" for i in worst]
    return plot_images(pictures[worst], titles, columns=8, side=1.25)


def plot_feature_maps(model: nn.Module, image, channels: int = 12) -> Figure:
    """What the convolutional layers make of one image: the first `channels` maps after each ReLU and each pooling.

    image: (28, 28) or (1, 28, 28). Within a row, the same grey is the same value. The model's mode is as before.
    """
    pictures, top = _pictures(_array(image).reshape(1, *np.shape(image)[-2:]))
    maps = _layer_outputs(model, torch.from_numpy(pictures.astype(np.float32) / top)[:, None])
    if not maps:
        raise ImageError(f"{type(model).__name__} has no ReLU or pooling after a convolution to look into")
    rows = len(maps) + 1
    figure, axes = _grid(rows, channels, (0.9 * channels + 0.5, 1.05 * rows + 0.3), bare=True)
    _show(axes[0, 0], pictures[0], top)
    axes[0, 0].set_title("the image", fontsize=9, loc="left")
    for row, (name, values) in zip(axes[1:], maps, strict=True):
        brightest = max(values[:channels].max(), 1e-6)
        for ax, channel in zip(row, values, strict=False):
            ax.imshow(channel, cmap="gray", vmin=0, vmax=brightest)
        row[0].set_title(f"{name}: {' × '.join(map(str, values.shape))}", fontsize=9, loc="left")
    return figure


def plot_probabilities(probabilities, title: str = "", classes: Sequence[str] = DIGITS) -> Figure:
    """The probabilities of the classes for one image as bars, the likeliest in colour."""
    figure, ((ax,),) = _grid(1, 1, (5, 2.6))
    _bars(ax, probabilities, classes)
    ax.set_title(title)
    return figure


def plot_framings(images, titles: Sequence[str], probabilities, classes: Sequence[str] = DIGITS) -> Figure:
    """The same drawing framed in several ways: each 28×28 image under its title, with the probabilities below it."""
    pictures, top = _pictures(images, titles)
    probabilities = _shaped("probabilities", probabilities, len(pictures), len(classes))
    figure, axes = _grid(2, len(pictures), (3.2 * len(pictures), 4.6), height_ratios=(1.6, 1))
    for (image, bars), picture, title, row in zip(axes.T, pictures, titles, probabilities, strict=True):
        _show(image, picture, top)
        image.set_axis_off()
        image.set_title(title)
        _bars(bars, row, classes)
    return figure


def plot_curves(curves: Mapping[str, tuple], xlabel: str, ylabel: str, title: str = "", **settings) -> Figure:
    """Curves by name, each (x, y) of one length, in one figure; settings: of the axes, such as yscale="log"."""
    figure, ((ax,),) = _grid(1, 1, (7, 4.2))
    for name, (x, y) in curves.items():
        marks = {"marker": "o", "markersize": 4} if len(x) <= 60 else {"linewidth": 0.8}
        ax.plot(_array(x), _array(y), label=name, **marks)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title, **settings)
    ax.legend(frameon=False)
    return figure


def plot_reliability(tables: Mapping[str, pd.DataFrame], title: str = "", least: int = 10) -> Figure:
    """Reliability diagrams by name, as `calibration.reliability` makes them; bins of fewer than `least` images are not
    drawn: chance would move them more than what is to be seen. Dashed: where confidence is accuracy."""
    shown = {name: table[table["images"] >= least] for name, table in tables.items()}
    curves = {name: (table["confidence"], table["accuracy"]) for name, table in shown.items()}
    figure = plot_curves(curves, "how sure (mean probability of the answers)", "share that is right", title)
    figure.axes[0].axline((0, 0), slope=1, color="#555", linestyle="--", linewidth=1)
    figure.axes[0].set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    return figure


def _grid(rows: int, columns: int, size: tuple, bare: bool = False, **settings) -> tuple[Figure, np.ndarray]:
    """A figure and its axes (rows, columns), which pyplot does not keep: as a cell's value it is shown once.

    bare: without frames, ticks and gaps, for pictures.
    """
    if not columns:
        raise DataError("there is nothing to plot")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **settings)
    plt.close(figure)
    if bare:
        figure.get_layout_engine().set(w_pad=0.01, h_pad=0.03, wspace=0.02, hspace=0.02)
        for ax in axes.flat:
            ax.set_axis_off()
    return figure, axes


def _plot_steps(history: History, values: pd.Series, label: str, colour: str, *titles: str, **settings) -> Figure:
    """Curve of `values`, by the index of `history.steps`, on the axis of the whole run."""
    steps = history.steps
    figure, ax = _plot_run(steps.loc[values.index], "step", values, *titles, color=colour, linewidth=0.5, **settings)
    last, tick, per_epoch = steps["step"].iloc[-1], step_tick(history), steps["epoch"].value_counts().max()
    ax.set(ylabel=label, xlabel="training step", xlim=(-0.01 * last, 1.01 * last))
    if tick:
        ax.set_xticks(np.arange(0, last + 2, tick))
        ax.set_xlabel(f"training step (a tick every {tick / per_epoch:g} epoch{'s' if tick != per_epoch else ''})")
    ax.xaxis.set_major_formatter("{x:,.0f}")
    return figure


def _plot_epochs(history: History, column: str, label: str, colour: str, title: str) -> Figure:
    history.require_steps()
    epochs, values = history.epochs, history.epochs[column]
    if epochs.empty:
        raise HistoryError("no epoch of this run was finished, so nothing was evaluated: train for one epoch at least")
    note, best = "○ lowest: {best:.4g} in epoch {epoch:.0f}, last: {last:.4g}", "min"
    if column == "val_accuracy":
        values = 100 * values
        note, best = "○ highest: {best:.2f}% in epoch {epoch:.0f}, last: {last:.4g}%", "max"
    style = {"color": colour, "marker": "o", "markersize": 4}
    figure, ax = _plot_run(epochs, "epoch", values, title, note, best, from_zero=False, **style)
    ax.set(xlabel="epoch", ylabel=label)
    if len(epochs) <= 30:
        ax.set_xticks(epochs["epoch"])
    return figure


def _plot_run(
    table: pd.DataFrame, x: str, values: pd.Series, title: str, note: str, best: str = "", from_zero=True, **line
) -> tuple[Figure, Axes]:
    """A figure of the paper: `values` over the column `x` of `table`, with ticks at tenths of their range.

    note: a line above the axes, where it covers no data; best: "min" or "max" marks that value, and `note` is then a
    format of best, last and the columns of its row; from_zero: ticks from 0, where most are not below the curve then.
    """
    figure, ((ax,),) = _grid(1, 1, (9, 4.8))
    ax.plot(table[x], values, **line)
    if best and values.isna().all():
        note = "not a number anywhere"
    elif best:
        row = table.loc[values.idxmin() if best == "min" else values.idxmax()]
        note = note.format(best=values[row.name], last=values.iloc[-1], **row)
        ax.plot(row[x], values[row.name], "ok", markersize=8, fillstyle="none", clip_on=False, zorder=5)
    ax.set_title(title, loc="left", pad=22)
    ax.annotate(note, (0, 1), xytext=(0, 7), xycoords="axes fraction", textcoords="offset points", color="#555")
    low, high = values.min(), values.max()
    if low < high:
        lowest = 0 if from_zero and low <= high / paper.Y_TICKS else low
        ticks = np.linspace(lowest, high, paper.Y_TICKS + 1)
        ax.set_yticks(ticks)
        ax.yaxis.set_major_formatter(f"{{x:,.{max(0, 1 - math.floor(math.log10(ticks[1] - ticks[0])))}f}}")
    return figure, ax


def step_tick(history: History) -> int:
    """Steps between two ticks: the paper's 2.5 epochs (1,170 steps) for its 25, fewer for a shorter run.

    At most ten intervals. 0 when less than one epoch was trained, or its parts are not a whole number of steps.
    """
    if history.epochs.empty:
        return 0
    per_epoch = history.steps["epoch"].value_counts().max()
    ticks = [epochs * per_epoch for epochs in (0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)]
    return next((int(tick) for tick in ticks if len(history.steps) <= 10 * tick and tick % 1 == 0), 0)


def _bars(ax: Axes, probabilities, classes: Sequence[str]) -> None:
    values = _shaped("probabilities", _array(probabilities).ravel(), len(classes))
    colours = [ACCURACY if index == values.argmax() else QUIET for index in range(len(values))]
    bars = ax.bar(classes, values, color=colours)
    ax.bar_label(bars, [f"{value:.0%}" if value >= 0.005 else "" for value in values], fontsize=8)
    ax.set(ylim=(0, 1.12), yticks=(0, 0.5, 1), ylabel="probability")
    _name_classes(ax, classes)


def _name_classes(ax: Axes, classes: Sequence[str]) -> None:
    slant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, classes)) > 2 else {}
    ax.set_xticks(range(len(classes)), classes, **slant)
    ax.grid(axis="x", visible=False)


def _show(ax: Axes, picture: np.ndarray, top: float) -> None:
    reach = float(np.abs(picture).max())
    style = {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach} if picture.min() < 0 else {"cmap": "gray", "vmax": top}
    ax.imshow(picture, **{"vmin": 0, **style})


def _array(values) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _pictures(images, titles: Sequence[str] | None = None) -> tuple[np.ndarray, float]:
    """`images` as an array (N, height, width) of its own dtype, one per title, and the value that means full ink."""
    try:
        pictures = np.stack([_array(image) for image in images]) if isinstance(images, list | tuple) else _array(images)
        pictures = pictures.reshape(len(pictures), *pictures.shape[-2:])
    except ValueError as error:
        raise ImageError(f"images are an array (N, 28, 28) or (N, 1, 28, 28), or a list of such: {error}") from error
    if not pictures.size:
        raise ImageError(f"there are no images to show: the array is {pictures.shape}")
    if titles is not None and len(titles) != len(pictures):
        raise ImageError(f"{len(pictures)} images have {len(titles)} titles")
    return pictures, 255.0 if pictures.dtype == np.uint8 else 1.0


def _shaped(name: str, values, *shape: int) -> np.ndarray:
    values = _array(values)
    if values.shape != shape:
        raise DataError(f"{name} are an array of shape {shape} here, not {values.shape}")
    return values


def _labels(labels, count: int, classes: Sequence[str]) -> np.ndarray:
    values, last = _shaped("labels", labels, count), len(classes) - 1
    if not np.issubdtype(values.dtype, np.integer) or ((values < 0) | (values > last)).any():
        raise DataError(f"labels are whole numbers from 0 to {last}; these go from {values.min()} to {values.max()}")
    return values


def _layer_outputs(model: nn.Module, images: torch.Tensor) -> list[tuple[str, np.ndarray]]:
    outputs = []

    def keep(layer: nn.Module, _, output: torch.Tensor) -> None:
        if output.ndim == 4:
            outputs.append((type(layer).__name__, output[0].float().numpy().copy()))  # the next ReLU may work in place

    model = deepcopy(model).cpu().eval()  # the reader's stays as it is, and gets no hooks
    for layer in model.modules():
        if isinstance(layer, nn.ReLU | nn.MaxPool2d | nn.AvgPool2d):
            layer.register_forward_hook(keep)
    with torch.inference_mode():
        model(images.to(parameter_dtype(model)))
    return outputs
