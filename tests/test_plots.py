import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from test_history import made_history
from torch import nn

from mnist_kit import paper, plots
from mnist_kit.calibration import reliability
from mnist_kit.errors import DataError, HistoryError, ImageError, StorageError
from mnist_kit.history import History
from mnist_kit.models import Net

IMAGES = torch.arange(12 * 784, dtype=torch.int64).remainder(256).to(torch.uint8).reshape(12, 1, 28, 28)
LABELS = torch.arange(12) % 10
PAPER_FIGURES = (
    plots.plot_loss,
    plots.plot_loss_cut,
    plots.plot_step_seconds,
    plots.plot_step_seconds_cut,
    plots.plot_val_loss,
    plots.plot_train_loss,
    plots.plot_val_accuracy,
)


@pytest.fixture(scope="module")
def papers_run() -> History:
    """A made run of the paper's length whose losses are known: falling from 2 to 0.01, lowest at step 9823."""
    losses = np.geomspace(2, 0.01, paper.STEPS)
    losses[9822] = 0.000295
    return made_history(losses=losses, epochs=25, seconds=0.0136)


def title(figure) -> str:
    ax = figure.axes[0]
    return " ".join([ax.get_title(loc="left"), *(text.get_text() for text in ax.texts)])


def ticks(axis) -> list[float]:
    return list(axis.get_major_locator()())


def test_the_axes_have_the_papers_ticks(papers_run):
    for draw in PAPER_FIGURES[:4]:
        ax = draw(papers_run).axes[0]
        assert ticks(ax.xaxis) == list(range(0, 11_701, 1_170)) and "2.5 epochs" in ax.get_xlabel()
    assert np.allclose(ticks(plots.plot_loss(papers_run).axes[0].yaxis), np.linspace(0, 2, 11))
    assert len(ticks(plots.plot_loss(made_history(losses=(2.31, 2.30))).axes[0].yaxis)) == 11
    assert np.allclose(ticks(plots.plot_val_loss(papers_run).axes[0].yaxis), np.linspace(1 / 25, 1, 11))


@pytest.mark.parametrize(
    ("steps", "epochs", "expected"),
    [(11_700, 25, 1_170), (1_872, 4, 234), (468, 1, 117), (46_800, 100, 4_680), (100, 2, 25), (10, 10, 1), (3, 1, 3)],
)
def test_shorter_and_longer_runs_keep_readable_ticks(steps, epochs, expected):
    assert plots.step_tick(made_history(losses=[1.0] * steps, epochs=epochs)) == expected


def test_the_figures_name_the_lowest_and_the_highest(papers_run):
    assert "0.000295 at step 9,823, epoch 21" in title(plots.plot_loss(papers_run))
    assert "lowest: 0.04 in epoch 25" in title(plots.plot_val_loss(papers_run))
    assert "lowest" in title(plots.plot_train_loss(papers_run))
    assert "highest: 115.00% in epoch 25" in title(plots.plot_val_accuracy(papers_run))
    assert "159.1 s in total, 0.0136 s per step" in title(plots.plot_step_seconds_cut(papers_run))


def test_the_cuts_are_the_papers(papers_run):
    losses = plots.plot_loss_cut(papers_run).axes[0].lines[0].get_ydata()
    assert max(losses) < 0.5
    assert len(losses) == (papers_run.steps["loss"] < 0.5).sum()
    delayed = History(papers_run.steps.copy(), papers_run.epochs)
    delayed.steps.loc[5, "seconds"] = 0.05
    assert len(plots.plot_step_seconds_cut(delayed).axes[0].lines[0].get_ydata()) == paper.STEPS - 1


def test_evaluation_is_in_the_last_step_of_each_epoch():
    seconds = plots.plot_step_seconds(made_history()).axes[0].lines[0].get_ydata()
    assert list(seconds) == pytest.approx([0.01, 0.01, 0.51, 0.01, 0.01, 0.51])


