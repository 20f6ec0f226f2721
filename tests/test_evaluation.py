import math

import pytest
import torch
from conftest import layer_names, small_model
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from mnist_kit.data import Split
from mnist_kit.errors import TrainingError
from mnist_kit.evaluation import Evaluation, evaluate


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
    assert evaluation.batch_accuracy == (120 / 128 + 1 / 2) / 2


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
