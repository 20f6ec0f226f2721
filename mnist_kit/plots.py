"""Figures from a history, from images and from predictions. Each function returns a matplotlib Figure; none shows one.

Images are arrays or tensors (N, 28, 28) or (N, 1, 28, 28), uint8 0..255 or float 0..1; labels are integers 0..9 (N,).
Bad input raises HistoryError (nothing to draw in a history), ImageError (no images, wrong shape) or DataError (labels).
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from torch import nn

from mnist_kit import paper
from mnist_kit.errors import DataError, HistoryError, ImageError, StorageError
from mnist_kit.files import figures_folder, write_atomically
from mnist_kit.history import History

DIGITS = tuple("0123456789")

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
    """Figure 3: training loss of every step, the lowest marked. With `cut` (figure 4: 0.5) only the losses below it."""
    history.require_steps()
    steps = history.steps
    shown = steps if cut is None else steps[steps["loss"] < cut]
    if shown.empty:
        raise HistoryError(f"no step has a loss below the cut {cut}: the lowest is {steps['loss'].min():.4g}")
    figure, ax = _step_axes(history, "training loss (cross-entropy)")
    ax.plot(shown["step"], shown["loss"], color=LOSS, linewidth=0.4)
    _ten_ticks(ax, shown["loss"], from_zero=True)
    summary = history.summary()
    lowest, step, epoch = summary[["lowest_step_loss", "lowest_step_loss_step", "lowest_step_loss_epoch"]]
    note = "no loss is a number"
    if not math.isnan(lowest):
        _mark(ax, step, lowest)
        note = f"○ lowest: {lowest:.3g} at step {step:,}, epoch {epoch}"
    _title(ax, "Training loss of every step" + ("" if cut is None else f", cut at loss < {cut:g}"), note)
    return figure


def plot_loss_cut(history: History, cut: float = paper.LOSS_CUT) -> Figure:
    """Figure 4: the training losses below `cut`, or all of them while none is that low."""
    history.require_steps()
    return plot_loss(history, cut if (history.steps["loss"] < cut).any() else None)


def plot_step_seconds(history: History) -> Figure:
    """Figure 5: seconds of every step; the last step of an epoch carries the evaluation that follows it."""
    history.require_steps()
    steps, epochs = history.steps, history.epochs
    seconds = steps["seconds"].to_numpy(copy=True)
    last_steps = steps["epoch"].drop_duplicates(keep="last")
    evaluation = last_steps.map(epochs.set_index("epoch")["eval_seconds"]).fillna(0)
    seconds[steps.index.get_indexer(last_steps.index)] += evaluation
    figure, ax = _step_axes(history, "seconds a step")
    ax.plot(steps["step"], seconds, color=TIME, linewidth=0.6)
    _ten_ticks(ax, seconds, from_zero=True)
    total, evaluated = steps["seconds"].sum(), epochs["eval_seconds"].sum()
    note = f"steps {total:,.1f} s in all, mean {total / len(steps):.4g} s; evaluations {evaluated:,.1f} s in all"
    _title(ax, "Time of every step, with preparation and evaluation", note)
    return figure


def plot_step_seconds_cut(history: History) -> Figure:
    """Figure 6: seconds of the steps under the cut, 0.04 s or what suits the machine (`History.seconds_cut`)."""
    cut = history.seconds_cut()
    shown = history.steps[history.steps["seconds"] < cut]
    figure, ax = _step_axes(history, "seconds a step")
    ax.plot(shown["step"], shown["seconds"], color=CUT_TIME, linewidth=0.4)
    _ten_ticks(ax, shown["seconds"])
    total, share = shown["seconds"].sum(), len(shown) / len(history.steps)
    note = f"{share:.2%} of the steps: {total:,.1f} s in all, mean {total / len(shown):.4g} s"
    _title(ax, f"Time of every step, cut at < {cut:.2g} s", note)
    return figure


def plot_val_loss(history: History) -> Figure:
    """Figure 7: test loss after each epoch, the lowest marked."""
    return _plot_epochs(history, "val_loss", "test loss (cross-entropy)", TEST_LOSS, "Test loss after each epoch")


def plot_train_loss(history: History) -> Figure:
    """Figure 8: training loss of each epoch, the mean of its steps, the lowest marked."""
    return _plot_epochs(history, "loss", "training loss (cross-entropy)", TRAIN_LOSS, "Training loss of each epoch")


def plot_val_accuracy(history: History) -> Figure:
    """Figure 9: accuracy on the test set after each epoch, the highest marked."""
    return _plot_epochs(history, "val_accuracy", "test accuracy", ACCURACY, "Accuracy on the test set after each epoch")


# The paper's plots by the name they are saved under.
PAPER_FIGURES = {
    "fig3_loss": plot_loss,
    "fig4_loss_cut": plot_loss_cut,
    "fig5_step_seconds": plot_step_seconds,
    "fig6_step_seconds_cut": plot_step_seconds_cut,
    "fig7_val_loss": plot_val_loss,
    "fig8_train_loss": plot_train_loss,
    "fig9_val_accuracy": plot_val_accuracy,
}


def plot_samples(images, labels, per_class: int = 16, classes: Sequence[str] = DIGITS, seed: int = 0) -> Figure:
    """Figure 1: a row of `per_class` random samples for each class that occurs."""
    pictures, top = _pictures(images)
    labels = _labels(labels, len(pictures))
    random = np.random.default_rng(seed)
    present = np.unique(labels)
    (height, width), gap = pictures.shape[1:], 2
    # One picture of all of them: 160 axes would take seconds.
    sheet = np.full((len(present) * (height + gap), per_class * (width + gap)), top, dtype=pictures.dtype)
    for row, label in enumerate(present):
        members = np.flatnonzero(labels == label)
        for column, index in enumerate(random.choice(members, min(per_class, len(members)), replace=False)):
            y, x = row * (height + gap), column * (width + gap)
            sheet[y : y + height, x : x + width] = pictures[index]
    figure, (ax,) = _axes(1, size=(0.55 * per_class + 1, 0.55 * len(present) + 0.2))
    _show(ax, sheet, top)
    ax.set_yticks((np.arange(len(present)) + 0.5) * (height + gap), [classes[label] for label in present], fontsize=12)
    ax.set_xticks([])
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    return figure


def plot_class_balance(labels: Mapping[str, Sequence[int]], classes: Sequence[str] = DIGITS) -> Figure:
    """How many images each class has in each split: `labels` by the split's name, e.g. {"train": …, "test": …}."""
    figure, all_axes = _axes(len(labels), size=(4.5 * len(labels), 3.4))
    for ax, (name, values), colour in zip(
        all_axes, labels.items(), (LOSS, TEST_LOSS, ACCURACY, CUT_TIME), strict=False
    ):
        counts = np.bincount(_labels(values), minlength=10)
        bars = ax.bar(classes, counts, color=colour)
        # Inside the bars, where the line of the mean does not strike them out.
        numbers = [f"{count:,}" for count in counts]
        ax.bar_label(bars, numbers, label_type="center", rotation=90, fontsize=9, color="white")
        ax.axhline(counts.mean(), color="#222", linewidth=0.8, linestyle="--")
        ax.set(title=f"{name}: {counts.sum():,} images, dashed: the mean", xlabel="class", ylabel="images")
        ax.grid(axis="x", visible=False)
        _name_classes(ax, classes)
    return figure


