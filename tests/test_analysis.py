import math

import pytest
from test_history import made_history

from mnist_kit import analysis, paper
from mnist_kit.errors import HistoryError
from mnist_kit.history import History


def test_summary_of_a_run_worked_out_by_hand():
    history = made_history(batch_accuracy=[0.93, 0.92])
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
    summary = analysis.summarize(history).to_dict()
    assert summary == pytest.approx(expected)
    assert list(summary) == [quantity.key for quantity in paper.QUANTITIES]


def test_the_cut_keeps_its_distance_from_a_slow_machine():
    history = made_history(seconds=0.3)
    history.steps.loc[2, "seconds"] = 5.0
    assert analysis.seconds_cut(history) == pytest.approx(0.3 * 0.04 / 0.013593)
    assert analysis.summarize(history)["total_seconds_under_cut"] == pytest.approx(1.5)


def test_nan_losses_are_passed_over_and_a_run_may_stop_in_its_first_epoch():
    history = made_history(losses=(math.nan, 3.0, 1.0, math.nan, math.nan, math.nan))
    assert analysis.summarize(history)["lowest_step_loss_step"] == 3
    history.steps["loss"] = math.nan
    assert math.isnan(analysis.summarize(history)["lowest_step_loss"])
    assert analysis.best(history).loc["lowest loss of a step"].isna().all()
    stopped = History(history.steps, history.epochs.iloc[:0])
    assert analysis.summarize(stopped)["total_seconds"] == pytest.approx(0.06)
    assert math.isnan(analysis.summarize(stopped)["last_val_accuracy"])
    assert len(analysis.compare_with_paper(stopped)) and len(analysis.best(stopped))


def test_compare_with_paper_sets_every_stated_number_beside_this_runs():
    table = analysis.compare_with_paper(made_history(batch_accuracy=[0.99, 0.995]))
    assert table["paper"].notna().sum() == sum(len(quantity.stated) for quantity in paper.QUANTITIES)
    last_val_loss = table[table["quantity"] == "last test loss"]
    assert list(last_val_loss["paper"]) == [0.022014, 0.01967]
    accuracy = table[table["quantity"] == "highest test accuracy, mean of batches"].iloc[0]
    assert (accuracy["paper"], accuracy["this run"]) == (99.519, 99.5)
    assert accuracy["difference"] == pytest.approx(-0.019)
    total = table[table["quantity"] == "total of all steps"].iloc[0]
    assert total["ratio"] == pytest.approx(0.06 / 160.049, abs=1e-3)


def test_best_rows():
    best = analysis.best(made_history())
    assert list(best.loc["lowest loss of a step", ["step", "epoch", "val_accuracy"]]) == [6, 2, 0.92]
    assert list(best.loc["lowest test loss", ["step", "epoch", "val_loss"]]) == [6, 2, 0.5]
    assert list(best.loc["highest accuracy", ["step", "epoch", "val_accuracy"]]) == [6, 2, 0.92]


@pytest.mark.parametrize("call", ["summarize", "compare_with_paper", "best", "seconds_cut"])
def test_zero_steps_say_so(call):
    history = made_history()
    with pytest.raises(HistoryError, match=r"0 steps.*train"):
        getattr(analysis, call)(History(history.steps.iloc[:0], history.epochs.iloc[:0]))
