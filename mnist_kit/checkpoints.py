"""Weights and checkpoints by name: plain numbers with a description, nothing that runs when loaded.

Weights are what a finished network is, a safetensors file; a checkpoint is all that a run needs to resume as if it had
not been stopped: the `state_dict`s of its parts, as `torch.save` writes them, behind a line with a checksum.
"""

import io
import json
import os
import pickle
import shutil
import time
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mnist_kit.device import computing
from mnist_kit.errors import CheckpointError, StorageError, TrainingError, WeightsError
from mnist_kit.files import (
    REFERENCE,
    find,
    home_folder,
    is_plain_name,
    keep_better,
    known_names,
    write_atomically,
    writing,
)
from mnist_kit.history import plain
from mnist_kit.models import make_model, name_of, require_module, settings_of, unwrapped
from mnist_kit.recipes import Recipe

DESCRIPTION = ("model", "recipe", "accuracy", "data")  # what `weights_about` tells of all weights, None where unknown
# What is computed with, where weights tell it: whether a value makes sense.
_WANTED = {
    "settings": lambda value: isinstance(value, dict | None),
    "temperature": lambda value: isinstance(value, int | float) and 0 < value < 1e9,
    "threshold": lambda value: isinstance(value, int | float) and abs(value) < 1e9,
}
CHECKSUMS = "crc32 of each"  # value of the metadata; older files have the one of the tensors only
KEPT = 2  # checkpoints per run
FORMAT = b"mnist_kit checkpoint 2 "  # the first line of a checkpoint, before its checksum
SHARE = 0.01  # of the time of a run, that writing its checkpoints may take


def save_weights(
    model: nn.Module,
    name: str,
    recipe: Recipe | None = None,
    accuracy: float | None = None,
    data: str | None = None,
    **more: object,
) -> Path:
    """Write the model's weights to `weights/<name>.safetensors` in `$MNIST_KIT_HOME`, atomically, and return the path.

    The metadata holds the name of the model in `MODELS` and its settings, the recipe, the test accuracy (a fraction)
    and the data set's name; more: what else `weights_about` is to tell, as values that JSON holds, others as text.
    Weights of that name with a higher accuracy are kept under another, and a warning says which. Raises WeightsError
    for a name that is no plain file name, and for another recipe, accuracy or value than that; ModelError for what is
    no module, or has no weights yet; StorageError when it cannot be written.
    """
    check_name(name)
    require_module(model)
    with computing:
        state = unwrapped(model).state_dict()
        tensors = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in state.items()}  # tied ones too
    about = {"model": name_of(model), "settings": settings_of(model), "data": data, **more}
    try:
        about["recipe"] = None if recipe is None else recipe.as_dict()
        about["accuracy"] = accuracy = None if accuracy is None else float(accuracy)
        metadata = {key: json.dumps(value, default=plain) for key, value in about.items()}
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        told = f"recipe={recipe!r:.40} has to be a Recipe, accuracy={accuracy!r:.40} a number, the rest what JSON holds"
        raise WeightsError(f"{told}: {', '.join(more) or 'data'} ({error})") from error
    metadata["crc32"] = str(_crc32(tensors))
    metadata[CHECKSUMS] = json.dumps({key: zlib.crc32(text.encode()) for key, text in metadata.items()})
    path = home_folder() / "weights" / f"{name}.safetensors"
    _described(path, metadata)
    if not all(parameter.isfinite().all() for parameter in unwrapped(model).parameters()):
        raise WeightsError(f"{name!r} is not saved: the weights hold numbers that are not finite. Train again.")
    keep_better(path, accuracy or 0.0, lambda file: float(_read(file)[1]["accuracy"] or 0))
    return write_atomically(path, save(tensors, metadata))


def check_name(name: str) -> None:
    """Raise WeightsError for a name that is no plain file name, such as one that leads to another folder."""
    if not is_plain_name(name):
        raise WeightsError(f"{name!r} cannot name weights: use letters, digits, '-', '_' and '.' only")


