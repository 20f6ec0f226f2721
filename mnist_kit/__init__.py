"""The helpers behind the notebooks: from raw MNIST to a network that recognises what you draw.

Every name in `__all__` can be imported from here; figures are in `mnist_kit.plots`, the paper's numbers in
`mnist_kit.paper`. What needs a notebook is loaded on first use, so that training on a server imports no widget.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from mnist_kit import errors
from mnist_kit.adaptation import adapt, forget
from mnist_kit.checkpoints import load_weights, save_weights, weights_about
from mnist_kit.data import Digits, Split, class_table, export_images, load_mnist
from mnist_kit.device import as_input, best_device
from mnist_kit.errors import *  # noqa: F403 (all of them)
from mnist_kit.evaluation import Evaluation, evaluate
from mnist_kit.files import home_folder
from mnist_kit.history import History, load_history, save_history
from mnist_kit.ink import Drawing, Stroke, append_drawing, read_drawings
from mnist_kit.models import BestNet, FastNet, Net, make_model, summary
from mnist_kit.reading import Reading, read
from mnist_kit.recipes import BEST, COMMITTEE, PAPER, QUICK, SMALL, Recipe, recipe_for
from mnist_kit.recognizer import Prediction, Recognizer
from mnist_kit.segmentation import as_text, split
from mnist_kit.synthetic import load_digits, make_digits, sample_drawing
from mnist_kit.training import Callback, Run, fit

if TYPE_CHECKING:
    from mnist_kit.live import LiveCurves, ProgressLine
    from mnist_kit.pad import DigitPad

_LAZY = {"LiveCurves": "live", "ProgressLine": "live", "DigitPad": "pad"}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"mnist_kit.{_LAZY[name]}"), name)


# fmt: off
__all__ = [
    *errors.__all__,
    "BEST", "COMMITTEE", "PAPER", "QUICK", "SMALL", "BestNet", "Callback", "DigitPad", "Digits", "Drawing",
    "Evaluation", "FastNet", "History", "LiveCurves", "Net", "Prediction", "ProgressLine", "Reading", "Recipe",
    "Recognizer", "Run", "Split", "Stroke", "adapt", "append_drawing", "as_input", "as_text", "best_device",
    "class_table", "evaluate", "export_images", "fit", "forget", "home_folder", "load_digits", "load_history",
    "load_mnist", "load_weights", "make_digits", "make_model", "read", "read_drawings", "recipe_for",
    "sample_drawing", "save_history", "save_weights", "split", "summary", "weights_about",
]
# fmt: on