def plot_pixel_statistics(images) -> Figure:
    """How often each grey value occurs, how much ink an image has, and the mean and spread of each of its pixels."""
    pictures, top = _pictures(images)
    figure, (grey, ink, mean, spread) = _axes(4, size=(13, 3.2))
    counts, edges = np.histogram(pictures, bins=64, range=(0, top))
    grey.stairs(counts / pictures.size, edges / top, fill=True, color=LOSS)
    grey.set(title="Grey values", xlabel="value (0 paper, 1 ink)", ylabel="share of pixels", yscale="log")
    ink.hist(pictures.mean((1, 2)) / top, bins=60, color=ACCURACY)
    ink.set(title="Ink of an image", xlabel="mean value of its pixels", ylabel="images")
    for ax, values, title in ((mean, pictures.mean(0), "Mean"), (spread, pictures.std(0), "Standard deviation")):
        shown = ax.imshow(values / top, cmap="magma")
        ax.set(title=f"{title} of each pixel", xticks=[], yticks=[])
        ax.grid(visible=False)
        figure.colorbar(shown, ax=ax, shrink=0.85)
    return figure


def plot_mean_digits(images, labels, classes: Sequence[str] = DIGITS) -> Figure:
    """The mean image of each class that occurs, and below it how much each pixel varies (standard deviation)."""
    pictures, top = _pictures(images)
    labels = _labels(labels, len(pictures))
    present = np.unique(labels)
    figure, axes = _image_grid(2, len(present), side=1.0)
    for (mean, spread), label in zip(axes.T, present, strict=True):
        members = pictures[labels == label]
        _show(mean, members.mean(0), top)
        spread.imshow(members.std(0) / top, cmap="magma", vmin=0, vmax=0.5)
        mean.set_title(classes[label], loc="center")
    for ax, name in zip(axes[:, 0], ("mean", "deviation"), strict=True):
        ax.text(-0.1, 0.5, name, transform=ax.transAxes, ha="right", va="center", rotation=90)
    return figure


