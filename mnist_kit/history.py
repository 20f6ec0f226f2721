"""What happened in a training run: a table of steps, a table of epochs, their summary, saving and loading."""

import io
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from mnist_kit import paper
from mnist_kit.errors import HistoryError, HistoryNotFound
from mnist_kit.files import REFERENCE, find, home_folder, is_plain_name, write_atomically

STEP_COLUMNS = ("step", "epoch", "seconds", "loss")
EPOCH_COLUMNS = ("epoch", "loss", "val_loss", "val_accuracy", "seconds", "eval_seconds", "learning_rate")

# Every row of `summary()`: its name for the reader and its unit.
QUANTITIES = {
    "steps": ("training steps", ""),
    "epochs": ("finished epochs", ""),
    "lowest_step_loss": ("lowest loss of a step", ""),
    "lowest_step_loss_step": ("… its step", ""),
    "lowest_step_loss_epoch": ("… its epoch", ""),
    "total_seconds": ("all steps together", "s"),
    "mean_seconds": ("mean step", "s"),
    "seconds_cut": ("cut: steps that took less", "s"),
    "share_under_cut": ("share of steps under the cut", "%"),
    "total_seconds_under_cut": ("steps under the cut together", "s"),
    "mean_seconds_under_cut": ("mean step under the cut", "s"),
    "eval_seconds": ("evaluation in all (paper: preparation)", "s"),
    "mean_eval_seconds": ("mean evaluation of an epoch", "s"),
    "lowest_val_loss": ("lowest test loss", ""),
    "lowest_val_loss_epoch": ("… its epoch", ""),
    "last_val_loss": ("last test loss", ""),
    "lowest_loss": ("lowest training loss of an epoch, mean of its steps", ""),
    "lowest_loss_epoch": ("… its epoch", ""),
    "last_loss": ("last training loss of an epoch, mean of its steps", ""),
    "lowest_end_loss": ("lowest loss of an epoch's last step", ""),
    "lowest_end_loss_epoch": ("… its epoch", ""),
    "last_end_loss": ("loss of the very last step", ""),
    "best_val_accuracy": ("highest test accuracy, exact", "%"),
    "best_val_accuracy_epoch": ("… its epoch", ""),
    "last_val_accuracy": ("last test accuracy, exact", "%"),
    "best_batch_accuracy": ("highest test accuracy, mean of batches", "%"),
    "best_batch_accuracy_epoch": ("… its epoch", ""),
    "last_batch_accuracy": ("last test accuracy, mean of batches", "%"),
}


