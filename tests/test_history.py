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
from mnist_kit.history import EPOCH_COLUMNS, QUANTITIES, History, load_history, save_history


def made_history(losses=(2.0, 1.0, 0.5, 0.25, 0.75, 0.125), epochs=2, seconds=0.01, **about) -> History:
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
            "seconds": 2.0,
            "eval_seconds": 0.5,
            "learning_rate": 0.003,
        }
    )
    return History(steps, table, about)


def test_summary_of_a_run_worked_out_by_hand():
    history = made_history(paper_accuracy=[0.93, 0.92])
    history.steps.loc[0, "seconds"] = 0.5  # a delay: above the cut of 0.04 s
    expected = {
        "steps": 6,
        "epochs": 2,
        "lowest_step_loss": 0.125,
        "lowest_step_loss_step": 6,
        "lowest_step_loss_epoch": 2,
        "total_seconds": 0.55,
        "mean_seconds": 0.55 / 6,
        "seconds_cut": 0.04,
        "share_under_cut": 5 / 6,
        "total_seconds_under_cut": 0.05,
        "mean_seconds_under_cut": 0.01,
        "eval_seconds": 1.0,
        "mean_eval_seconds": 0.5,
        "lowest_val_loss": 0.5,
        "lowest_val_loss_epoch": 2,
        "last_val_loss": 0.5,
        "lowest_loss": 0.375,
        "lowest_loss_epoch": 2,
        "last_loss": 0.375,
        "lowest_end_loss": 0.125,
        "lowest_end_loss_epoch": 2,
        "last_end_loss": 0.125,
        "best_val_accuracy": 0.92,
        "best_val_accuracy_epoch": 2,
        "last_val_accuracy": 0.92,
        "best_batch_accuracy": 0.93,
        "best_batch_accuracy_epoch": 1,
        "last_batch_accuracy": 0.92,
    }
    summary = history.summary().to_dict()
    assert summary == pytest.approx(expected)
    assert list(summary) == list(QUANTITIES)


def test_the_cut_keeps_its_distance_from_a_slow_machine():
    history = made_history(seconds=0.3)
    history.steps.loc[2, "seconds"] = 5.0
    assert history.seconds_cut() == pytest.approx(0.3 * 0.04 / 0.013593)
    assert history.summary()["total_seconds_under_cut"] == pytest.approx(1.5)


def test_nan_losses_are_passed_over():
    history = made_history(losses=(math.nan, 3.0, 1.0, math.nan, math.nan, math.nan))
    assert history.summary()["lowest_step_loss_step"] == 3
    history.steps["loss"] = math.nan
    assert math.isnan(history.summary()["lowest_step_loss"])
    assert history.best().loc["lowest loss of a step"].isna().all()


def test_a_run_stopped_in_its_first_epoch_has_a_summary():
    history = made_history()
    history = History(history.steps, history.epochs.iloc[:0])
    assert history.summary()["total_seconds"] == pytest.approx(0.06)
    assert math.isnan(history.summary()["last_val_accuracy"])
    assert len(history.compare_with_paper()) and len(history.best())


def test_compare_with_paper_sets_every_stated_number_beside_this_runs():
    table = made_history(paper_accuracy=[0.99, 0.995]).compare_with_paper()
    assert table["paper"].notna().sum() == len(paper.STATED)
    last_val_loss = table[table["quantity"] == "last test loss"]
    assert list(last_val_loss["paper"]) == [0.022014, 0.01967]
    accuracy = table[table["quantity"] == "highest test accuracy, mean of batches"].iloc[0]
    assert (accuracy["paper"], accuracy["this run"]) == (99.519, 99.5)
    assert accuracy["difference"] == pytest.approx(-0.019)
    total = table[table["quantity"] == "all steps together"].iloc[0]
    assert total["ratio"] == pytest.approx(0.06 / 160.049, abs=1e-3)


def test_best_rows():
    best = made_history().best()
    assert list(best.loc["lowest loss of a step", ["step", "epoch", "val_accuracy"]]) == [6, 2, 0.92]
    assert list(best.loc["lowest test loss", ["step", "epoch", "val_loss"]]) == [6, 2, 0.5]
    assert list(best.loc["highest accuracy", ["step", "epoch", "val_accuracy"]]) == [6, 2, 0.92]


