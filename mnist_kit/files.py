"""Where files live, and writing them so that a crash leaves the old file or the new one, never half of one."""

import errno
import glob
import math
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import platformdirs

from mnist_kit.errors import MnistKitError, StorageError

PACKAGE = Path(__file__).resolve().parent
REFERENCE = PACKAGE / "reference"


def project_folder() -> Path | None:
    """The checkout that the package is imported from, or None when it is installed without the project."""
    root = PACKAGE.parent
    return root if (root / "notebooks").is_dir() and (root / "pyproject.toml").is_file() else None


def _folder(variable: str) -> Path:
    chosen = os.environ.get(variable)
    if chosen:
        return Path(os.path.abspath(os.path.expanduser(chosen)))
    project = project_folder()
    return project / "data" if project else Path(platformdirs.user_data_dir("mnist_kit", appauthor=False))


def data_folder() -> Path:
    """Torchvision's `root`, where data sets are looked for and downloaded to: `$MNIST_KIT_DATA`, else `data/`."""
    return _folder("MNIST_KIT_DATA")


def home_folder() -> Path:
    """Where the reader's runs, weights, exports and drawings go: `$MNIST_KIT_HOME`, else the project's `data/`."""
    return _folder("MNIST_KIT_HOME")


def figures_folder() -> Path:
    """Where figures are saved: the project's `figs/`, or `figs/` in `$MNIST_KIT_HOME` where that is set."""
    project = project_folder()
    return project / "figs" if project and not os.environ.get("MNIST_KIT_HOME") else home_folder() / "figs"


def find(kind: str, filename: str, own: bool = True) -> Path | None:
    """The reader's own `kind/filename` in the home folder, else the shipped file, or None. own=False: shipped only."""
    candidates = (home_folder() / kind / filename, REFERENCE / filename)
    return next((path for path in candidates[not own :] if path.is_file()), None)


def known_names(kind: str, suffix: str) -> list[str]:
    """What `find` would find: the names of the reader's own files and of those that ship with the package."""
    return sorted({path.stem for folder in (home_folder() / kind, REFERENCE) for path in folder.glob(f"*{suffix}")})


def is_plain_name(name: object) -> bool:
    """Whether `name` can name a file in one of our folders, on any system.

    That is: letters, digits, "-", "_" and "."; no path, not hidden, at most 100 bytes, and no device of Windows.
    """
    if not isinstance(name, str) or not re.fullmatch(r"\w([\w.-]*[\w-])?", name):
        return False
    is_device = re.match(r"(con|prn|aux|nul|(com|lpt)[\d¹²³])(\.|$)", name, re.IGNORECASE)
    return len(name.encode()) <= 100 and not is_device


def keep_better(path: Path, score: float, score_of: Callable[[Path], float]) -> None:
    """Before `path` is written anew: where what it holds scores more than `score`, copy it to <name>-better-<n>.

    score_of: the score of a file; one that cannot be read has none, and is not kept. A warning tells the new name;
    nothing happens where one that was kept earlier is as good. Raises StorageError when it cannot be copied.
    """

    def known(file: Path) -> float:
        try:
            return score_of(file)
        except (MnistKitError, TypeError, ValueError):
            return -math.inf

    if not os.path.exists(path):
        return
    earlier = known(path)
    kept = list(path.parent.glob(f"{glob.escape(path.stem)}-better-*{path.suffix}"))
    if not earlier > score or any(known(other) >= earlier for other in kept):  # NaN is no score
        return
    free = next(other for n in count(1) if not (other := path.with_stem(f"{path.stem}-better-{n}")).exists())
    write_atomically(free, path.read_bytes())
    warnings.warn(f"{path.name} was better ({earlier:.2%} against {score:.2%}): kept as {free.name}", stacklevel=3)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the block, or what a path with a zero byte raises, into a StorageError that names `path` and
    what to do.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        raise StorageError(
            f"cannot write {path}: {getattr(error, 'strerror', None) or error}. Free some space, or choose another "
            "folder: environment variables MNIST_KIT_HOME and, for data, MNIST_KIT_DATA."
        ) from error


def write_atomically(path: Path, content: bytes) -> Path:
    """Write `content` to `path` through a temporary file beside it, and return `path`.

    Missing folders are created. Temporary files that killed saves of the same file left behind are removed. Raises
    StorageError (folder read-only, disk full, …); the file that stood there before is then untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(path)
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)  # after a failure or Ctrl+C; otherwise it is gone already
    return path


def _remove_left_behind(path: Path) -> None:
    """Remove the temporary files of `path` whose process is dead; a save that is under way keeps its own."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.*.tmp"):
        with suppress(OSError, ValueError, OverflowError):  # gone already, another user's, or not one of ours
            try:
                if os.name == "posix":  # elsewhere a file that a process has open cannot be removed
                    os.kill(int(temporary.name.split(".")[-3]), 0)  # signal 0 does nothing but ask
                    continue
            except ProcessLookupError:
                pass
            temporary.unlink()


_APPENDING = threading.Lock()


def append_line(path: Path, text: str) -> Path:
    """Append `text` as one line in one write, so that two notebooks that append at once lose nothing.

    Where the last line has no end, after a crash, a new line is begun first. Raises StorageError when the file
    cannot be written; nothing is appended then.
    """
    path = Path(path)
    line = (text.rstrip("\n") + "\n").encode()
    with writing(path), _APPENDING:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+", buffering=0) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            if file.read(1) not in (b"", b"\n"):
                line = b"\n" + line
            written = file.write(line)
            if written < len(line):
                file.truncate(file.tell() - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return path
