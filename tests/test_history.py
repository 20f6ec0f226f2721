import contextlib
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_kit import paper
from mnist_kit.errors import HistoryError, StorageError
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


floats32 = st.floats(width=32, allow_nan=True, allow_infinity=False)


@given(
    steps=st.lists(st.tuples(st.integers(1, 40), floats32, floats32), min_size=1, max_size=60),
    epochs=st.lists(st.lists(st.floats(allow_infinity=False), min_size=7, max_size=7), max_size=5),
    about=st.dictionaries(st.text(max_size=8).filter(lambda key: key != "source"), st.integers() | st.text(max_size=8)),
)
def test_save_and_load_give_the_same_run(tmp_path_factory, steps, epochs, about):
    epoch, seconds, loss = map(np.array, zip(*steps, strict=True))
    table = {"step": np.arange(1, len(steps) + 1), "epoch": epoch, "seconds": seconds, "loss": loss}
    numbers = np.array(epochs, dtype=float).reshape(-1, 7)
    epoch_table = {"epoch": np.arange(1, len(epochs) + 1), **dict(zip(list(EPOCHS)[1:], numbers.T, strict=True))}
    history = History(pd.DataFrame(table), pd.DataFrame(epoch_table), about)
    loaded = History.load(history.save(tmp_path_factory.mktemp("runs") / "run.npz"))
    pd.testing.assert_frame_equal(loaded.steps, history.steps.astype({"seconds": float, "loss": float}))
    pd.testing.assert_frame_equal(loaded.epochs, history.epochs)
    assert loaded.about == about


def test_loading_says_what_is_wrong(tmp_path):
    whole = made_history().save(tmp_path / "whole.npz").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"step,loss\n1,2\n"):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(HistoryError, match=r"bad\.npz is not a history, or it is damaged"):
            History.load(tmp_path / "bad.npz")
    with pytest.raises(HistoryError, match="there is no history at"):
        History.load(tmp_path / "nowhere.npz")
    with pytest.raises(HistoryError, match="damaged"):
        History.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("steps.loss", lambda values: values[:2]),
        ("steps.loss", lambda values: values + 1j),
        ("steps.step", lambda values: values.astype(str)),
        ("steps.step", lambda values: values * 0.5),
        ("epochs.batch_accuracy", lambda values: np.array(["abc", "d"])),
        ("about", lambda _: np.array("[1]")),
        ("about", lambda _: np.array("{")),
    ],
)
def test_a_file_with_other_columns_is_refused(tmp_path, name, change):
    with np.load(made_history().save(tmp_path / "run.npz")) as file:
        columns = dict(file)
    np.savez(tmp_path / "run.npz", **{**columns, name: change(columns[name])})
    with pytest.raises(HistoryError, match=r"run\.npz is not a history, or it is damaged"):
        History.load(tmp_path / "run.npz")


def test_flipped_bytes_never_give_another_error(tmp_path):
    whole = bytearray(made_history().save(tmp_path / "run.npz").read_bytes())
    for position in range(0, len(whole), 29):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        (tmp_path / "damaged.npz").write_bytes(damaged)
        with contextlib.suppress(HistoryError):
            History.load(tmp_path / "damaged.npz")


def test_runs_by_name(home):
    assert save_history(made_history(seed=3), "mine") == home / "runs" / "mine.npz"
    history = load_history("mine")
    assert history.about == {"seed": 3, "source": "yours"} and not history.is_reference
    save_history(history, "again")  # where it came from is no part of the run
    assert "source" not in History.load(home / "runs" / "again.npz").about
    with pytest.raises(HistoryError, match=r"no run is called 'nine'; there are: again, .*mine"):
        load_history("nine")
    for name in ("../mine", "..", ".hidden", "a/b", "a b", "", None, "nul", "COM1.x", "ends.", "x" * 101):
        with pytest.raises(HistoryError, match="cannot name a run"):
            save_history(history, name)


def test_the_readers_run_comes_before_the_reference(home, monkeypatch, tmp_path):
    shipped = tmp_path / "shipped"
    made_history(seed=1).save(shipped / "digits.npz")
    monkeypatch.setattr("mnist_kit.history.REFERENCE", shipped)
    monkeypatch.setattr("mnist_kit.files.REFERENCE", shipped)
    assert load_history("digits").is_reference
    save_history(made_history(seed=2), "digits")
    assert load_history("digits").about == {"seed": 2, "source": "yours"}


@pytest.mark.skipif(not (REFERENCE / "class-mnist.npz").is_file(), reason="the reference run is not there yet")
def test_the_reference_run_is_the_papers_recipe():
    history = load_history()
    assert history.is_reference
    assert (len(history.steps), len(history.epochs)) == (paper.STEPS, paper.EPOCHS)
    assert history.epochs["val_accuracy"].iloc[-1] > 0.99
    assert history.epochs["batch_accuracy"].between(0.98, 1).all()


def test_nothing_is_left_where_saving_fails(home, tmp_path):
    home.mkdir()
    (home / "runs").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="cannot write"):
        save_history(made_history(), "mine")
    with pytest.raises(HistoryError, match="JSON"):
        made_history(**{"circle": (circle := {}), "json": circle.update(circle=circle)}).save(tmp_path / "x.npz")
    assert not (tmp_path / "x.npz").exists()


def test_about_takes_what_a_run_knows(tmp_path):
    about = {"accuracy": np.float32(0.5), "paths": [tmp_path], "seeds": np.arange(2)}
    loaded = History.load(made_history(**about).save(tmp_path / "run.npz"))
    assert loaded.about == {"accuracy": 0.5, "paths": [str(tmp_path)], "seeds": [0, 1]}
    assert json.dumps(loaded.about)
