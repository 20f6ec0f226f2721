import math
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.functional import to_tensor

from mnist_kit.data import Split
from mnist_kit.errors import RecipeError, TrainingError
from mnist_kit.history import EPOCH_COLUMNS, STEP_COLUMNS
from mnist_kit.models import Net
from mnist_kit.recipes import PAPER, Recipe
from mnist_kit.training import Callback, Evaluation, as_input, best_device, evaluate, fit, pooling_first

BRIEF = Recipe("brief", epochs=2, batch_size=25, train_images=100)  # 2 × 4 steps
ABSENT = "cuda" if not torch.cuda.is_available() else "mps"


def small_model(seed: int = 0) -> nn.Module:
    """What `Net` is made of, in little: it trains in milliseconds."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(4 * 14 * 14, 10),
    )


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def layer_names(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model.modules()]


def test_it_learns(tiny):
    model = net()
    history = fit(model, tiny, Recipe("", epochs=3, batch_size=30, learning_rate=0.005, schedule="one-cycle"))
    assert history.epochs["val_accuracy"].iloc[-1] > 0.95
    assert history.epochs["loss"].iloc[-1] < history.epochs["loss"].iloc[0] / 2
    assert evaluate(model, tiny.test).accuracy == history.epochs["val_accuracy"].iloc[-1]


def test_the_tables_of_a_run(tiny):
    history = fit(small_model(), tiny, replace(BRIEF, train_images=110), device="cpu")  # 10 images left over
    steps, epochs = history.steps, history.epochs
    assert tuple(steps.columns) == STEP_COLUMNS and tuple(epochs.columns) == EPOCH_COLUMNS
    assert list(steps["step"]) == [1, 2, 3, 4, 5, 6, 7, 8] and list(steps["epoch"]) == [1, 1, 1, 1, 2, 2, 2, 2]
    assert (steps["seconds"] > 0).all()
    assert list(epochs["epoch"]) == [1, 2]
    assert list(epochs["loss"]) == pytest.approx(list(steps.groupby("epoch")["loss"].mean()))
    assert (epochs["seconds"] > epochs["eval_seconds"]).all() and (epochs["eval_seconds"] > 0).all()
    assert steps["seconds"].sum() <= (epochs["seconds"] - epochs["eval_seconds"]).sum()
    assert len(history.about["paper_accuracy"]) == 2
    assert history.about.items() >= {"data": "tiny", "interrupted": False, "torch": torch.__version__}.items()
    assert history.about["recipe"]["train_images"] == 110


def test_the_model_is_left_in_evaluation_mode(tiny):
    model = small_model()
    fit(model, tiny, BRIEF, device="cpu")
    assert not any(module.training for module in model.modules())


def test_the_same_seed_gives_the_same_run_bit_for_bit(tiny):
    recipe = replace(BRIEF, epochs=1)
    models = [net(), net(), net()]
    first, second, other = (
        fit(model, tiny, replace(recipe, seed=seed), device="cpu")
        for model, seed in zip(models, (7, 7, 8), strict=True)
    )
    timeless = ["epoch", "loss", "val_loss", "val_accuracy", "learning_rate"]
    pd.testing.assert_series_equal(first.steps["loss"], second.steps["loss"], check_exact=True)
    pd.testing.assert_frame_equal(first.epochs[timeless], second.epochs[timeless], check_exact=True)
    weights, same, _ = (model.state_dict() for model in models)
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert not first.steps["loss"].equals(other.steps["loss"])


def test_only_the_first_images_are_used_where_the_recipe_says_so(tiny):
    few = replace(tiny, train=tiny.train.first(100))
    limited = fit(small_model(), tiny, BRIEF, device="cpu")
    whole = fit(small_model(), few, replace(BRIEF, train_images=None), device="cpu")
    assert limited.steps["loss"].equals(whole.steps["loss"])


def test_the_learning_rate_falls_after_every_seventh_epoch_of_the_paper(tiny):
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    rates = fit(model, tiny, PAPER, device="cpu").epochs["learning_rate"]
    assert list(rates) == pytest.approx([3e-3] * 7 + [3e-4] * 7 + [3e-5] * 7 + [3e-6] * 4)


class InDouble(nn.Module):
    """Computes in float64, so that what two ways of training differ by is not rounding."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model.double()

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.double())


