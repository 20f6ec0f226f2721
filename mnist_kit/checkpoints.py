"""Weights by name, as safetensors: plain numbers with a description, nothing that runs when it is loaded."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from mnist_kit.errors import WeightsError
from mnist_kit.files import REFERENCE, find, home_folder, is_plain_name, write_atomically
from mnist_kit.models import make_model
from mnist_kit.recipes import Recipe

DESCRIPTION = ("model", "recipe", "accuracy", "data")  # of the metadata; other tools may have put more there


def save_weights(
    model: nn.Module,
    name: str,
    recipe: Recipe | None = None,
    accuracy: float | None = None,
    data: str | None = None,
) -> Path:
    """Write the model's weights to `weights/<name>.safetensors` in `$MNIST_KIT_HOME`, atomically, and return the path.

    The metadata holds the class of the model, the recipe, the test accuracy (a fraction) and the data set's name.
    Raises WeightsError for a name that is no plain file name, StorageError when it cannot be written.
    """
    check_name(name)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    about = (type(model).__name__, recipe.as_dict() if recipe else None, accuracy, data)
    metadata = {key: json.dumps(value) for key, value in zip(DESCRIPTION, about, strict=True)}
    return write_atomically(home_folder() / "weights" / f"{name}.safetensors", save(tensors, metadata))


def check_name(name: str) -> None:
    """Raise WeightsError for a name that is no plain file name, such as one that leads to another folder."""
    if not is_plain_name(name):
        raise WeightsError(f"{name!r} cannot name weights: use letters, digits, '-', '_' and '.' only")


def load_weights(name: str = "class-mnist", model: nn.Module | None = None) -> nn.Module:
    """The model with the weights saved as `name`, on the CPU, in evaluation mode.

    The reader's own weights come first, then those that ship with the package: "class-mnist" is the paper's run.
    model: load into this one; None makes a new one of the class that the file names.
    Raises WeightsError when there are none of that name, the file is damaged, or a tensor does not fit the model
    (the message says which); `model` is then unchanged.
    """
    path = weights_path(name)
    tensors, about = _read(path)
    model = make_model(about["model"] or "Net") if model is None else model
    expected = model.state_dict()
    for key in [*expected, *tensors]:
        if key not in tensors:
            raise WeightsError(f"{path}: holds no tensor {key!r}, which {type(model).__name__} needs")
        if key not in expected:
            raise WeightsError(f"{path}: holds a tensor {key!r}, which {type(model).__name__} does not have")
        if tensors[key].shape != expected[key].shape:
            raise WeightsError(
                f"{path}: tensor {key!r} is {tuple(tensors[key].shape)}, "
                f"{type(model).__name__} needs {tuple(expected[key].shape)}"
            )
    model.load_state_dict(tensors)
    return model.cpu().eval()


def weights_about(name: str = "class-mnist") -> dict:
    """What is known of the weights called `name`: model, recipe (settings by name), accuracy (a fraction), data, all
    None where it was not said; path; and source: "reference" for those that ship with the package, else "yours".

    Raises WeightsError as `load_weights` does.
    """
    path = weights_path(name)
    return _read(path)[1] | {"source": "reference" if path.parent == REFERENCE else "yours", "path": path}


def weights_path(name: str) -> Path:
    """Where the weights called `name` are. Raises WeightsError, listing what there is, when they are nowhere."""
    check_name(name)
    path = find("weights", f"{name}.safetensors")
    if path is None:
        folders = (home_folder() / "weights", REFERENCE)
        known = sorted({file.stem for folder in folders for file in folder.glob("*.safetensors")})
        raise WeightsError(
            f"no weights are called {name!r} in {folders[0]} or in the package; there are: {', '.join(known) or 'none'}"
        )
    return path


def _read(path: Path) -> tuple[dict, dict]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            about = {key: json.loads(metadata.get(key, "null")) for key in DESCRIPTION}
            return {key: file.get_tensor(key) for key in file.keys()}, about  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path}: is damaged or no safetensors file ({error}). Train and save again.") from error
