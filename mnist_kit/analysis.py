"""A run beside the paper: every number of its section 2.4, the paper's value for it, and the best steps and epochs."""

import math

import pandas as pd

from mnist_kit import paper
from mnist_kit.history import History


def seconds_cut(history: History) -> float:
    """The step time, in seconds, above which a step counts as a delay.

    The paper's 0.04 s where at least half of the steps are faster than that. On a slower machine, the median step times
    2.9: the paper's 0.04 s are 2.9 times its mean step. Raises HistoryError when there are no steps.
    """
    history.require_steps()
    median = float(history.steps["seconds"].median())
    is_slow = median >= paper.SECONDS_CUT
    return median * paper.SECONDS_CUT / paper.MEAN_SECONDS if is_slow else paper.SECONDS_CUT


def summarize(history: History) -> pd.Series:
    """Every number of the paper's section 2.4 for this run, by the keys of `paper.QUANTITIES`.

    Losses are cross-entropies in nats, times seconds, accuracies and shares fractions 0..1. What the run does not have
    (no finished epoch, only NaN losses) is NaN. Raises HistoryError when there are no steps.
    """
    cut = seconds_cut(history)
    steps = history.steps.assign(cut=cut, is_under_cut=history.steps["seconds"] < cut)
    finished = steps[steps["epoch"].isin(history.epochs["epoch"])]
    tables = {
        "steps": steps,
        "steps under the cut": steps[steps["is_under_cut"]],
        "last steps": finished.groupby("epoch").tail(1),
        "epochs": history.epochs,
    }
    values = {row.key: _take(tables[row.table], row.column, row.take, row.at) for row in paper.QUANTITIES}
    return pd.Series(values, dtype=object, name="value")


def compare_with_paper(history: History) -> pd.DataFrame:
    """`summarize` beside the paper: columns quantity, unit, paper, this run, difference, ratio, where.

    Accuracies and shares are in per cent here, numbers have six significant digits. Difference and ratio are this run's
    against the paper's, for measured numbers that both have. A number that the paper gives twice has two rows. Raises
    HistoryError when there are no steps.
    """
    summary, rows = summarize(history), []
    for quantity in paper.QUANTITIES:
        unit, value = quantity.unit, summary[quantity.key]
        if isinstance(value, float):
            value = float(f"{value * (100 if unit == '%' else 1):.6g}")
        for stated in quantity.stated or ({"value": math.nan, "where": ""},):
            papers = stated["value"]
            measured = isinstance(value, float) and isinstance(papers, float) and quantity.key != "seconds_cut"
            difference = round(value - papers, 6) if measured else math.nan
            ratio = round(value / papers, 3) if measured and unit != "%" else math.nan
            rows.append((quantity.name, unit, papers, value, difference, ratio, stated["where"]))
    columns = ["quantity", "unit", "paper", "this run", "difference", "ratio", "where"]
    table = pd.DataFrame(rows, columns=columns, dtype=object)  # object: counts stay whole numbers
    return table.astype({"quantity": str, "unit": str, "difference": float, "ratio": float, "where": str})


def best(history: History) -> pd.DataFrame:
    """The paper's tables: the rows of the lowest loss, the lowest test loss and the highest accuracy.

    Columns step, epoch, loss, val_loss, val_accuracy. The first row is a step with its epoch's evaluation; the others
    are epochs with their last step. Raises HistoryError when there are no steps.
    """
    history.require_steps()
    columns = ["step", "epoch", "loss", "val_loss", "val_accuracy"]
    evaluated = history.steps.merge(history.epochs.drop(columns=["loss", "seconds"]), on="epoch", how="left")
    epochs = history.epochs.merge(history.steps.groupby("epoch", as_index=False)["step"].max(), on="epoch", how="left")
    rows = {
        "lowest loss of a step": (evaluated, "loss", "min"),
        "lowest training loss": (epochs, "loss", "min"),
        "lowest test loss": (epochs, "val_loss", "min"),
        "highest accuracy": (epochs, "val_accuracy", "max"),
    }
    values = {title: [_take(*row, at=column) for column in columns] for title, row in rows.items()}
    table = pd.DataFrame.from_dict(values, orient="index", columns=columns)
    return table.astype({"step": "Int64", "epoch": "Int64"})


def _take(table: pd.DataFrame, column: str, take: str, at: str | None = None) -> float | int:
    """One number of a table; `at`: what stands in that column of the row. NaN where there is none."""
    values = table[column]
    if take == "count":
        return len(table)
    if take in ("sum", "mean"):
        return float(values.agg(take))
    if values.isna().all():
        return math.nan
    row = {"last": table.index[-1], "min": values.idxmin(), "max": values.idxmax()}[take]
    return table.loc[row, at or column].item()