def load_weights(name: str = "class-mnist", model: nn.Module | None = None) -> nn.Module:
    """The model with the weights saved as `name`, on the CPU, in evaluation mode.

    The reader's own weights come first, then those that ship with the package: "class-mnist" is the paper's run.
    model: load into this one; None makes a new one of the class that the file names.
    Raises WeightsError when there are none of that name, the file is damaged, a number is not finite where the model's
    may not be, or a tensor does not fit the model (the message says which), ModelError for a class that is not in
    `MODELS`, and for a `model` that is no module or has no weights yet. `model` is then unchanged.
    """
    path = weights_path(name)
    tensors, about = _read(path)
    if model is None:
        # Its initial weights are of no use: draw them aside.
        with computing, torch.random.fork_rng(devices=[]), torch.device("cpu"):
            model = make_model(about["model"] or "Net", **(about.get("settings") or {}))
    require_module(model)
    inner = unwrapped(model)
    expected, kind = inner.state_dict(), type(inner).__name__
    for key in [*expected, *tensors]:
        theirs, own = _form(tensors.get(key)), _form(expected.get(key))
        if theirs != own:
            raise WeightsError(f"{path}: tensor {key!r} is {theirs}, in {kind} it is {own}")
    trained = {key for key, _ in inner.named_parameters(remove_duplicate=False)}
    for key, own in expected.items():
        finite = tensors[key].to(own).isfinite()  # as converted: float32 does not hold all of float64
        if not (finite if key in trained else finite | ~own.isfinite()).all():  # a mask may hold −inf where it did
            raise WeightsError(f"{path}: tensor {key!r} holds numbers that are not finite. Train and save again.")
    with computing:  # not amid a step, where the model is in training
        inner.load_state_dict(tensors)
        return model.cpu().eval()


def _form(tensor: Tensor | None) -> str:
    """What has to agree for a tensor to be loaded; float32 and float64 take each other's values."""
    if tensor is None:
        return "not there"
    return f"{'float' if tensor.is_floating_point() else tensor.dtype} {tuple(tensor.shape)}"


def weights_about(name: str = "class-mnist") -> dict:
    """What is known of the weights called `name`: model, recipe (settings by name), accuracy (a fraction) and data, all
    None where they were not given; whatever else the file tells; path; and source: "reference" for those that ship with
    the package, else "yours".

    Raises WeightsError as `load_weights` does.
    """
    path = weights_path(name)
    return _read(path)[1] | {"source": "reference" if path.parent == REFERENCE else "yours", "path": path}


def weights_path(name: str) -> Path:
    """Where the weights called `name` are. Raises WeightsError, listing what there is, when they are nowhere."""
    check_name(name)
    path = find("weights", f"{name}.safetensors")
    if path is None:
        raise WeightsError(
            f"no weights are called {name!r} in {home_folder() / 'weights'} or in the package; "
            f"there are: {', '.join(known_names('weights', '.safetensors')) or 'none'}"
        )
    return path


def _read(path: Path) -> tuple[dict[str, Tensor], dict]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        sums = json.loads(metadata.pop(CHECKSUMS, "{}"))
        changed = any(zlib.crc32(metadata.get(key, "").encode()) != crc32 for key, crc32 in sums.items())
        if changed or metadata.pop("crc32", None) not in (None, str(_crc32(tensors))):
            raise ValueError("its checksum differs")
    except (SafetensorError, OSError, ValueError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path}: is damaged or no safetensors file ({error}). Train and save again.") from error
    return tensors, _described(path, metadata)


def _described(path: Path, metadata: dict[str, str]) -> dict:
    """What `metadata` tells. Raises WeightsError, which names `path`, for values that nothing can be computed with."""
    about = dict.fromkeys(DESCRIPTION)
    for key, text in metadata.items():
        try:
            about[key] = json.loads(text)
        except (ValueError, RecursionError):  # other tools write text
            about[key] = text
    for key, makes_sense in _WANTED.items():
        if key in about and not makes_sense(about[key]):
            raise WeightsError(f"{path}: its {key} cannot be {about[key]!r:.80}. Train and save again.")
    return about


def _crc32(tensors: dict[str, Tensor]) -> int:
    total = 0
    for key in sorted(tensors):
        total = zlib.crc32(tensors[key].reshape(-1).view(torch.uint8).numpy(), total)
    return total