@pytest.mark.parametrize("draw", PAPER_FIGURES)
def test_odd_histories_are_drawn_or_named(draw):
    one_step = made_history(losses=(1.0,), epochs=1)
    nan = made_history(losses=(math.nan,) * 4)
    nan.epochs["val_loss"] = math.nan
    for history in (one_step, nan):
        draw(history).canvas.draw()
    with pytest.raises(HistoryError, match="0 steps"):
        draw(History(one_step.steps.iloc[:0], one_step.epochs.iloc[:0]))


def test_without_a_finished_epoch_the_epoch_figures_say_so():
    history = made_history()
    stopped = History(history.steps.iloc[:2], history.epochs.iloc[:0])
    assert plots.step_tick(stopped) == 0
    with pytest.raises(HistoryError, match="no epoch of this run was finished"):
        plots.plot_val_loss(stopped)


def test_a_cut_that_leaves_nothing_is_none():
    assert "cut" not in title(plots.plot_loss_cut(made_history(losses=(3.0, 2.0))))


def test_saved_figures_are_pictures_of_300_dpi(home, papers_run):
    path = plots.save_figure(plots.plot_loss(papers_run), "reference/fig3_loss")
    assert path == home / "figs" / "reference" / "fig3_loss.png"
    with Image.open(path) as picture:
        assert picture.size == (2700, 1440)
        assert round(picture.info["dpi"][0]) == 300
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    blue = (pixels[:, 2] > pixels[:, 0].astype(int) + 60).mean()
    assert 0.0005 < blue < 0.5
    assert [file.name for file in path.parent.iterdir()] == ["fig3_loss.png"]


@pytest.mark.parametrize("name", ["", "../up", "/tmp/x", "a/b/c", "with space"])
def test_names_that_lead_elsewhere_are_refused(name):
    with pytest.raises(StorageError, match="not a name for a figure"):
        plots.save_figure(plots.plot_images(IMAGES), name)


def test_every_figure_of_images_is_drawn_and_none_stays_in_pyplot():
    probabilities = torch.eye(10)[(LABELS + 1) % 10]
    figures = [
        plots.plot_samples(IMAGES, LABELS, per_class=3),
        plots.plot_class_balance({"train": LABELS, "test": LABELS[:4]}, classes=["a long name"] * 9 + ["b"]),
        plots.plot_pixel_statistics(IMAGES),
        plots.plot_mean_digits(IMAGES, LABELS),
        plots.plot_images(IMAGES, [str(int(label)) for label in LABELS], columns=5),
        plots.plot_confusion(np.eye(10, dtype=int) * 5),
        plots.plot_mistakes(IMAGES, LABELS, probabilities),
        plots.plot_mistakes(IMAGES, LABELS, torch.eye(10)[LABELS]),
        plots.plot_probabilities(probabilities[0], "seven"),
        plots.plot_framings(list(IMAGES[:2].float() / 255), ["one", "two"], probabilities[:2]),
        plots.plot_maps(IMAGES[:3], torch.zeros(3, 28, 28), ["a", "b", "c"]),
        plots.plot_points({"a": torch.rand(12, 2), "b": torch.rand(12, 2)}, LABELS),
    ]
    for figure in figures:
        figure.canvas.draw()
    assert plt.get_fignums() == []


def test_the_worst_mistake_comes_first():
    probabilities = torch.full((3, 10), 0.01)
    probabilities[0, 0], probabilities[1, 7], probabilities[2, 8] = 0.9, 0.6, 0.8  # labels 0, 1, 2: the last two wrong
    figure = plots.plot_mistakes(IMAGES[:3], LABELS[:3], probabilities)
    shown = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert shown == ["2 taken for 8\n80.0%", "1 taken for 7\n60.0%"]


