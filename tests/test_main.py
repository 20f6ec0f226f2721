import os
import subprocess
import sys

import pandas as pd
import pytest
from conftest import PROJECT, StopAt, small_model

from mnist_kit import __main__ as main
from mnist_kit.checkpoints import load_weights, weights_about
from mnist_kit.errors import RecipeError, TrainingError
from mnist_kit.evaluation import evaluate
from mnist_kit.history import load_history
from mnist_kit.models import MODELS
from mnist_kit.recipes import SMALL, Recipe
from mnist_kit.training import fit

BRIEF = Recipe("brief", epochs=1, batch_size=50)  # 6 steps


@pytest.fixture
def data(tiny, monkeypatch) -> list[str]:
    """The names of the data sets that were asked for; each is `tiny`, and the networks are small ones."""
    asked = []
    for network in ("Net", "FastNet"):
        monkeypatch.setitem(MODELS, network, small_model)
    monkeypatch.setattr(main, "load_mnist", lambda name: asked.append(name) or tiny)
    return asked


def test_it_saves_weights_and_history_under_one_name(data, home, tiny, capsys):
    assert main.main(["train", "--recipe", "small", "--device", "cpu", "--name", "mine"]) == 0
    weights, run = home / "weights" / "mine.safetensors", home / "runs" / "mine.npz"
    kept = [path for path in home.rglob("*") if path.is_file() and path.parent.parent.name != "checkpoints"]
    assert sorted(kept) == [run, weights]
    history, about = load_history("mine"), weights_about("mine")
    assert data == ["mnist"] and about["data"] == "mnist"
    assert about["recipe"] == history.about["recipe"] == SMALL.as_dict()
    accuracy = history.epochs["val_accuracy"].iloc[-1]
    assert about["accuracy"] == accuracy == evaluate(load_weights("mine", small_model()), tiny.test, "cpu").accuracy
    printed = capsys.readouterr().out
    assert "epoch 2/2" in printed and str(weights) in printed and str(run) in printed


def test_the_name_is_that_of_the_data_by_default_and_settings_change_the_recipe(data, home, monkeypatch):
    monkeypatch.setenv("MNIST_KIT_RECIPE", "small")
    changes = ["--set", "epochs=1", "--set", "schedule=step", "--set", "batch_size=50"]
    assert main.main(["train", "--data", "fashion", "--device", "cpu", *changes]) == 0
    assert data == ["fashion"] and (home / "weights" / "small-fashion.safetensors").is_file()
    expected = SMALL.but(epochs=1, schedule="step", batch_size=50)
    assert load_history("small-fashion").about["recipe"] == expected.as_dict()


