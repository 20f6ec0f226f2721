"""The helpers behind the notebooks: from raw MNIST to a network that recognises what you draw.

Every name below can be imported from here. Each is loaded on first use, so that `import mnist_kit` costs nothing and
training on a server never imports a widget.
"""

from importlib import import_module

_NAMES = {
    "errors": (
        "DataError DataNotFound DrawingError EmptyDrawing HistoryError HistoryNotFound ImageError MnistKitError "
        "RecipeError RecognizerError StorageError TrainingError WeightsError"
    ),
    "files": "data_folder figures_folder home_folder",
    "data": "Digits Split class_table export_images load_mnist",
    "models": "MODELS Net make_model summary",
    "recipes": "PAPER QUICK RECIPES SMALL Recipe get_recipe recipe_for",
    "training": "Callback Evaluation Run as_input best_device evaluate fit",
    "checkpoints": "load_weights save_weights weights_about",
    "history": "History load_history save_history",
    "live": "LiveCurves ProgressLine",
    "ink": "Drawing Stroke append_drawing read_drawings",
    "photos": "as_raster",
    "simulate": "PhotoSettings photograph",
    "framing": "frame_as_mnist frame_as_paper",
    "recognizer": "Prediction Recognizer",
    "segmentation": "ReadDigit as_text split",
    "reading": "Reading read",
    "pad": "DigitPad",
    "synthetic": "load_digits make_digits sample_drawing",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}
_MODULES = {*_NAMES, "paper", "plots"}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
    if name in _MODULE_OF:
        value = getattr(import_module(f"mnist_kit.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return import_module(f"mnist_kit.{name}")
    raise AttributeError(f"module 'mnist_kit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