@pytest.mark.parametrize("schedule", ["step", "one-cycle"])
def test_fit_does_what_a_plain_loop_does(tiny, schedule):
    recipe = Recipe("", 2, batch_size=10, schedule=schedule, step_epochs=1, train_images=25, seed=3)  # 2 × 2 steps
    model, plain = InDouble(net()), InDouble(net())
    history = fit(model, replace(tiny, test=tiny.test.first(5)), recipe, device="cpu")

    torch.manual_seed(recipe.seed)
    shuffle = torch.Generator().manual_seed(recipe.seed)
    images = torch.stack([to_tensor(image[0].numpy()) for image in tiny.train.images[:25]])
    adam = torch.optim.Adam(plain.parameters(), lr=recipe.learning_rate)
    if schedule == "step":
        scheduler = torch.optim.lr_scheduler.StepLR(adam, step_size=1, gamma=recipe.gamma)
    else:
        scheduler = torch.optim.lr_scheduler.OneCycleLR(adam, max_lr=recipe.learning_rate, total_steps=4)
    losses = []
    for _ in range(2):
        order = torch.randperm(25, generator=shuffle)
        for batch in (order[:10], order[10:20]):
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


def test_images_go_in_as_totensor_makes_them(tiny):
    images = torch.arange(784, dtype=torch.int32).remainder(256).to(torch.uint8).reshape(1, 1, 28, 28)
    before = images.clone()
    assert torch.equal(as_input(images)[0], to_tensor(images[0, 0].numpy()))
    assert torch.equal(images, before)


def test_a_batch_larger_than_the_data(tiny):
    with pytest.raises(RecipeError, match=r"batch_size 301.*300 training images"):
        fit(small_model(), tiny, Recipe("", epochs=1, batch_size=301))


def test_a_batch_of_all_the_data(tiny):
    assert len(fit(small_model(), tiny, Recipe("", epochs=1, batch_size=300), device="cpu").steps) == 1


class Diary(Callback):
    """Notes what is called, and where the run stands then."""

    def __init__(self, name: str, diary: list):
        self.name, self.diary = name, diary

    def on_start(self, run):
        self.diary.append((self.name, "start", run.step))

    def on_step(self, run):
        self.diary.append((self.name, "step", run.step, run.epoch))

    def on_epoch(self, run):
        self.diary.append((self.name, "epoch", run.step, run.epoch, len(run.history().epochs)))

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
    assert [entry[0] for entry in diary] == ["a", "b"] * 8


def test_what_a_callback_sees_of_the_run(tiny):
    class Look(Callback):
        def on_step(self, run):
            history = run.history()
            assert list(history.steps["step"]) == list(range(1, run.step + 1))
            assert history.steps["loss"].notna().all() and len(history.steps["seconds"]) == run.step
            self.seen = (run.steps_per_epoch, run.total_steps, run.digits_name, run.device.type, run.recipe)

    look = Look()
    fit(small_model(), tiny, BRIEF, [look], "cpu")
    assert look.seen == (4, 8, "tiny", "cpu", BRIEF)


class StopAt(Callback):
    def __init__(self, step: int, error: type[BaseException] = KeyboardInterrupt):
        self.step, self.error = step, error

    def on_step(self, run):
        if run.step == self.step:
            raise self.error


@pytest.mark.parametrize(("stop", "epochs"), [(1, 0), (4, 0), (6, 1), (8, 1)])
def test_interrupting_returns_the_history_so_far_and_a_usable_model(tiny, stop, epochs):
    diary, model = [], small_model()
    order = layer_names(model)
    history = fit(model, tiny, BRIEF, [Diary("a", diary), StopAt(stop)], "cpu")
    assert len(history.steps) == stop and len(history.epochs) == epochs
    assert history.steps["loss"].notna().all()
    assert history.about["interrupted"] is True and len(history.about["paper_accuracy"]) == epochs
    assert diary[-1] == ("a", "end", stop, True)
    assert layer_names(model) == order and not model.training
    assert 0 <= evaluate(model, tiny.test, "cpu").accuracy <= 1