def plot_images(images, titles: Sequence[str] | None = None, columns: int = 10, side: float = 1.0) -> Figure:
    """Images in rows of `columns`, each under its title. Where values are negative, zero is white, positive red."""
    pictures, top = _pictures(images)
    if titles is not None and len(titles) != len(pictures):
        raise ImageError(f"{len(pictures)} images have {len(titles)} titles")
    columns = min(columns, len(pictures))
    lines = max(title.count("\n") + 1 for title in titles) if titles else 0
    figure, axes = _image_grid(math.ceil(len(pictures) / columns), columns, side, title_space=0.16 * lines)
    for index, (ax, picture) in enumerate(zip(axes.flat, pictures, strict=False)):
        _show(ax, picture, top)
        if titles is not None:
            ax.set_title(titles[index], fontsize=9, loc="center")
    return figure


def plot_confusion(confusion, classes: Sequence[str] = DIGITS) -> Figure:
    """A confusion matrix (10, 10), rows true, columns predicted: counts, mistakes the redder the more there are."""
    counts = np.asarray(confusion)
    if counts.shape != (10, 10):
        raise DataError(f"a confusion matrix of 10 classes is 10×10, not {'×'.join(map(str, counts.shape))}")
    mistakes = counts * (1 - np.eye(10, dtype=int))
    figure, (ax,) = _axes(1, size=(6.6, 6.2))
    ax.imshow(np.ma.masked_equal(mistakes, 0), cmap="Reds", vmin=0, vmax=max(mistakes.max(), 1) * 1.4)
    for true, predicted in np.argwhere(counts > 0):
        right = true == predicted
        style = {"color": ACCURACY, "fontweight": "bold"} if right else {"color": "black"}
        ax.text(predicted, true, f"{counts[true, predicted]:,}", ha="center", va="center", fontsize=9, **style)
    total = max(counts.sum(), 1)
    ax.set_title(f"{mistakes.sum():,} mistakes in {counts.sum():,} images: {1 - mistakes.sum() / total:.2%} right")
    ax.set(xlabel="predicted", ylabel="true")
    _name_classes(ax, classes)
    ax.set_yticks(range(10), classes)
    ax.grid(visible=False)
    return figure