@pytest.mark.parametrize("call", ["summary", "compare_with_paper", "best", "seconds_cut"])
def test_zero_steps_say_so(call):
    history = made_history()
    with pytest.raises(HistoryError, match=r"0 steps.*train"):
        getattr(History(history.steps.iloc[:0], history.epochs.iloc[:0]), call)()


def test_a_missing_column_is_named():
    history = made_history()
    with pytest.raises(HistoryError, match=r"history.steps has no column seconds"):
        History(history.steps.drop(columns="seconds"), history.epochs)


floats32 = st.floats(width=32, allow_nan=True, allow_infinity=False)


@given(
    steps=st.lists(st.tuples(st.integers(1, 40), floats32, floats32), min_size=1, max_size=60),
    epochs=st.lists(st.lists(st.floats(allow_infinity=False), min_size=6, max_size=6), max_size=5),
    about=st.dictionaries(st.text(max_size=8).filter(lambda key: key != "source"), st.integers() | st.text(max_size=8)),
)
def test_save_and_load_give_the_same_run(tmp_path_factory, steps, epochs, about):
    epoch, seconds, loss = map(np.array, zip(*steps, strict=True))
    table = {"step": np.arange(1, len(steps) + 1), "epoch": epoch, "seconds": seconds, "loss": loss}
    numbers = np.array(epochs, dtype=float).reshape(-1, 6)
    epoch_table = {"epoch": np.arange(1, len(epochs) + 1), **dict(zip(EPOCH_COLUMNS[1:], numbers.T, strict=True))}
    history = History(pd.DataFrame(table), pd.DataFrame(epoch_table), about)
    loaded = History.load(history.save(tmp_path_factory.mktemp("runs") / "run.npz"))
    pd.testing.assert_frame_equal(loaded.steps, history.steps.astype({"seconds": float, "loss": float}))
    pd.testing.assert_frame_equal(loaded.epochs, history.epochs)
    assert loaded.about == about


def test_the_papers_run_fits_in_a_small_file(tmp_path):
    random = np.random.default_rng(0)
    history = made_history(losses=random.exponential(0.1, paper.STEPS), epochs=25)
    history.steps["seconds"] = random.normal(0.0136, 0.001, paper.STEPS)
    assert history.save(tmp_path / "run.npz").stat().st_size < 110_000


def test_loading_says_what_is_wrong(tmp_path):
    whole = made_history().save(tmp_path / "whole.npz").read_bytes()
    cases = {"cut.npz": whole[: len(whole) // 2], "empty.npz": b"", "text.npz": b"step,loss\n1,2\n"}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(HistoryError, match=rf"{name} is not a history, or it is damaged"):
            History.load(tmp_path / name)
    with pytest.raises(HistoryError, match="there is no history at"):
        History.load(tmp_path / "nowhere.npz")
    with pytest.raises(HistoryError, match="damaged"):
        History.load(tmp_path)
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    with pytest.raises(HistoryError, match=r"has no about, steps\.step"):
        History.load(tmp_path / "other.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(HistoryError, match="not a history"):
        History.load(tmp_path / "array.npy")
    with np.load(tmp_path / "whole.npz") as file:
        columns = dict(file)
    for name, length in (("steps.loss", 2), ("steps.epoch", 0)):
        np.savez(tmp_path / "ragged.npz", **{**columns, name: columns[name][:length]})
        with pytest.raises(HistoryError, match="damaged"):
            History.load(tmp_path / "ragged.npz")
    none = {name: values[:0] for name, values in columns.items() if name.startswith("steps")}
    np.savez(tmp_path / "none.npz", **{**columns, **none})
    with pytest.raises(HistoryError, match="0 steps"):
        History.load(tmp_path / "none.npz")


def test_flipped_bytes_never_give_another_error(tmp_path):
    whole = bytearray(made_history().save(tmp_path / "run.npz").read_bytes())
    for position in range(0, len(whole), 7):
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
    for name in ("../mine", "..", ".hidden", "a/b", "a b", ""):
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
    assert history.summary()["steps"] == paper.STEPS and history.summary()["epochs"] == paper.EPOCHS
    assert history.summary()["last_val_accuracy"] > 0.99


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
