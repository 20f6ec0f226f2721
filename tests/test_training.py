from dataclasses import replace

import pandas as pd
import pytest
import torch
from conftest import InDouble, Spoil, StopAt, net, small_model
from torch import nn
from torch.nn import functional
from torchvision.transforms.functional import to_tensor

from mnist_kit.errors import LossNotFinite, TrainingError
from mnist_kit.evaluation import evaluate
from mnist_kit.history import EPOCHS, STEPS
from mnist_kit.recipes import PAPER, Recipe
from mnist_kit.training import Callback, fit, seed_of

BRIEF = Recipe("brief", epochs=2, batch_size=25, train_images=100)  # 2 × 4 steps
ABSENT = "cuda" if not torch.cuda.is_available() else "mps"


@pytest.mark.parametrize("ema", [None, 0.9999])
def test_it_learns(tiny, ema):
    """An average of the weights forgets the initial ones; at a constant decay that would take 10,000 steps."""
    model = small_model()
    recipe = Recipe("", epochs=4, batch_size=30, learning_rate=0.01, schedule="one-cycle", ema=ema)
    history = fit(model, tiny, recipe)
    assert history.epochs["val_accuracy"].iloc[-1] > 0.9
    assert history.epochs["loss"].iloc[-1] < history.epochs["loss"].iloc[0] / 2
    assert evaluate(model, tiny.test).accuracy == history.epochs["val_accuracy"].iloc[-1]


def test_the_tables_of_a_run(tiny):
    history = fit(small_model(), tiny, replace(BRIEF, train_images=110), device="cpu")  # 10 images left over
    steps, epochs = history.steps, history.epochs
    assert list(steps) == list(STEPS) and list(epochs) == list(EPOCHS)
    assert list(steps["step"]) == [1, 2, 3, 4, 5, 6, 7, 8] and list(steps["epoch"]) == [1, 1, 1, 1, 2, 2, 2, 2]
    assert (steps["seconds"] > 0).all()
    assert list(epochs["epoch"]) == [1, 2]
    assert list(epochs["loss"]) == pytest.approx(list(steps.groupby("epoch")["loss"].mean()))
    assert (epochs["seconds"] > epochs["eval_seconds"]).all() and (epochs["eval_seconds"] > 0).all()
    assert steps["seconds"].sum() <= (epochs["seconds"] - epochs["eval_seconds"]).sum()
    assert epochs["batch_accuracy"].between(0, 1).all()
    assert history.about.items() >= {"data": "tiny", "interrupted": False, "torch": torch.__version__}.items()
    assert history.about["recipe"]["train_images"] == 110


def test_the_learning_rate_falls_after_every_seventh_epoch_of_the_paper(tiny):
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    rates = fit(model, tiny, PAPER, device="cpu").epochs["learning_rate"]
    assert list(rates) == pytest.approx([3e-3] * 7 + [3e-4] * 7 + [3e-5] * 7 + [3e-6] * 4)


@pytest.mark.parametrize("schedule", ["step", "one-cycle"])
def test_fit_does_what_a_plain_loop_does(tiny, schedule):
    recipe = Recipe("", 2, batch_size=10, schedule=schedule, step_epochs=1, train_images=25, seed=3)  # 2 × 2 steps
    model, plain = InDouble(net()), InDouble(net())
    history = fit(model, replace(tiny, test=tiny.test.first(5)), recipe, device="cpu")

    images = torch.stack([to_tensor(image[0].numpy()) for image in tiny.train.images[:25]])
    adam = torch.optim.Adam(plain.parameters(), lr=recipe.learning_rate)
    if schedule == "step":
        scheduler = torch.optim.lr_scheduler.StepLR(adam, step_size=1, gamma=recipe.gamma)
    else:
        scheduler = torch.optim.lr_scheduler.OneCycleLR(adam, max_lr=recipe.learning_rate, total_steps=4)
    losses = []
    for epoch in (1, 2):
        order = torch.randperm(25, generator=torch.Generator().manual_seed(seed_of(3, epoch)))
        for batch in (order[:10], order[10:20]):
            torch.manual_seed(seed_of(3, len(losses), 0))  # for dropout
            adam.zero_grad()
            loss = functional.cross_entropy(plain(images[batch]), tiny.train.labels[batch])
            loss.backward()
            adam.step()
            losses.append(loss.item())
            if schedule == "one-cycle":
                scheduler.step()
        if schedule == "step":
            scheduler.step()

    assert list(history.steps["loss"]) == pytest.approx(losses, rel=1e-6)
    weights, expected = model.state_dict(), plain.state_dict()
    for name in expected:
        torch.testing.assert_close(weights[name], expected[name], rtol=1e-6, atol=1e-8, msg=name)