def plot_mistakes(images, labels, probabilities, count: int = 24, classes: Sequence[str] = DIGITS) -> Figure:
    """The worst mistakes: the images whose wrong answer was surest, with the true class, the answer, its probability.

    probabilities: (N, 10), rows sum to 1. Where everything is right, the figure says so.
    """
    pictures, _ = _pictures(images)
    labels = _labels(labels, len(pictures))
    probabilities = _array(probabilities)
    if probabilities.shape != (len(pictures), 10):
        raise DataError(f"probabilities of {len(pictures)} images are ({len(pictures)}, 10), not {probabilities.shape}")
    predicted, sureness = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-sureness[wrong], kind="stable")][:count]
    if not len(worst):
        figure, (ax,) = _axes(1, size=(6, 1))
        ax.text(0.5, 0.5, f"no mistakes in {len(pictures):,} images", ha="center", va="center")
        ax.set_axis_off()
        return figure
    titles = [f"{classes[labels[i]]} taken for {classes[predicted[i]]}\n{sureness[i]:.1%}" for i in worst]
    return plot_images(pictures[worst], titles, columns=8, side=1.25)


def plot_filters(model: nn.Module) -> Figure:
    """The filters of the first convolution, negative weights blue, positive red."""
    first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None:
        raise ImageError(f"{type(model).__name__} has no convolution whose filters could be shown")
    return plot_images(_array(first.weight)[:, 0], columns=16, side=0.6)


def plot_feature_maps(model: nn.Module, image, channels: int = 12) -> Figure:
    """What the convolutional layers make of one image: the first `channels` maps after each ReLU and each pooling.

    image: (28, 28) or (1, 28, 28). Within a row, the same grey is the same value. The model's mode is as before.
    """
    pictures, top = _pictures(_array(image).reshape(1, *np.shape(image)[-2:]))
    maps = _layer_outputs(model, torch.from_numpy(pictures.astype(np.float32) / top)[:, None])
    if not maps:
        raise ImageError(f"{type(model).__name__} has no ReLU or pooling after a convolution to look into")
    figure, axes = _image_grid(len(maps) + 1, channels, side=0.9, title_space=0.15)
    _show(axes[0, 0], pictures[0], top)
    axes[0, 0].set_title("the image", fontsize=9, loc="left")
    for row, (name, values) in zip(axes[1:], maps, strict=True):
        brightest = max(values[:channels].max(), 1e-6)
        for ax, channel in zip(row, values, strict=False):
            ax.imshow(channel, cmap="gray", vmin=0, vmax=brightest)
        row[0].set_title(f"{name}: {' × '.join(map(str, values.shape))}", fontsize=9, loc="left")
    return figure


def plot_probabilities(probabilities, title: str = "", classes: Sequence[str] = DIGITS) -> Figure:
    """The ten probabilities of one image as bars, the likeliest in colour."""
    figure, (ax,) = _axes(1, size=(5, 2.6))
    _bars(ax, probabilities, classes)
    ax.set_title(title)
    return figure


def plot_framings(images, titles: Sequence[str], probabilities, classes: Sequence[str] = DIGITS) -> Figure:
    """The same drawing framed in several ways: each 28×28 image under its title, with the probabilities below it."""
    pictures, top = _pictures(images)
    probabilities = _array(probabilities)
    if not len(pictures) == len(titles) == len(probabilities):
        raise ImageError(f"{len(pictures)} images, {len(titles)} titles, {len(probabilities)} rows of probabilities")
    with plt.rc_context(STYLE):
        size = (3.2 * len(pictures), 4.6)
        figure, axes = plt.subplots(
            2, len(pictures), figsize=size, squeeze=False, height_ratios=(1.6, 1), layout="constrained"
        )
    plt.close(figure)
    for (image, bars), picture, title, row in zip(axes.T, pictures, titles, probabilities, strict=True):
        _show(image, picture, top)
        image.set_axis_off()
        image.set_title(title, loc="center")
        _bars(bars, row, classes)
    return figure