def test_feature_maps_leave_the_model_as_it_was():
    model = Net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    figure = plots.plot_feature_maps(model, IMAGES[0], channels=4)
    assert [ax.get_title(loc="left") for ax in figure.axes if ax.get_title(loc="left")] == [
        "the image",
        "ReLU: 32 × 28 × 28",
        "ReLU: 64 × 28 × 28",
        "MaxPool2d: 64 × 14 × 14",
        "ReLU: 128 × 14 × 14",
        "MaxPool2d: 128 × 7 × 7",
    ]
    assert model.training and not any(layer._forward_hooks for layer in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_feature_maps_of_networks_of_other_types(dtype):
    assert len(plots.plot_feature_maps(Net().to(dtype), IMAGES[0]).axes) == 72


LINEAR = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


@pytest.mark.parametrize(
    ("draw", "arguments", "error", "message"),
    [
        (plots.plot_feature_maps, [LINEAR, IMAGES[0]], ImageError, "Sequential has no"),
        (plots.plot_images, [IMAGES[:0]], ImageError, "no images to show"),
        (plots.plot_images, [[np.zeros((28, 28)), np.zeros((1, 1))]], ImageError, "same shape"),
        (plots.plot_images, [IMAGES, ["one"]], ImageError, "titles"),
        (plots.plot_pixel_statistics, [np.zeros((28, 28))], ImageError, r"\(N, 28, 28\)"),
        (plots.plot_framings, [IMAGES[:2], ["one"], torch.eye(10)[:2]], ImageError, "2 images have 1 titles"),
        (plots.plot_samples, [IMAGES, [10] * 12], DataError, "whole numbers from 0 to 9"),
        (plots.plot_samples, [IMAGES, [-1] * 12], DataError, "whole numbers from 0 to 9"),
        (plots.plot_samples, [IMAGES, [0.5] * 12], DataError, "whole numbers from 0 to 9"),
        (plots.plot_mean_digits, [IMAGES, LABELS[:3]], DataError, r"shape \(12,\)"),
        (plots.plot_confusion, [np.eye(3)], DataError, r"shape \(10, 10\)"),
        (plots.plot_mistakes, [IMAGES, LABELS, torch.eye(10)], DataError, r"probabilities .* \(12, 10\)"),
        (plots.plot_maps, [IMAGES, torch.zeros(3, 28, 28)], DataError, r"maps .* \(12, 28, 28\)"),
        (plots.plot_points, [{"a": np.zeros((3, 2))}, LABELS], DataError, r"points .* \(12, 2\)"),
        (plots.plot_probabilities, [[0.5, 0.5]], DataError, r"probabilities .* \(10,\)"),
        (plots.plot_points, [{}, LABELS], DataError, "nothing to plot"),
        (plots.plot_class_balance, [{}], DataError, "nothing to plot"),
    ],
)
def test_bad_input_is_named(draw, arguments, error, message):
    with pytest.raises(error, match=message):
        draw(*arguments)


def test_maps_share_one_scale_and_zero_is_white():
    maps = torch.stack([torch.full((28, 28), 0.25), torch.full((28, 28), -1.0)])
    shown = [ax.images[0].get_clim() for ax in plots.plot_maps(IMAGES[:2], maps).axes[2:]]
    assert shown == [(-1, 1), (-1, 1)]


def test_curves_are_drawn_as_given():
    curves = {"a": ([1, 2, 3], [0.1, 0.2, 0.4]), "b": (torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))}
    ax = plots.plot_curves(curves, "x", "y", "title", yscale="log").axes[0]
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0.1, 0.2, 0.4], [3.0, 4.0]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("x", "y", "log")


def test_a_reliability_diagram_leaves_out_bins_of_few_images():
    random = np.random.default_rng(0)
    confidence = np.concatenate([random.uniform(0.91, 0.99, 100), random.uniform(0.61, 0.69, 50), [0.75, 0.78]])
    right = np.arange(len(confidence)) % 2 == 0
    table = reliability(np.stack([confidence, 1 - confidence], axis=1), np.where(right, 0, 1))
    line = plots.plot_reliability({"a network": table}).axes[0].lines[0]
    assert line.get_xdata() == pytest.approx([confidence[100:150].mean(), confidence[:100].mean()])
    assert line.get_ydata() == pytest.approx([0.5, 0.5])