def test_the_recipe_s_dropout_is_that_of_the_layers_while_it_trains(tiny):
    recipe = Recipe("", epochs=2, batch_size=50, learning_rate=0.01)
    model, mild = small_model(), small_model()
    mild[5].p = 0.1
    as_recipe, as_layer = fit(model, tiny, recipe.but(dropout=0.1), device="cpu"), fit(mild, tiny, recipe, device="cpu")
    pd.testing.assert_series_equal(as_recipe.steps["loss"], as_layer.steps["loss"], rtol=0, atol=0)
    assert model[5].p == 0.2
    assert (as_recipe.steps["loss"] != fit(small_model(), tiny, recipe, device="cpu").steps["loss"]).any()


@pytest.mark.parametrize("has_instructions", [True, False])
def test_bfloat16_is_for_processors_that_multiply_it(tiny, monkeypatch, has_instructions):
    monkeypatch.setattr("mnist_kit.training.has_bfloat16", lambda device: has_instructions)
    recipe = Recipe("", epochs=1, batch_size=50, learning_rate=0.01, precision="auto")
    exact, rounded = (fit(small_model(), tiny, r, device="cpu") for r in (recipe.but(precision="float32"), recipe))
    assert (exact.about["precision"], rounded.about["precision"]) == (
        "float32",
        "bfloat16" if has_instructions else "float32",
    )
    differences = (exact.steps["loss"] / rounded.steps["loss"] - 1).abs()
    assert 0 < differences.max() < 0.05 if has_instructions else differences.max() == 0


class Diary(Callback):
    """Notes what is called, and where the run stands then."""

    def __init__(self, name: str, diary: list):
        self.name, self.diary = name, diary

    def on_start(self, run):
        self.diary.append((self.name, "start", run.step))

    def on_step(self, run):
        self.diary.append((self.name, "step", run.step, run.epoch))

    def on_epoch(self, run):
        history = run.history()
        assert list(history.steps["step"]) == list(range(1, run.step + 1)) and history.steps.notna().all(axis=None)
        self.diary.append((self.name, "epoch", run.step, run.epoch, len(history.epochs)))

    def on_end(self, run):
        self.diary.append((self.name, "end", run.step, run.interrupted))


def test_callbacks_are_called_in_order(tiny):
    diary = []
    fit(small_model(), tiny, replace(BRIEF, batch_size=50), [Diary("a", diary), Diary("b", diary)], "cpu")
    assert [entry[1:] for entry in diary if entry[0] == "a"] == [
        ("start", 0),
        ("step", 1, 1),
        ("step", 2, 1),
        ("epoch", 2, 1, 1),
        ("step", 3, 2),
        ("step", 4, 2),
        ("epoch", 4, 2, 2),
        ("end", 4, False),
    ]
    assert [entry[0] for entry in diary] == [*["a", "b"] * 7, "b", "a"]


@pytest.mark.parametrize("device", [ABSENT, "nonsense", "cuda:99", "meta"])
def test_a_device_that_is_not_there(tiny, device):
    model = small_model()
    for use in (lambda: fit(model, tiny, BRIEF, device=device), lambda: evaluate(model, tiny.test, device)):
        with pytest.raises(TrainingError, match=f"device '{device}' cannot be used here .*this machine has "):
            use()
    assert model.training and next(model.parameters()).device.type == "cpu"


def test_a_loss_that_is_not_finite_stops_with_the_weights_of_the_last_good_epoch(tiny):
    good, model = small_model(), small_model()
    fit(good, tiny, BRIEF, [StopAt(4)], "cpu")
    with pytest.raises(LossNotFinite, match=r"loss of step 7 is nan .*rate 0\.003.*weights of step 4 again") as caught:
        fit(model, tiny, BRIEF, [Spoil(6)], "cpu")
    assert (caught.value.step, caught.value.learning_rate) == (7, 0.003)
    assert list(caught.value.history.epochs["epoch"]) == [1]
    weights, expected = model.state_dict(), good.state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    assert not model.training
