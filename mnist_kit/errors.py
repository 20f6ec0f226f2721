"""Every error that mnist_kit raises on purpose. Catch `MnistKitError` to catch them all."""


class MnistKitError(Exception):
    """Base of the project's errors; each message names the input and what to do about it."""


class DataError(MnistKitError):
    """The files or arrays of a data set are not what they should be."""


class DataNotFound(DataError):
    """A data set is neither in the data folder nor to be had from its mirrors."""


class StorageError(MnistKitError):
    """A folder or file cannot be written or read."""


class RecipeError(MnistKitError):
    """A training setting makes no sense, or not with this data."""


class TrainingError(MnistKitError):
    """Training cannot start or go on."""


class ContactLost(TrainingError):
    """Another process of the same training does not answer any more."""


class LossNotFinite(TrainingError):
    """The loss became NaN or infinite. step, learning_rate: where; history: all of the run."""

    def __init__(self, message: str, step: int, learning_rate: float, history: object):
        super().__init__(message)
        self.step, self.learning_rate, self.history = step, learning_rate, history


class CheckpointError(MnistKitError):
    """A run cannot go on from its checkpoints: they are of another run, of a newer version, or damaged."""


class WeightsError(MnistKitError):
    """Weights are missing, damaged, or of another model."""


class HistoryError(MnistKitError):
    """A training history is damaged or empty."""


class HistoryNotFound(HistoryError):
    """No training history has that name."""


class ImageError(MnistKitError):
    """A picture cannot be turned into a model's input."""


class EmptyDrawing(ImageError):
    """There is no ink to recognise."""


class DrawingError(MnistKitError):
    """Strokes, or a file of drawings, are malformed."""


class RecognizerError(MnistKitError):
    """A recognizer of the reader's own does not answer with ten probabilities."""