@pytest.mark.parametrize(
    ("arguments", "network"),
    [
        (["--recipe", "quick"], "FastNet"),
        (["--recipe", "paper"], "Net"),
        (["--recipe", "quick", "--model", "Net"], "Net"),
    ],
)
def test_the_network_is_the_recipe_s_unless_another_is_named(data, home, monkeypatch, arguments, network):
    made = []
    monkeypatch.setattr(main, "make_model", lambda name: made.append(name) or small_model())
    assert main.main(["train", *arguments, "--set", "epochs=1", "--set", "batch_size=50", "--device", "cpu"]) == 0
    assert set(made) == {network}
    assert load_history(f"{arguments[1]}-mnist").about["recipe"]["network"] == network


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "papr"], "did you mean 'paper'?"),
        (["--set", "epoch=3"], "did you mean 'epochs'?"),
        (["--set", "epochs"], "--set takes a name and a value, as in epochs=3"),
        (["--set", "epochs=many"], "epochs must be a whole number"),
        (["--seeds", "1-"], "--seeds takes numbers"),
        (["--device", "nonsense"], "device 'nonsense' cannot be used here"),
        (["--model", "Nett"], "there is no model called 'Nett'"),
        (["--name", "../mine"], "'../mine' cannot name weights"),
    ],
)
def test_a_wrong_argument_ends_with_a_line_before_any_training(data, home, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(main, "fit", lambda *_: pytest.fail("it trains"))
    assert main.main(["train", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.splitlines()) == 1
    assert not home.exists()


def test_a_stopped_run_leaves_a_checkpoint_and_goes_on_with_resume(data, home, tiny, capsys, monkeypatch):
    whole = fit(main.make_model("Net"), tiny, BRIEF, device="cpu")
    monkeypatch.setattr(main, "get_recipe", lambda name: BRIEF)
    arguments = ["--recipe", "x", "--device", "cpu", "--name", "mine"]
    with monkeypatch.context() as patch:
        patch.setattr(main, "ProgressLine", lambda title: StopAt(3))
        assert main.main(["train", *arguments]) == 130
    assert capsys.readouterr().err == "stopped; the same command with --resume continues\n"
    assert not (home / "runs").exists() and not (home / "weights").exists()
    assert main.main(["train", *arguments, "--resume"]) == 0
    assert capsys.readouterr().err == ""
    resumed = load_history("mine")
    assert len(resumed.steps) == len(whole.steps) and not resumed.about["interrupted"]


def test_resume_with_nothing_there_says_so_and_starts(data, capsys):
    assert main.main(["train", "--recipe", "small", "--device", "cpu", "--name", "mine", "--resume"]) == 0
    assert "there is no checkpoint 'mine' yet" in capsys.readouterr().err


def test_seeds_one_after_the_other(data, home, tiny, capsys, monkeypatch):
    monkeypatch.setattr(main, "get_recipe", lambda name: BRIEF)
    assert main.main(["train", "--recipe", "x", "--device", "cpu", "--name", "mine", "--seeds", "3,1"]) == 0
    table = pd.read_csv(home / "runs" / "mine-seeds.csv")
    assert list(table["seed"]) == [1, 3]
    assert list(table["val_accuracy"]) == [
        load_history(f"mine-seed-{seed}").epochs.val_accuracy.iloc[-1] for seed in (1, 3)
    ]
    printed = capsys.readouterr().out
    assert str(home / "runs" / "mine-seeds.csv") in printed
    members = [evaluate(load_weights(f"mine-seed-{seed}", small_model()), tiny.test, "cpu") for seed in (1, 3)]
    answers = (members[0].probabilities + members[1].probabilities).argmax(1)
    assert f"all 2 as a committee: {(answers == tiny.test.labels).double().mean():.2%}" in printed


def test_a_recipe_with_members_trains_as_many_from_its_seed_on(data, home, monkeypatch):
    monkeypatch.setattr(main, "get_recipe", lambda name: BRIEF.but(seed=4, members=2))
    assert main.main(["train", "--recipe", "x", "--device", "cpu"]) == 0
    assert list(pd.read_csv(home / "runs" / "brief-mnist-seeds.csv")["seed"]) == [4, 5]
    assert weights_about("brief-mnist-seed-5")["recipe"] == BRIEF.but(seed=5).as_dict()


def test_a_seed_that_fails_keeps_the_others_from_nothing(data, home, capsys, monkeypatch):
    def fit(model, digits, recipe, *arguments, **options):
        if recipe.seed == 1:
            raise TrainingError("it went wrong")
        return real(model, digits, recipe, *arguments, **options)

    real = main.fit
    monkeypatch.setattr(main, "fit", fit)
    monkeypatch.setattr(main, "get_recipe", lambda name: BRIEF)
    assert main.main(["train", "--recipe", "x", "--device", "cpu", "--seeds", "0-2"]) == 2
    table = pd.read_csv(home / "runs" / "brief-mnist-seeds.csv")
    assert list(table["seed"]) == [0, 1, 2] and list(table["val_accuracy"].isna()) == [False, True, False]
    assert "seed 1 failed: it went wrong" in capsys.readouterr().err


@pytest.mark.parametrize("sign", ["-", "[", "9"])
def test_a_setting_too_deep_to_be_read_is_text(sign):
    assert main.parse_setting(f"epochs={sign * 5_000}") == ("epochs", sign * 5_000)


def test_a_pipe_that_knows_ascii_only_gets_the_help():
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "mnist_kit", "train", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=PROJECT)
    assert told.returncode == 0 and "torchrun" in told.stdout and not told.stderr


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "1-", "0-3-5", "1.5", "0-99999999999"])
def test_seeds_by_number_and_range(text):
    assert main.parse_seeds("0-2, 2, 9") == [0, 1, 2, 9]
    with pytest.raises(RecipeError, match="--seeds takes numbers like 0-9"):
        main.parse_seeds(text)