def test_an_interrupted_run_is_the_beginning_of_the_whole_one(tiny):
    whole = fit(small_model(), tiny, BRIEF, device="cpu")
    begun = fit(small_model(), tiny, BRIEF, [StopAt(5)], "cpu")
    assert list(begun.steps["loss"]) == list(whole.steps["loss"][:5])


def test_an_error_in_a_callback_is_not_swallowed_and_leaves_the_model_in_order(tiny):
    diary, model = [], small_model()
    order = layer_names(model)
    with pytest.raises(ZeroDivisionError):
        fit(model, tiny, BRIEF, [Diary("a", diary), StopAt(2, ZeroDivisionError)], "cpu")
    assert diary[-1] == ("a", "end", 2, False)
    assert layer_names(model) == order and not model.training


@pytest.mark.parametrize("device", [ABSENT, "nonsense", "cuda:99"])
def test_a_device_that_is_not_there(tiny, device):
    model = small_model()
    for use in (lambda: fit(model, tiny, BRIEF, device=device), lambda: evaluate(model, tiny.test, device)):
        with pytest.raises(TrainingError, match=f"device '{device}' cannot be used here .*this machine has "):
            use()
    assert model.training and next(model.parameters()).device.type == "cpu"


def test_the_device_at_hand_is_the_default(tiny):
    model = small_model()
    evaluate(model, tiny.test)
    assert next(model.parameters()).device.type == best_device().type


