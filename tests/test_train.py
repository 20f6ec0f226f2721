import pytest

from mnist_kit import train
from mnist_kit.checkpoints import load_weights, weights_about
from mnist_kit.errors import DataNotFound
from mnist_kit.history import load_history
from mnist_kit.recipes import SMALL
from mnist_kit.training import evaluate


@pytest.fixture
def data(tiny, monkeypatch) -> list[str]:
    """The names of the data sets that were asked for; each is `tiny`."""
    asked = []
    monkeypatch.setattr(train, "load_mnist", lambda name: asked.append(name) or tiny)
    return asked


def test_it_saves_weights_and_history_under_one_name(data, home, tiny, capsys):
    assert train.main(["--recipe", "small", "--device", "cpu", "--name", "mine"]) == 0
    weights, run = home / "weights" / "mine.safetensors", home / "runs" / "mine.npz"
    assert sorted(path for path in home.rglob("*") if path.is_file()) == [run, weights]
    history, about = load_history("mine"), weights_about("mine")
    assert data == ["mnist"] and about["data"] == "mnist"
    assert about["recipe"] == history.about["recipe"] == SMALL.as_dict()
    accuracy = history.epochs["val_accuracy"].iloc[-1]
    assert about["accuracy"] == accuracy == evaluate(load_weights("mine"), tiny.test, "cpu").accuracy
    printed = capsys.readouterr().out
    assert "epoch 2/2" in printed and str(weights) in printed and str(run) in printed


def test_the_name_is_that_of_the_data_by_default(data, home, monkeypatch):
    monkeypatch.setenv("MNIST_KIT_RECIPE", "small")
    assert train.main(["--data", "fashion", "--device", "cpu"]) == 0
    assert data == ["fashion"]
    assert (home / "weights" / "class-fashion.safetensors").is_file() and load_history("class-fashion")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "papr"], "did you mean 'paper'?"),
        (["--device", "nonsense"], "device 'nonsense' cannot be used here"),
        (["--model", "Nett"], "there is no model called 'Nett'"),
        (["--name", "../mine"], "'../mine' cannot name weights"),
    ],
)
def test_a_wrong_argument_ends_with_a_line_before_any_training(data, home, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(train, "fit", lambda *_: pytest.fail("it trains"))
    assert train.main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.splitlines()) == 1
    assert not home.exists()


def test_data_that_cannot_be_had(monkeypatch, capsys):
    def nowhere(name):
        raise DataNotFound(f"{name} is nowhere")

    monkeypatch.setattr(train, "load_mnist", nowhere)
    assert train.main(["--recipe", "small"]) == 2
    assert capsys.readouterr().err == "mnist is nowhere\n"
