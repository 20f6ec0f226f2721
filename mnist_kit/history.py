"""What happened in a training run: a table of steps and a table of epochs, saved and loaded by name."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from mnist_kit.errors import HistoryError, HistoryNotFound
from mnist_kit.files import REFERENCE, find, home_folder, is_plain_name, keep_better, known_names, write_atomically

METRICS = ("loss", "val_loss", "val_accuracy", "batch_accuracy")
# The columns of the two tables and their types.
STEPS = {"step": np.int64, "epoch": np.int64, "seconds": np.float64, "loss": np.float64}
EPOCHS = {"epoch": np.int64, **dict.fromkeys((*METRICS, "seconds", "eval_seconds", "learning_rate"), np.float64)}
TABLES = {"steps": STEPS, "epochs": EPOCHS}


@dataclass(eq=False, repr=False)
class History:
    """A run, step by step and epoch by epoch.

    steps: step int64 (1..n), epoch int64 (1..), seconds float64 (that step alone), loss float64 (cross-entropy of its
    batch, in nats; never with smoothed labels, so that it compares with that of images held back).
    epochs: a row per finished epoch: epoch, loss (mean of its steps), val_loss, val_accuracy (fraction of the test
    set), batch_accuracy (mean of the accuracies of its batches, as the paper reports it; NaN where unknown), seconds
    (evaluation included), eval_seconds, learning_rate (at the start of the epoch).
    about: recipe, data set, device, machine, seed, …: anything that JSON can hold.
    Raises HistoryError when a table or a column is missing or `about` is not a dict.
    """

    steps: pd.DataFrame
    epochs: pd.DataFrame
    about: dict = field(default_factory=dict)

    def __post_init__(self):
        if not isinstance(self.about, dict):
            raise HistoryError(f"history.about must be a dict, not a {type(self.about).__name__}")
        for name, types in TABLES.items():
            columns = getattr(getattr(self, name), "columns", ())
            missing = ", ".join(column for column in types if column not in columns)
            if missing:
                raise HistoryError(f"history.{name} has no column {missing}; it needs {', '.join(types)}")

    def __repr__(self) -> str:
        last = "" if self.epochs.empty else f", {self.held_back} accuracy {self.epochs['val_accuracy'].iloc[-1]:.2%}"
        return f"History({len(self.steps):,} steps, {len(self.epochs)} epochs{last})"

    @property
    def is_reference(self) -> bool:
        """Whether this is the run that ships with the package and not one of the reader's own."""
        return self.about.get("source") == "reference"

    @property
    def held_back(self) -> str:
        """What images `val_loss` and `val_accuracy` are of: "validation" (of `Digits.validation`) or "test"."""
        return "validation" if str(self.about.get("data")).endswith("-validation") else "test"

    def require_steps(self) -> None:
        """Raise HistoryError when the run has no steps, so that there is nothing to draw, sum up or save."""
        if self.steps.empty:
            raise HistoryError("this history has 0 steps: train for at least one step, or use load_history()")


def save_history(history: History, name: str = "class-mnist") -> Path:
    """Save a run of the reader's as `runs/<name>.npz` in the home folder, and return the path.

    One file of plain arrays, no pickle. A run of that name with a higher accuracy at its end is kept under another, and
    a warning says which. Raises HistoryError when there are no steps, a column holds something else than `History`
    says, `about` does not fit into JSON, or the name is no plain file name; StorageError when the file cannot be
    written.
    """
    if not isinstance(history, History):
        raise HistoryError(f"save_history takes the History that fit returns, not {history!r:.80}")
    history.require_steps()
    path = home_folder() / "runs" / _filename(name)
    given = {f"{name}.{column}": values for name in TABLES for column, values in getattr(history, name).items()}
    try:
        about = json.dumps({key: value for key, value in history.about.items() if key != "source"}, default=plain)
        tables = {name: _table(given, name, types) for name, types in TABLES.items()}
    except (TypeError, ValueError, RuntimeError) as error:
        raise HistoryError(f"this history cannot be saved, about as JSON and the rest as numbers: {error}") from error
    arrays = {f"{name}.{column}": values for name, table in tables.items() for column, values in table.items()}
    keep_better(path, _accuracy(history), lambda file: _accuracy(load_history(file.stem)))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, about=about, **arrays)
    return write_atomically(path, buffer.getvalue())


def load_history(name: str = "class-mnist", own: bool = True) -> History:
    """The reader's own run of that name, else the reference run that ships with the package.

    own: False looks for the reference run only. `about["source"]` is "yours" or "reference". Raises HistoryNotFound,
    listing the runs there are, and HistoryError for a file that is damaged, something else, or of no steps.
    """
    path = find("runs", _filename(name), own)
    if path is None:
        known = ", ".join(known_names("runs", ".npz")) or "none"
        raise HistoryNotFound(f"no run is called {name!r}; there are: {known} (in {home_folder() / 'runs'})")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            tables = {table: _table(arrays, table, types) for table, types in TABLES.items()}
            history = History(**tables, about=json.loads(str(arrays["about"])))
        history.require_steps()
    except Exception as error:  # a damaged archive fails in a dozen ways, from zlib to the parser of headers
        raise HistoryError(f"{path} is not a history, or it is damaged ({error}): train or copy it again") from error
    history.about["source"] = "reference" if path.parent == REFERENCE else "yours"
    return history


def _accuracy(history: History) -> float:
    return 0.0 if history.epochs.empty else float(history.epochs["val_accuracy"].iloc[-1])


def _filename(name: str) -> str:
    if not is_plain_name(name):
        raise HistoryError(f"{name!r} cannot name a run: use letters, digits, '-', '_' and '.' only, 100 at most")
    return f"{name}.npz"


def _table(arrays: Mapping[str, np.ndarray], name: str, types: dict[str, type]) -> pd.DataFrame:
    """Raises TypeError for text, or fractions where whole numbers belong; ValueError for columns of unequal lengths,
    steps that are not counted from 1, and accuracies that are no fractions.
    """
    columns = {}
    for column, kind in types.items():
        values = np.asarray(arrays[f"{name}.{column}"])
        fits = values.dtype != bool and np.can_cast(values.dtype, kind, "same_kind")
        if values.ndim != 1 or (len(values) and not fits):  # an empty column may be of any type
            raise TypeError(f"{name}.{column} has to be {kind.__name__} (n,), not {values.dtype} {values.shape}")
        columns[column] = values = values.astype(kind)
        if column == "step" and (values != np.arange(1, len(values) + 1)).any():
            raise ValueError(f"{name}.{column} has to be 1, 2, 3 and so on")
        if column.endswith("accuracy") and ((values < 0) | (values > 1)).any():  # NaN where unknown
            raise ValueError(f"{name}.{column} has to be from 0 to 1")
    return pd.DataFrame(columns)


def plain(value: object) -> object:
    """For JSON: numbers, arrays and tensors as Python's own; what else it does not know (a path, a date) as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
