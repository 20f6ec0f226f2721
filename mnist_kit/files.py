"""Where files live, and writing them so that a crash leaves the old file or the new one, never half of one."""

import os
import re
import tempfile
from pathlib import Path

import platformdirs

from mnist_kit.errors import StorageError

PACKAGE = Path(__file__).resolve().parent
REFERENCE = PACKAGE / "reference"


def project_folder() -> Path | None:
    """The checkout that the package is imported from, or None when it is installed without the project."""
    root = PACKAGE.parent
    return root if (root / "notebooks").is_dir() and (root / "pyproject.toml").is_file() else None


def _folder(variable: str) -> Path:
    chosen = os.environ.get(variable)
    if chosen:
        return Path(chosen).expanduser().resolve()
    project = project_folder()
    return project / "data" if project else Path(platformdirs.user_data_dir("mnist_kit", appauthor=False))


def data_folder() -> Path:
    """Torchvision's `root`, where data sets are looked for and downloaded to: `$MNIST_KIT_DATA`, else `data/`."""
    return _folder("MNIST_KIT_DATA")


def home_folder() -> Path:
    """Where runs, weights, exports and drawings of the reader go: `$MNIST_KIT_HOME`, else the project's `data/`."""
    return _folder("MNIST_KIT_HOME")


def figures_folder() -> Path:
    """Where figures are saved: the project's `figs/`, or `figs/` in `$MNIST_KIT_HOME` where that is set."""
    project = project_folder()
    return project / "figs" if project and not os.environ.get("MNIST_KIT_HOME") else home_folder() / "figs"


def find(kind: str, filename: str, own: bool = True) -> Path | None:
    """The reader's own file `kind/filename` of the home folder (unless not `own`), else the shipped one, else None."""
    candidates = (home_folder() / kind / filename, REFERENCE / filename)
    return next((path for path in candidates[not own :] if path.is_file()), None)


def is_plain_name(name: str) -> bool:
    """Whether `name` can name a file in a folder of ours: letters, digits, "-", "_" and ".", no path, not hidden."""
    return bool(re.fullmatch(r"\w[\w.-]*", name))


def make_folder(folder: Path) -> Path:
    """Create `folder` and its parents. Raises StorageError where that is not allowed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    return folder


def write_atomically(path: Path, content: bytes) -> Path:
    """Write `content` to `path` through a temporary file beside it, and return `path`.

    Raises StorageError (folder read-only, disk full, …); the file that stood there before is then untouched.
    """
    path = Path(path)
    make_folder(path.parent)
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
    return path


def append_line(path: Path, text: str) -> Path:
    """Append `text` and a newline in one write, so that two notebooks that append at once lose nothing.

    Raises StorageError when the file cannot be written.
    """
    path = Path(path)
    make_folder(path.parent)
    line = (text.rstrip("\n") + "\n").encode()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            written = os.write(descriptor, line)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _cannot_write(path, error) from error
    if written != len(line):
        raise StorageError(f"{path}: only {written} of {len(line)} bytes could be appended; is the disk full?")
    return path


def _cannot_write(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"cannot write {path}: {error.strerror or error}. "
        "Choose another folder with the environment variable MNIST_KIT_HOME, or free some space."
    )