@pytest.mark.parametrize("training", [True, False])
def test_pooling_first_changes_no_value(training):
    model = InDouble(net()).train(training)
    images, labels = torch.rand(8, 1, 28, 28), torch.arange(8)
    results = []
    for order in (nullcontext(), pooling_first(model)):
        torch.manual_seed(0)  # dropout
        model.zero_grad()
        with order:
            logits = model(images)
        functional.cross_entropy(logits, labels).backward()
        results.append((logits.detach(), [parameter.grad.clone() for parameter in model.parameters()]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


def test_pooling_first_moves_relu_behind_the_pooling_and_back():
    model = Net()
    order = layer_names(model.conv_block)
    weights = list(model.state_dict())
    with pooling_first(model):
        inside = layer_names(model.conv_block)
        assert list(model.state_dict()) == weights  # weights saved meanwhile are no others
    assert ("MaxPool2d", "ReLU") in pairwise(inside) and ("ReLU", "MaxPool2d") not in pairwise(inside)
    assert layer_names(model.conv_block) == order


class ReadsTheFirstRow(nn.Module):
    """Logits are the first ten pixels, so that a test decides what is predicted."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        return self.scale * images[:, 0, 0, :10]


def answered(labels: list[int], predictions: list[int]) -> Split:
    """Images that `ReadsTheFirstRow` takes for `predictions`."""
    images = torch.zeros(len(labels), 1, 28, 28, dtype=torch.uint8)
    images[torch.arange(len(labels)), 0, 0, torch.tensor(predictions)] = 255
    return Split(images, torch.tensor(labels))


def evaluated(labels: list[int], predictions: list[int]) -> Evaluation:
    return evaluate(ReadsTheFirstRow(), answered(labels, predictions), "cpu")


def test_accuracy_and_loss_by_hand():
    evaluation = evaluated([3, 1, 4, 1], [3, 1, 4, 5])
    assert evaluation.accuracy == 0.75
    assert evaluation.loss == pytest.approx(math.log(math.e + 9) - 0.75)
    assert evaluation.logits.shape == (4, 10) and evaluation.logits.dtype == torch.float32
    assert list(evaluation.predictions) == [3, 1, 4, 5] and list(evaluation.labels) == [3, 1, 4, 1]
    assert evaluation.correct.tolist() == [True, True, True, False]
    assert torch.allclose(evaluation.probabilities.sum(1), torch.ones(4))


def test_in_the_papers_accuracy_a_short_last_batch_weighs_as_much_as_a_full_one():
    wrong_in_first, wrong_in_last = 8, 1
    predictions = [1] * wrong_in_first + [0] * (128 - wrong_in_first) + [0] + [1] * wrong_in_last
    evaluation = evaluated([0] * 130, predictions)
    assert evaluation.accuracy == 121 / 130
    assert evaluation.paper_accuracy == (120 / 128 + 1 / 2) / 2


def test_ten_thousand_images_are_79_batches():
    right = functional.one_hot(torch.zeros(10_000, dtype=torch.int64), 10).float()
    labels = torch.zeros(10_000, dtype=torch.int64)
    labels[-16:] = 1  # 10,000 = 78 × 128 + 16
    evaluation = Evaluation(right, labels)
    assert evaluation.accuracy == 0.9984
    assert evaluation.paper_accuracy == pytest.approx(78 / 79)


def test_confusion_has_a_row_a_true_digit():
    confusion = evaluated([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2]).confusion
    assert confusion.shape == (10, 10) and (confusion.index.name, confusion.columns.name) == ("true", "predicted")
    assert confusion.loc[:2, :2].to_numpy().tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert confusion.to_numpy().sum() == 6


def test_precision_recall_and_f1_by_hand():
    table = evaluated([0, 0, 0, 1, 1, 2, 7], [0, 0, 1, 1, 2, 2, 2]).per_digit
    assert table.index.name == "digit" and list(table.columns) == ["precision", "recall", "f1", "support"]
    assert list(table["support"]) == [3, 2, 1, 0, 0, 0, 0, 1, 0, 0]
    assert list(table.loc[0]) == pytest.approx([1, 2 / 3, 4 / 5, 3])
    assert list(table.loc[1]) == pytest.approx([1 / 2, 1 / 2, 1 / 2, 2])
    assert list(table.loc[2]) == pytest.approx([1 / 3, 1, 1 / 2, 1])
    assert table.loc[9, ["precision", "recall", "f1"]].isna().all()  # never there, never predicted
    assert math.isnan(table.loc[7, "precision"]) and list(table.loc[7, ["recall", "f1"]]) == [0, 0]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=300))
def test_the_tables_agree_with_the_accuracy(pairs):
    labels, predictions = map(torch.tensor, zip(*pairs, strict=True))
    evaluation = Evaluation(functional.one_hot(predictions, 10).float(), labels)
    confusion, table = evaluation.confusion.to_numpy(), evaluation.per_digit
    assert list(confusion.sum(1)) == list(table["support"]) == labels.bincount(minlength=10).tolist()
    assert confusion.trace() / len(labels) == evaluation.accuracy
    assert (table["recall"] * table["support"]).sum() == pytest.approx(confusion.trace())
    both = table["precision"] + table["recall"]
    harmonic = (2 * table["precision"] * table["recall"] / both)[both > 0]
    assert list(table["f1"][both > 0]) == pytest.approx(list(harmonic))


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_the_model_as_it_was(tiny, training):
    model = small_model().train(training)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    order = layer_names(model)
    evaluation = evaluate(model, tiny.test, "cpu")
    assert all(module.training is training for module in model.modules())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())  # batch norm too
    assert layer_names(model) == order
    assert not evaluation.logits.requires_grad and all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("batch_size", [1, 7, 1_000])
def test_the_batch_size_of_an_evaluation_changes_nothing(tiny, batch_size):
    model = small_model()
    expected = evaluate(model, tiny.test, "cpu").logits
    torch.testing.assert_close(evaluate(model, tiny.test, "cpu", batch_size).logits, expected, rtol=1e-4, atol=1e-5)


def test_nothing_to_evaluate(tiny):
    with pytest.raises(TrainingError, match="no images"):
        evaluate(small_model(), tiny.test.first(0))
    with pytest.raises(TrainingError, match=r"batch_size.*0"):
        evaluate(small_model(), tiny.test, batch_size=0)