class Checkpoints:
    """The last two states of a run, in `checkpoints/<name>/` of `$MNIST_KIT_HOME`, and when they are written.

    every: so many steps (None: as often as it costs no more than 1 % of the time). An earlier run of the name is kept
    in the folder `before` there, and can be resumed as "<name>/before", while no run of <name> uses it. Raises
    CheckpointError for a name that is no plain file name, TrainingError for an `every` that makes no sense.
    """

    def __init__(self, name: str, every: int | None = None):
        if not isinstance(name, str) or not is_plain_name(name.removesuffix("/before")):
            raise CheckpointError(f"{name!r} cannot name checkpoints: use letters, digits, '-', '_' and '.' only")
        if every is not None and (not isinstance(every, int) or every < 1):
            raise TrainingError(f"every must be a whole number of steps, at least 1, or None, not {every!r}")
        self.every = every
        self.folder = home_folder() / "checkpoints" / name
        self.due = 0.0
        self.warned = False
        # One lock for a run and the one before it, which a new run replaces; freed by the system where a process dies.
        self.owner = home_folder() / "checkpoints" / name.removesuffix("/before") / ".owner"
        self.lock = FileLock(self.owner.with_name(".lock"), thread_local=False)

    def states(self) -> list[Path]:
        """The files there are, the newest last; perhaps damaged ones."""
        return sorted(self.folder.glob("step-*.pt"))

    def begin(self, run, resume: bool) -> dict | None:
        """The state to resume from; or None, when `run` is a new one: its first state is then written.

        The name is then this run's until `lock.release()`. Raises CheckpointError when another run has it, all states
        are damaged or one is from a newer version, StorageError when the first state cannot be written.
        """
        if self.folder != self.owner.parent and not (resume and self.states()):
            raise CheckpointError(f"{self.folder} is where an earlier run is kept: choose another name for a new one")
        self._acquire()
        state = self.latest() if resume else None
        if state is None:
            self.write(run)
            self._set_aside(self.states()[1:])  # the first is the new one, of step 0
        return state

    def _acquire(self) -> None:
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self.lock.acquire(blocking=False)
                self.owner.write_text(str(os.getpid()))
            except Timeout as error:
                raise CheckpointError(
                    f"process {self.owner.read_text() if self.owner.exists() else '?'} trains under the name "
                    f"{self.owner.parent.name!r} now: wait for it, stop it, or choose another checkpoint name"
                ) from error
            except NotImplementedError:  # some network drives know no locks: there nobody is kept out
                pass

    def is_due(self, step: int) -> bool:
        """Whether a state should be written after this step."""
        return time.perf_counter() >= self.due if self.every is None else step % self.every == 0

    def save(self, run) -> None:
        """Write the run's state. A failure is no reason to stop: it warns, once."""
        try:
            self.write(run)
        except StorageError as error:
            if not self.warned:
                warnings.warn(f"training continues without new checkpoints: {error}", stacklevel=3)
            self.warned = True
            return
        for old in [*self.states()[:-KEPT], *self.folder.glob(".step-*")]:  # hidden: what a killed process left
            with suppress(OSError):  # the new state is there; what cannot go now goes later
                old.unlink()

    def write(self, run) -> None:
        """Write the run's state atomically. Raises StorageError when it cannot be written."""
        started = time.perf_counter()
        buffer = io.BytesIO()
        torch.save(run.state_dict(), buffer)
        content = buffer.getbuffer()
        header = FORMAT + b"%08x\n" % zlib.crc32(content)
        write_atomically(self.folder / f"step-{run.step:09}.pt", header + content)
        now = time.perf_counter()
        self.due = now + (now - started) / SHARE

    def latest(self) -> dict | None:
        """The newest state that can be read, None where there is none; a warning tells of damaged ones.

        Raises CheckpointError when all are damaged or one is from a newer version.
        """
        damaged = {}
        for path in reversed(self.states()):
            try:
                state = _read_state(path)
            except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
                damaged[path] = f"{path} is damaged ({error}); "
                continue
            if damaged:
                warnings.warn(f"{''.join(damaged.values())}resuming from {path.name}", stacklevel=3)
            for bad in damaged:
                bad.unlink()  # else it would be kept in the place of a good one
            return state
        if damaged:
            raise CheckpointError(f"{''.join(damaged.values())}there is no other, train again without resume")
        return None

    def _set_aside(self, earlier: list[Path]) -> None:
        """Move an earlier run's states to `before`, in place of a run there that got less far, else delete them."""
        before = self.folder / "before"
        furthest = max((path.name for path in before.glob("step-*.pt")), default="")
        try:
            got_further = bool(earlier) and earlier[-1].name >= furthest
            if got_further:
                shutil.rmtree(before, ignore_errors=True)
                before.mkdir()
            for path in earlier:
                os.replace(path, before / path.name) if got_further else path.unlink()
        except OSError as error:
            raise StorageError(f"cannot move {self.folder} to {before}: {error.strerror or error}") from error


def _read_state(path: Path) -> dict:
    header, _, content = path.read_bytes().partition(b"\n")
    kind, version, checksum = header[:21], header[21:22], header[23:]
    if kind == FORMAT[:21] and version > FORMAT[21:22]:
        raise CheckpointError(f"{path} was written by a newer mnist_kit: update, or train with another name")
    if checksum != b"%08x" % zlib.crc32(content):
        raise ValueError("its checksum differs")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