def _axes(columns: int, size: tuple[float, float]) -> tuple[Figure, Sequence[Axes]]:
    """A figure that pyplot does not keep: as a cell's value it is shown once, and no figure is left in memory."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, columns, figsize=size, squeeze=False, layout="constrained")
    plt.close(figure)
    return figure, axes[0]


def _image_grid(rows: int, columns: int, side: float, title_space: float = 0.0) -> tuple[Figure, np.ndarray]:
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(columns * side + 0.5, rows * (side + title_space) + 0.3),
        squeeze=False,
        layout="constrained",
    )
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.03, wspace=0.02, hspace=0.02)
    plt.close(figure)
    for ax in axes.flat:
        ax.set_axis_off()
    return figure, axes


def _step_axes(history: History, label: str) -> tuple[Figure, Axes]:
    figure, (ax,) = _axes(1, size=(9, 4.8))
    steps = history.steps["step"]
    tick, epochs = step_tick(history)
    if tick:
        ax.xaxis.set_major_locator(FixedLocator(np.arange(0, steps.iloc[-1] + 2, tick)))
        ax.set_xlabel(f"training step (a tick every {epochs:g} epoch{'s' if epochs != 1 else ''})")
    else:
        ax.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        ax.set_xlabel("training step")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    ax.set_ylabel(label)
    ax.set_xlim(-0.01 * steps.iloc[-1], 1.01 * steps.iloc[-1])
    return figure, ax


def step_tick(history: History) -> tuple[int, float]:
    """Steps and epochs between two ticks: the paper's 2.5 epochs (1,170 steps) for its 25, fewer for a shorter run.

    At most ten intervals. (0, 0) when less than one epoch was trained, or its parts are no whole number of steps.
    """
    per_epoch = int((history.steps["epoch"] == history.steps["epoch"].iloc[0]).sum())
    total = len(history.steps)
    if total <= per_epoch and history.epochs.empty:
        return 0, 0
    for epochs in (0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250):
        tick = epochs * per_epoch
        if total / tick <= 10 and tick == int(tick):
            return int(tick), epochs
    return 0, 0


def _ten_ticks(ax: Axes, values, from_zero: bool = False) -> None:
    """Ticks at tenths of the range of `values`, from 0 or from the lowest, as the paper has them."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if not len(values) or values.max() == values.min():
        return
    step = (values.max() - values.min()) / paper.Y_TICKS
    from_zero = from_zero and values.min() <= step  # else most ticks would lie below the curve
    start = 0.0 if from_zero else values.min()
    if from_zero:
        ax.set_ylim(bottom=-step / 2)
    ax.yaxis.set_major_locator(FixedLocator(np.arange(start, values.max() + step / 2, step)))
    decimals = max(0, 1 - math.floor(math.log10(step)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.{decimals}f}"))


def _plot_epochs(history: History, column: str, label: str, colour: str, title: str) -> Figure:
    history.require_steps()
    epochs = history.epochs
    if epochs.empty:
        raise HistoryError("no epoch of this run was finished, so nothing was evaluated: train for one epoch at least")
    share = column == "val_accuracy"
    values = epochs[column] * (100 if share else 1)
    figure, (ax,) = _axes(1, size=(9, 4.8))
    ax.plot(epochs["epoch"], values, color=colour, marker="o", markersize=4)
    ax.xaxis.set_major_locator(FixedLocator(epochs["epoch"]) if len(epochs) <= 30 else MaxNLocator(15, integer=True))
    _ten_ticks(ax, values)
    note = "not a number in any epoch"
    if values.notna().any():
        row = values.idxmax() if share else values.idxmin()
        _mark(ax, epochs["epoch"][row], values[row])
        note = f"○ highest: {values[row]:.2f}%" if share else f"○ lowest: {values[row]:.4g}"
        note += f" in epoch {epochs['epoch'][row]}, last: {values.iloc[-1]:.4g}" + ("%" if share else "")
    ax.set(xlabel="epoch", ylabel=label + (" (%)" if share else ""))
    _title(ax, title, note)
    return figure


def _mark(ax: Axes, x: float, y: float) -> None:
    ax.plot(x, y, marker="o", markersize=8, markerfacecolor="none", markeredgecolor="black", clip_on=False, zorder=5)


def _title(ax: Axes, text: str, note: str) -> None:
    """A title and, below it, a line with the numbers: above the axes, where they cover no data."""
    ax.set_title(text, loc="left", pad=22)
    ax.annotate(note, (0, 1), xytext=(0, 7), xycoords="axes fraction", textcoords="offset points", color="#555")


def _bars(ax: Axes, probabilities, classes: Sequence[str]) -> None:
    values = _array(probabilities).ravel()
    if values.shape != (10,):
        raise DataError(f"one image has ten probabilities, not {len(values)}")
    colours = [QUIET] * 10
    colours[int(values.argmax())] = ACCURACY
    bars = ax.bar(classes, values, color=colours)
    ax.bar_label(bars, [f"{value:.0%}" if value >= 0.005 else "" for value in values], fontsize=8)
    ax.set(ylim=(0, 1.12), yticks=(0, 0.5, 1), ylabel="probability")
    ax.grid(axis="x", visible=False)
    _name_classes(ax, classes)


def _name_classes(ax: Axes, classes: Sequence[str]) -> None:
    slant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, classes)) > 2 else {}
    ax.set_xticks(range(len(classes)), classes, **slant)


