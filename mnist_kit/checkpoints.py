"""Weights and checkpoints by name, as safetensors: plain numbers with a description, nothing that runs when loaded.

Weights are what a finished network is; a checkpoint is all that a run needs to go on as if it had not been stopped.
"""

import json
import shutil
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mnist_kit.errors import CheckpointError, StorageError, WeightsError
from mnist_kit.files import REFERENCE, find, home_folder, is_plain_name, write_atomically
from mnist_kit.models import make_model
from mnist_kit.recipes import Recipe

FORMAT = 1  # of checkpoints
KEPT = 2  # checkpoints of a run

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


class Checkpoints:
    """The last two states of a run called `name`, in `checkpoints/<name>/` of `$MNIST_KIT_HOME`.

    A state is tensors by name and `about`, plain values as JSON holds them. Raises CheckpointError for a name that is
    no plain file name.
    """

    def __init__(self, name: str):
        if not is_plain_name(name):
            raise CheckpointError(f"{name!r} cannot name checkpoints: use letters, digits, '-', '_' and '.' only")
        self.name = name
        self.folder = home_folder() / "checkpoints" / name
        self.written: list[Path] = []  # by this run, or gone on from

    def exist(self) -> bool:
        """Whether there is a state, be it damaged."""
        return any(self.folder.glob("step-*.safetensors"))

    def write(self, step: int, tensors: dict[str, Tensor], about: dict) -> Path:
        """Write the state after `step` atomically, drop all but it and the one before, and return the path.

        Raises StorageError when it cannot be written; the earlier ones then stay.
        """
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        text = json.dumps(about)
        metadata = {"format": str(FORMAT), "crc32": str(_crc32(tensors, text)), "about": text}
        path = write_atomically(self.folder / f"step-{step:09}.safetensors", save(tensors, metadata))
        self.written = [*(kept for kept in self.written if kept != path), path][-KEPT:]
        for old in [*self.folder.glob("step-*"), *self.folder.glob(".step-*")]:  # hidden: left by a killed process
            if old not in self.written:
                with suppress(OSError):  # the new state is there; what cannot go now goes later
                    old.unlink()
        return path

    def latest(self) -> tuple[dict[str, Tensor], dict] | None:
        """The newest state that can be read, None where there is none; a warning tells of damaged ones.

        Raises CheckpointError when all are damaged or one is from a newer version.
        """
        damaged = []
        for path in sorted(self.folder.glob("step-*.safetensors"), reverse=True):
            try:
                state = _read_state(path)
            except (SafetensorError, OSError, ValueError, KeyError) as error:
                damaged.append(f"{path} is damaged ({error})")
                continue
            if damaged:
                warnings.warn(f"{'; '.join(damaged)}: going on from {path.name}", stacklevel=3)
            self.written = [path]
            return state
        if damaged:
            raise CheckpointError(f"{'; '.join(damaged)}: there is no other, train again without resume")
        return None

    @property
    def aside(self) -> Path:
        """Where an earlier run of that name is kept when another is begun."""
        return self.folder.with_name(f"{self.name}.before")

    def set_aside(self) -> bool:
        """Move an earlier run to `aside`, in place of what is there, unless that got further; say whether it was moved.

        One that stays is dropped with the first `write`. Raises StorageError.
        """
        if not self.exist() or _newest(self.folder) < _newest(self.aside):
            return False
        try:
            shutil.rmtree(self.aside, ignore_errors=True)
            self.folder.rename(self.aside)
        except OSError as error:
            raise StorageError(f"cannot move {self.folder} to {self.aside}: {error.strerror or error}") from error
        return True

    def bring_back(self) -> None:
        """Put the run that `set_aside` moved back, as long as nothing new was written."""
        with suppress(OSError):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.aside.rename(self.folder)


def _newest(folder: Path) -> str:
    """The name of the newest state in `folder`, which has its step with leading zeros; empty where there is none."""
    return max((path.name for path in folder.glob("step-*.safetensors")), default="")


def _read_state(path: Path) -> tuple[dict[str, Tensor], dict]:
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        if int(metadata["format"]) > FORMAT:
            raise CheckpointError(f"{path} was written by a newer mnist_kit: update, or train with another name")
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    if int(metadata["crc32"]) != _crc32(tensors, metadata["about"]):
        raise ValueError("its checksum differs")
    return tensors, json.loads(metadata["about"])


def _crc32(tensors: dict[str, Tensor], text: str) -> int:
    total = zlib.crc32(text.encode())
    for key in sorted(tensors):
        total = zlib.crc32(tensors[key].reshape(-1).view(torch.uint8).numpy(), zlib.crc32(key.encode(), total))
    return total