@dataclass(eq=False, repr=False)
class History:
    """A run, step by step and epoch by epoch.

    steps: columns step int64 (1..n), epoch int64 (1..), seconds float64 (that step alone), loss float64.
    epochs: one row a finished epoch: epoch, loss (mean of its steps), val_loss, val_accuracy (fraction of the test
    set), seconds (evaluation included), eval_seconds, learning_rate.
    about: the recipe, data set, device, machine, seed, …: anything JSON holds; `about["paper_accuracy"]` is the mean of
    batch accuracies after each epoch.
    Raises HistoryError when a column is missing.
    """

    steps: pd.DataFrame
    epochs: pd.DataFrame
    about: dict = field(default_factory=dict)

    def __post_init__(self):
        for name, frame, columns in (("steps", self.steps, STEP_COLUMNS), ("epochs", self.epochs, EPOCH_COLUMNS)):
            missing = [column for column in columns if column not in frame.columns]
            if missing:
                raise HistoryError(f"history.{name} has no column {', '.join(missing)}; it needs {', '.join(columns)}")

    def __repr__(self) -> str:
        last = "" if self.epochs.empty else f", test accuracy {self.epochs['val_accuracy'].iloc[-1]:.2%}"
        return f"History({len(self.steps):,} steps, {len(self.epochs)} epochs{last})"

    @property
    def is_reference(self) -> bool:
        """Whether this is the run that ships with the package and not one of the reader's own."""
        return self.about.get("source") == "reference"

    def seconds_cut(self) -> float:
        """The step time, in seconds, above which a step counts as a delay.

        The paper's 0.04 s where at least half of the steps are faster than that; on a slower machine the same multiple
        of the median step as 0.04 s is of the paper's mean step, 2.9.
        """
        self.require_steps()
        median = float(self.steps["seconds"].median())
        return paper.SECONDS_CUT if not median >= paper.SECONDS_CUT else median * paper.SECONDS_CUT / paper.MEAN_SECONDS

    def require_steps(self) -> None:
        """Raise HistoryError when the run has no steps, so that there is nothing to draw, sum up or save."""
        if self.steps.empty:
            raise HistoryError("this history has 0 steps: train for at least one step, or use load_history()")

    def summary(self) -> pd.Series:
        """Every number of the paper's section 2.4 for this run, by the keys of `QUANTITIES`.

        Losses are cross-entropies in nats, times seconds, accuracies and shares fractions 0..1. What the run does not
        have (no finished epoch, only NaN losses) is NaN. Raises HistoryError when there are 0 steps.
        """
        self.require_steps()
        steps, epochs = self.steps, self.epochs
        cut = self.seconds_cut()
        under_cut = steps["seconds"][steps["seconds"] < cut]
        batch_accuracy = self._batch_accuracy()
        lowest_step = _extreme(steps, "loss")
        lowest_val, lowest = _extreme(epochs, "val_loss"), _extreme(epochs, "loss")
        ends = steps[steps["epoch"].isin(epochs["epoch"])].groupby("epoch").tail(1)
        lowest_end = _extreme(ends, "loss")
        best, best_batch = _extreme(epochs, "val_accuracy", "max"), _extreme(batch_accuracy, "accuracy", "max")
        values = {
            "steps": len(steps),
            "epochs": len(epochs),
            "lowest_step_loss": lowest_step["loss"],
            "lowest_step_loss_step": lowest_step["step"],
            "lowest_step_loss_epoch": lowest_step["epoch"],
            "total_seconds": steps["seconds"].sum(),
            "mean_seconds": steps["seconds"].mean(),
            "seconds_cut": cut,
            "share_under_cut": len(under_cut) / len(steps),
            "total_seconds_under_cut": under_cut.sum(),
            "mean_seconds_under_cut": under_cut.mean(),
            "eval_seconds": epochs["eval_seconds"].sum(),
            "mean_eval_seconds": epochs["eval_seconds"].mean(),
            "lowest_val_loss": lowest_val["val_loss"],
            "lowest_val_loss_epoch": lowest_val["epoch"],
            "last_val_loss": _last(epochs["val_loss"]),
            "lowest_loss": lowest["loss"],
            "lowest_loss_epoch": lowest["epoch"],
            "last_loss": _last(epochs["loss"]),
            "lowest_end_loss": lowest_end["loss"],
            "lowest_end_loss_epoch": lowest_end["epoch"],
            "last_end_loss": _last(ends["loss"]),
            "best_val_accuracy": best["val_accuracy"],
            "best_val_accuracy_epoch": best["epoch"],
            "last_val_accuracy": _last(epochs["val_accuracy"]),
            "best_batch_accuracy": best_batch["accuracy"],
            "best_batch_accuracy_epoch": best_batch["epoch"],
            "last_batch_accuracy": _last(batch_accuracy["accuracy"]),
        }
        return pd.Series({key: _plain(value) for key, value in values.items()}, dtype=object, name="value")

    def compare_with_paper(self) -> pd.DataFrame:
        """`summary()` beside the paper: columns quantity, unit, paper, this run, difference, ratio, where.

        Accuracies and shares are in per cent here, numbers have six significant digits; difference and ratio are this
        run's against the paper's, where both are known and are no position or count. A number that the paper gives
        twice has two rows. Raises HistoryError when there are 0 steps.
        """
        rows = []
        for key, value in self.summary().items():
            quantity, unit = QUANTITIES[key]
            value = value if isinstance(value, int) else float(f"{value * (100 if unit == '%' else 1):.6g}")
            for stated in [s for s in paper.STATED if s.key == key] or [paper.Stated(key, math.nan, "")]:
                measured = isinstance(value, float) and isinstance(stated.value, float) and key != "seconds_cut"
                difference = round(value - stated.value, 6) if measured else math.nan
                ratio = round(value / stated.value, 3) if measured and unit != "%" else math.nan
                rows.append((quantity, unit, stated.value, value, difference, ratio, stated.where))
        columns = ["quantity", "unit", "paper", "this run", "difference", "ratio", "where"]
        table = pd.DataFrame(rows, columns=columns, dtype=object)  # object: counts stay whole numbers
        return table.astype({"quantity": str, "unit": str, "difference": float, "ratio": float, "where": str})

    def best(self) -> pd.DataFrame:
        """The paper's tables: the rows of the lowest loss, the lowest test loss and the highest accuracy.

        Columns step, epoch, loss, val_loss, val_accuracy. The first row is a step, with the evaluation that followed
        it; the others are epochs, with their last step. Raises HistoryError when there are 0 steps.
        """
        self.require_steps()
        rows = {}
        step = _extreme(self.steps, "loss")
        evaluated = self.epochs.set_index("epoch").reindex([step["epoch"]]).iloc[0]
        rows["lowest loss of a step"] = {**evaluated, **step}
        last_steps = self.steps.groupby("epoch")["step"].max()
        wanted = (
            ("training loss", "loss", "min"),
            ("test loss", "val_loss", "min"),
            ("accuracy", "val_accuracy", "max"),
        )
        for name, column, kind in wanted:
            epoch = _extreme(self.epochs, column, kind)
            title = f"{'highest' if kind == 'max' else 'lowest'} {name}"
            rows[title] = {**epoch, "step": last_steps.get(epoch["epoch"], math.nan)}
        table = pd.DataFrame.from_dict(rows, orient="index")[["step", "epoch", "loss", "val_loss", "val_accuracy"]]
        return table.astype({"step": "Int64", "epoch": "Int64"})

    def save(self, path: Path | str) -> Path:
        """Write the run to one file of plain arrays, no pickle; 11,700 steps take about 100 KB.

        Seconds and losses of steps are kept as float32, all else exactly. Raises HistoryError when there are 0 steps or
        `about` is no JSON, StorageError when the file cannot be written.
        """
        self.require_steps()
        about = {key: value for key, value in self.about.items() if key != "source"}
        try:
            about_json = json.dumps(about, default=_plain)
        except (TypeError, ValueError) as error:
            raise HistoryError(f"history.about cannot be written as JSON: {error}") from error
        columns = {
            # Differences of counters are nearly constant and compress to nothing.
            "steps.step": np.diff(self.steps["step"].to_numpy(np.int64), prepend=0).astype(np.int32),
            "steps.epoch": np.diff(self.steps["epoch"].to_numpy(np.int64), prepend=0).astype(np.int32),
            "steps.seconds": self.steps["seconds"].to_numpy(np.float32),
            "steps.loss": self.steps["loss"].to_numpy(np.float32),
            **{f"epochs.{name}": self.epochs[name].to_numpy(_dtype(name)) for name in EPOCH_COLUMNS},
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, about=np.array(about_json), **columns)
        return write_atomically(Path(path), buffer.getvalue())

    @classmethod
    def load(cls, path: Path | str) -> "History":
        """Read what `save` wrote. Raises HistoryError: the file is missing, damaged, something else, or of 0 steps."""
        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
        except FileNotFoundError as error:
            raise HistoryError(f"there is no history at {path}") from error
        except Exception as error:  # a damaged archive fails in a dozen ways, from zlib to the parser of headers
            raise HistoryError(
                f"{path} is not a history, or it is damaged ({error}): train again, or copy it again"
            ) from error
        wanted = ["about", *(f"steps.{name}" for name in STEP_COLUMNS), *(f"epochs.{name}" for name in EPOCH_COLUMNS)]
        missing = [name for name in wanted if name not in columns]
        if missing:
            raise HistoryError(f"{path} is not a history: it has no {', '.join(missing)}")
        for counter in ("steps.step", "steps.epoch"):
            columns[counter] = np.cumsum(columns[counter], dtype=np.int64)
        try:
            steps = pd.DataFrame({name: columns[f"steps.{name}"].astype(_dtype(name)) for name in STEP_COLUMNS})
            epochs = pd.DataFrame({name: columns[f"epochs.{name}"].astype(_dtype(name)) for name in EPOCH_COLUMNS})
            about = json.loads(str(columns["about"]))
        except ValueError as error:
            raise HistoryError(f"{path} is a damaged history ({error}): train again, or copy it again") from error
        history = cls(steps, epochs, about)
        if steps.empty:
            raise HistoryError(f"{path} is a history of 0 steps: train again")
        return history

    def _batch_accuracy(self) -> pd.DataFrame:
        accuracy = self.about.get("paper_accuracy") or []
        return pd.DataFrame({"epoch": np.arange(1, len(accuracy) + 1), "accuracy": np.array(accuracy, dtype=float)})