def _show(ax: Axes, picture: np.ndarray, top: float) -> None:
    if picture.min() < 0:
        reach = float(np.abs(picture).max())
        ax.imshow(picture, cmap="RdBu_r", vmin=-reach, vmax=reach)
    else:
        ax.imshow(picture, cmap="gray", vmin=0, vmax=top)


def _array(values) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _pictures(images) -> tuple[np.ndarray, float]:
    """`images` as an array (N, height, width) of its own dtype, and the value that means full ink."""
    if isinstance(images, list | tuple):
        images = [_array(image) for image in images]
        if len({image.shape for image in images}) > 1:
            raise ImageError("the images differ in shape, so they are no array (N, height, width)")
    pictures = _array(images)
    if pictures.ndim == 4 and pictures.shape[1] == 1:
        pictures = pictures[:, 0]
    if pictures.ndim != 3:
        raise ImageError(f"images are an array (N, 28, 28) or (N, 1, 28, 28), not {pictures.shape}")
    if pictures.size == 0:
        raise ImageError(f"there are no images to show: the array is {pictures.shape}")
    return pictures, 255.0 if pictures.dtype == np.uint8 else 1.0


def _labels(labels, count: int | None = None) -> np.ndarray:
    values = _array(labels)
    if count is not None and values.shape != (count,):
        raise DataError(f"{count} images need labels of shape ({count},), not {values.shape}")
    if values.size and (values.min() < 0 or values.max() > 9 or not np.issubdtype(values.dtype, np.integer)):
        raise DataError(f"labels are whole numbers from 0 to 9; these go from {values.min()} to {values.max()}")
    return values


def _layer_outputs(model: nn.Module, images: torch.Tensor) -> list[tuple[str, np.ndarray]]:
    outputs = []

    def keep(layer: nn.Module, _, output: torch.Tensor) -> None:
        if output.ndim == 4:
            outputs.append((type(layer).__name__, output[0].cpu().numpy().copy()))  # the next ReLU may work in place

    layers = [layer for layer in model.modules() if isinstance(layer, nn.ReLU | nn.MaxPool2d | nn.AvgPool2d)]
    hooks = [layer.register_forward_hook(keep) for layer in layers]
    was_training, device = model.training, next(model.parameters()).device
    try:
        with torch.inference_mode():
            model.eval()(images.to(device))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return outputs
