"""Every error that mnist_kit raises on purpose. Catch `MnistKitError` to catch them all."""

# fmt: off
__all__ = [
    "CheckpointError", "ContactLost", "DataError", "DataNotFound", "DrawingError", "EmptyDrawing", "ExportError",
    "HistoryError", "HistoryNotFound", "ImageError", "LossNotFinite", "MnistKitError", "ModelError", "RecipeError",
    "RecognizerError", "StorageError", "TrainingError", "WeightsError",
]
# fmt: on


class MnistKitError(Exception):
    """Base of the project's errors; each message names the input and what to do about it."""


class DataError(MnistKitError, ValueError):
    """The files, arrays or settings of a data set are not what they should be."""


class DataNotFound(DataError):
    """A data set is not in the data folder, and none of its mirrors has delivered it."""


class StorageError(MnistKitError):
    """A folder or file cannot be written or read."""


class ModelError(MnistKitError, ValueError):
    """There is no such model, or a module is not one that can be trained or asked."""


class RecipeError(MnistKitError, ValueError):
    """A training setting makes no sense, or not with this data."""


class TrainingError(MnistKitError):
    """Training cannot start or continue."""


class ContactLost(TrainingError):
    """Another process of the same training no longer answers."""


class LossNotFinite(TrainingError):
    """The loss became NaN or infinite. step, learning_rate: where it happened; history: the whole run."""

    def __init__(self, message: str, step: int, learning_rate: float, history: object):
        super().__init__(message)
        self.step, self.learning_rate, self.history = step, learning_rate, history


class CheckpointError(MnistKitError):
    """A run cannot resume from its checkpoints: they belong to another run or a newer version, or are damaged."""


class WeightsError(MnistKitError):
    """Weights are missing, damaged, or belong to another model."""


class HistoryError(MnistKitError):
    """A training history is damaged or empty."""


class HistoryNotFound(HistoryError):
    """No training history has that name."""


class ImageError(MnistKitError, ValueError):
    """A picture cannot be turned into a model's input."""


class EmptyDrawing(ImageError):
    """There is no ink to recognise."""


class DrawingError(MnistKitError):
    """Strokes, or a file of drawings, are malformed."""


class RecognizerError(MnistKitError):
    """A recognizer of the reader's own does not answer with ten probabilities."""


class ExportError(MnistKitError):
    """A recogniser cannot be taken elsewhere: it is no network of that kind, or what exporting needs is missing."""