def save_history(history: History, name: str = "class-mnist") -> Path:
    """Save a run of the reader's under `name`, in `runs/` of the home folder. Raises as `History.save` does."""
    return history.save(home_folder() / "runs" / f"{_checked(name)}.npz")


def load_history(name: str = "class-mnist", own: bool = True) -> History:
    """The reader's own run of that name, else the reference run that ships with the package.

    own: False looks for the reference run only. `about["source"]` is "yours" or "reference". Raises HistoryNotFound,
    listing the runs there are, and HistoryError for a damaged file.
    """
    path = find("runs", f"{_checked(name)}.npz", own)
    if path is None:
        folders = (home_folder() / "runs", REFERENCE)
        known = sorted({path.stem for folder in folders for path in folder.glob("*.npz")})
        raise HistoryNotFound(f"no run is called {name!r}; there are: {', '.join(known) or 'none'} (in {folders[0]})")
    history = History.load(path)
    history.about["source"] = "reference" if path.parent == REFERENCE else "yours"
    return history


def _checked(name: str) -> str:
    if not is_plain_name(name):
        raise HistoryError(f"{name!r} cannot name a run: use letters, digits, '-', '_' and '.' only")
    return name


def _dtype(column: str) -> type:
    return np.int64 if column in ("step", "epoch") else np.float64


def _extreme(frame: pd.DataFrame, column: str, kind: str = "min") -> dict[str, float]:
    """The first row with the lowest (or highest) value of `column`; NaN throughout when there is none."""
    values = frame[column].to_numpy(float)
    if np.isnan(values).all():
        return dict.fromkeys(frame.columns, math.nan)
    row = np.nanargmin(values) if kind == "min" else np.nanargmax(values)
    return {name: frame[name].iloc[row] for name in frame.columns}


def _last(column: pd.Series) -> float:
    return math.nan if column.empty else column.iloc[-1]


def _plain(value: object) -> object:
    """Numpy's numbers and arrays as Python's own; anything else that JSON does not know (a path, a device) as text."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value if isinstance(value, int | float) else str(value)
