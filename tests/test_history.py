import contextlib
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_kit import paper
from mnist_kit.errors import HistoryError
from mnist_kit.files import REFERENCE
from mnist_kit.history import EPOCHS, History, load_history, save_history


def made_history(
    losses=(2.0, 1.0, 0.5, 0.25, 0.75, 0.125), epochs=2, seconds=0.01, batch_accuracy=math.nan, **about
) -> History:
    per_epoch = len(losses) // epochs
    steps = pd.DataFrame(
        {
            "step": np.arange(1, len(losses) + 1),
            "epoch": np.arange(len(losses)) // per_epoch + 1,
            "seconds": np.full(len(losses), seconds),
            "loss": np.array(losses, dtype=float),
        }
    )
    number = np.arange(1, epochs + 1)
    table = pd.DataFrame(
        {
            "epoch": number,
            "loss": steps.groupby("epoch")["loss"].mean().to_numpy(),
            "val_loss": 1.0 / number,
            "val_accuracy": 0.9 + 0.01 * number,
            "batch_accuracy": batch_accuracy,
            "seconds": 2.0,
            "eval_seconds": 0.5,
            "learning_rate": 0.003,
        }
    )
    return History(steps, table, about)


def test_a_missing_column_is_named():
    history = made_history()
    with pytest.raises(HistoryError, match=r"history.steps has no column seconds"):
        History(history.steps.drop(columns="seconds"), history.epochs)
    with pytest.raises(HistoryError, match="must be a dict, not a list"):
        History(history.steps, history.epochs, [1])


floats, shares = st.floats(allow_infinity=False), st.just(math.nan) | st.floats(0, 1)


@given(
    steps=st.lists(st.tuples(st.integers(1, 40), floats, floats), min_size=1, max_size=60),
    epochs=st.lists(st.tuples(*(shares if "accuracy" in name else floats for name in list(EPOCHS)[1:])), max_size=5),
    about=st.dictionaries(st.text(max_size=8).filter(lambda key: key != "source"), st.integers() | st.text(max_size=8)),
)
@pytest.mark.filterwarnings("ignore:.*was better")
def test_save_and_load_give_the_same_run(steps, epochs, about):
    epoch, seconds, loss = map(np.array, zip(*steps, strict=True))
    table = {"step": np.arange(1, len(steps) + 1), "epoch": epoch, "seconds": seconds, "loss": loss}
    numbers = np.array(epochs, dtype=float).reshape(-1, 7)
    epoch_table = {"epoch": np.arange(1, len(epochs) + 1), **dict(zip(list(EPOCHS)[1:], numbers.T, strict=True))}
    history = History(pd.DataFrame(table), pd.DataFrame(epoch_table), about)
    save_history(history)
    loaded = load_history()
    pd.testing.assert_frame_equal(loaded.steps, history.steps)
    pd.testing.assert_frame_equal(loaded.epochs, history.epochs)
    assert loaded.about == about | {"source": "yours"}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("steps.loss", lambda values: np.float64(5)),
        ("steps.step", lambda values: -values),
        ("steps.step", lambda values: values > 3),
        ("epochs.val_accuracy", lambda values: values + 8),
        ("steps.loss", lambda values: values[:2]),
        ("steps.loss", lambda values: values + 1j),
        ("steps.step", lambda values: values.astype(str)),
        ("steps.step", lambda values: values * 0.5),
        ("epochs.batch_accuracy", lambda values: np.array(["abc", "d"])),
        ("about", lambda _: np.array("[1]")),
        ("about", lambda _: np.array("{")),
    ],
)
def test_a_file_with_other_columns_is_refused(name, change):
    path = save_history(made_history(), "run")
    with np.load(path) as file:
        columns = dict(file)
    np.savez(path, **{**columns, name: change(columns[name])})
    with pytest.raises(HistoryError, match=r"run\.npz is not a history, or it is damaged"):
        load_history("run")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("loss", [1j] * 6),
        ("loss", ["a"] * 6),
        ("loss", [None] * 6),
        ("loss", [True] * 6),
        ("step", [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]),
        ("step", [2, 3, 4, 5, 6, 7]),
        ("val_accuracy", [None, None]),
        ("val_accuracy", [98.5, 99.0]),
    ],
)
def test_columns_that_are_not_what_they_should_be_are_not_saved(home, column, values):
    history = made_history()
    (history.steps if column in history.steps else history.epochs)[column] = values
    with pytest.raises(HistoryError, match=rf"cannot be saved.*{column}"):
        save_history(history)
    assert not home.exists()


@pytest.mark.parametrize("use", [lambda: save_history(None), lambda: save_history({}), lambda: History(None, None)])
def test_what_is_no_history(use):
    with pytest.raises(HistoryError, match="history"):
        use()


def test_damage_is_told_or_harmless():
    path = save_history(made_history(), "run")
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"step,loss\n1,2\n"):
        path.write_bytes(content)
        with pytest.raises(HistoryError, match=r"run\.npz is not a history, or it is damaged"):
            load_history("run")
    for position in range(0, len(whole), 29):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        with contextlib.suppress(HistoryError):
            load_history("run")


def test_runs_by_name(home):
    assert save_history(made_history(seed=3), "mine") == home / "runs" / "mine.npz"
    history = load_history("mine")
    assert history.about == {"seed": 3, "source": "yours"} and not history.is_reference
    with np.load(save_history(history, "again")) as file:
        assert "source" not in str(file["about"])  # where it came from is no part of the run
    with pytest.raises(HistoryError, match=r"no run is called 'nine'; there are: again, .*mine"):
        load_history("nine")
    for name in ("../mine", None, "nul"):
        with pytest.raises(HistoryError, match="cannot name a run"):
            save_history(history, name)


@pytest.mark.skipif(not (REFERENCE / "class-mnist.npz").is_file(), reason="the reference run is not there yet")
def test_the_reference_run_is_the_papers_recipe():
    history = load_history()
    assert history.is_reference
    assert (len(history.steps), len(history.epochs)) == (paper.STEPS, paper.EPOCHS)
    assert history.epochs["val_accuracy"].iloc[-1] > 0.99
    assert history.epochs["batch_accuracy"].between(0.98, 1).all()


def test_what_cannot_be_saved_is_told():
    with pytest.raises(HistoryError, match="as JSON"):
        save_history(made_history(**{"circle": (circle := {}), "json": circle.update(circle=circle)}))


def test_about_takes_what_a_run_knows(tmp_path):
    about = {"accuracy": np.float32(0.5), "paths": [tmp_path], "seeds": np.arange(2)}
    save_history(made_history(**about))
    assert load_history().about == {"accuracy": 0.5, "paths": [str(tmp_path)], "seeds": [0, 1], "source": "yours"}


def test_a_better_run_is_kept_when_a_worse_one_takes_its_name(home):
    better, worse = made_history(), made_history(epochs=1)
    better.epochs["val_accuracy"], worse.epochs["val_accuracy"] = 0.99, 0.5
    save_history(better, "mine")
    with pytest.warns(UserWarning, match="mine-better-1"):
        save_history(worse, "mine")
    assert len(load_history("mine-better-1").epochs) == 2 and len(load_history("mine").epochs) == 1
