"""MNIST and its siblings as uint8 tensors, a table of what is in them, and writing the images out as files."""

import gzip
import hashlib
import os
import time
import zlib
from concurrent.futures import Future
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from urllib.parse import urljoin
from urllib.request import Request, urlopen

import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from mnist_kit.device import describe, has_values
from mnist_kit.errors import DataError, DataNotFound, StorageError
from mnist_kit.files import data_folder, home_folder, is_plain_name, write_atomically, writing

SIDE = 28
DIGITS = tuple("0123456789")
MOST_CLASSES = 16


@dataclass(frozen=True)
class Split:
    """Images with their labels. images: uint8 (N, 1, 28, 28), ink 255 on 0; labels: int64 (N,), from 0 to 15 at most.

    Raises DataError when types, shapes or labels are anything else.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self):
        images, labels = self.images, self.labels
        if not has_values(images) or images.dtype != torch.uint8 or images.shape[1:] != (1, SIDE, SIDE):
            raise DataError(f"images must be uint8 (N, 1, 28, 28), not {describe(images)}")
        if not has_values(labels) or labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise DataError(f"labels must be int64 ({len(images)},), not {describe(labels)}")
        _require_labels(labels, MOST_CLASSES)

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> "Split":
        """The first `count` images with their labels. Raises DataError unless it is a whole number from 0."""
        if not isinstance(count, int) or count < 0:
            raise DataError(f"count must be a whole number from 0, not {count!r}")
        return Split(self.images[:count], self.labels[:count])


@dataclass(frozen=True)
class Digits:
    """A data set: its name, a training and a test split, and what the classes are called.

    Raises DataError when a label has no class, or train or test is no Split.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...] = DIGITS

    def __post_init__(self):
        for name, split in self.splits.items():
            if not isinstance(split, Split):
                raise DataError(f"{name} must be a Split of images and labels, not {describe(split)}")
            _require_labels(split.labels, len(self.classes))

    @property
    def splits(self) -> dict[str, Split]:
        return {"train": self.train, "test": self.test}

    def validation(self, count: int = 10_000) -> "Digits":
        """The same digits without the test images: the last `count` training images take their place.

        To choose between recipes or models by; the test images are then left for one look at the end. The name gets
        the suffix "-validation". Raises DataError unless 0 < count < the number of training images.
        """
        if not isinstance(count, int) or not 0 < count < len(self.train):
            raise DataError(f"count must be a whole number from 1 to {len(self.train) - 1:,}, not {count!r}")
        held_out = Split(self.train.images[-count:], self.train.labels[-count:])
        rest = self.train.first(len(self.train) - count)
        return replace(self, name=f"{self.name}-validation", train=rest, test=held_out)

    def __repr__(self) -> str:
        return f"Digits({self.name!r}, {len(self.train):,} training and {len(self.test):,} test images)"


def _require_labels(labels: Tensor, classes: int) -> None:
    wrong = ((labels < 0) | (labels >= classes)).nonzero()
    if len(wrong):
        where = int(wrong[0])
        raise DataError(f"labels must be 0 to {classes - 1}, but label {where} is {int(labels[where])}")


SOURCES = {"mnist": "MNIST", "fashion": "FashionMNIST", "kmnist": "KMNIST", "qmnist": "QMNIST"}  # torchvision's classes
# Of the unpacked files; torchvision has the MD5 of the packed ones only. CRC-32 reads 50 MB in 20 ms.
MNIST_CRC32 = {
    "train-images-idx3-ubyte": 0xE9F4D8B3,
    "train-labels-idx1-ubyte": 0xE0CB4AD2,
    "t10k-images-idx3-ubyte": 0x91373BDF,
    "t10k-labels-idx1-ubyte": 0x4AB9EFF9,
}


def load_mnist(name: str = "mnist") -> Digits:
    """MNIST ("mnist") or a sibling in the same format: "fashion", "kmnist", "qmnist".

    The files are looked for in `$MNIST_KIT_DATA`, in torchvision's layout, unpacked or as `.gz`; what is missing is
    downloaded to there. What is unpacked gets a CRC-32 beside it, by which later damage is noticed. A folder that holds
    the unpacked files may be read-only. Raises DataNotFound when files are missing and cannot be downloaded, DataError
    when a file is damaged.
    """
    from torchvision import datasets  # takes as long to import as torch itself

    if not isinstance(name, str) or name not in SOURCES:
        raise DataError(f"there is no data set called {name!r}; there are: {', '.join(SOURCES)}")
    dataset = getattr(datasets, SOURCES[name])
    folder, paths, resources = data_folder() / SOURCES[name] / "raw", [], dataset.resources
    if isinstance(resources, dict):  # QMNIST: whole addresses, by split
        resources = [*resources["train"], *resources["test"]]
    try:
        for resource, md5 in resources:
            packed = folder / resource.rpartition("/")[2]
            paths.append(packed.with_suffix(""))
            if not paths[-1].is_file():
                _obtain(packed, md5, [urljoin(mirror, resource) for mirror in dataset.mirrors])
    except (StorageError, OSError) as error:
        raise DataNotFound(
            f"{name} is not in {folder} and could not be downloaded ({' '.join(str(error).split())}). If you have a "
            f"copy, set the environment variable MNIST_KIT_DATA to the folder that holds {SOURCES[name]}/raw/."
        ) from error
    classes = tuple(label.split(" - ")[0] for label in dataset.classes)
    return Digits(name, _read_split(*paths[:2], name), _read_split(*paths[2:], name), classes)


def _read_split(images_path: Path, labels_path: Path, name: str) -> Split:
    images, labels = _read(images_path, name), _read(labels_path, name)
    try:
        labels = labels[:, 0] if labels.ndim == 2 else labels  # QMNIST: the class, then seven columns of provenance
        split = Split(images.unsqueeze(1), labels.long())
        _require_labels(split.labels, len(DIGITS))
    except DataError as error:
        raise _unusable(f"{images_path} and {labels_path}", error) from error
    return split


def _read(path: Path, name: str) -> Tensor:
    from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor as read_idx

    try:
        crc32 = zlib.crc32(path.read_bytes())
        values = read_idx(path)
    except Exception as error:  # torchvision's reader has no errors of its own
        raise _unusable(path, f"is not a whole IDX file, or cannot be read ({error!r})") from error
    noted = path.with_suffix(".crc32")  # of what we unpacked; a file that somebody else unpacked has none
    if noted.is_file() and noted.read_bytes() != b"%08x" % crc32:
        raise _unusable(path, "is damaged (its checksum differs)")
    # MNIST's files have to be MNIST's; a sibling's have the same names, and must be others.
    if path.name in MNIST_CRC32 and (crc32 == MNIST_CRC32[path.name]) != (name == "mnist"):
        raise _unusable(path, "is damaged or another file's content (its checksum differs)")
    return values


def _unusable(file: Path | str, problem: object) -> DataError:
    return DataError(f"{file}: {problem}. Delete it and load again to download it anew.")


def _obtain(path: Path, md5: str, addresses: list[str]) -> None:
    """Unpack the .gz file `path`, or the download from the first of `addresses` that has it whole, beside `path`.

    Raises OSError when there is none, StorageError when nothing can be written.
    """
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    for source in [path, *addresses] if path.is_file() else addresses:
        try:
            content = path.read_bytes() if source == path else _fetch(source)
        except (OSError, HTTPException) as error:
            failures.append(f"{source}: {str(error) or 'no answer in time'}")
            continue
        if hashlib.md5(content, usedforsecurity=False).hexdigest() == md5:
            content = gzip.decompress(content)
            write_atomically(path.with_suffix(".crc32"), b"%08x" % zlib.crc32(content))
            write_atomically(path.with_suffix(""), content)
            return
        failures.append(f"{source}: its checksum differs")
    raise OSError("; ".join(failures))


PATIENCE = 10.0  # seconds until a mirror has to answer, and from when on its speed counts
LEAST_SPEED = 20_000  # bytes per second: the 10 MB of MNIST in eight minutes


def _fetch(address: str) -> bytes:
    """Download one file. Raises OSError when the mirror fails, does not answer, or is slower than LEAST_SPEED.

    torchvision's downloader has no time limit, and tries no other mirror when a connection breaks.
    """
    started, content, answer = time.monotonic(), bytearray(), Future()
    request = Request(address, headers={"User-Agent": "mnist_kit"})

    def ask() -> None:
        try:
            answer.set_result(urlopen(request, timeout=PATIENCE))  # which counts for each byte of the headers anew
        except Exception as error:
            answer.set_exception(error)

    Thread(target=ask, daemon=True).start()
    with (
        answer.result(PATIENCE) as response,
        tqdm(total=response.length, unit="B", unit_scale=True, desc=address.rsplit("/", 1)[-1]) as bar,
    ):
        while chunk := response.read1(1 << 16):
            content += chunk
            bar.update(len(chunk))
            seconds = time.monotonic() - started
            if seconds > PATIENCE and len(content) < LEAST_SPEED * seconds:
                raise TimeoutError(f"too slow, {len(content):,} bytes in {seconds:.0f} s")
    return bytes(content)


def class_table(digits: Digits) -> pd.DataFrame:
    """A row per split and class: images, share of the split, mean pixel (0–255), ink (share of pixels above 0)."""
    tables = {}
    for name, split in digits.splits.items():
        pixels = split.images.flatten(1).numpy()
        classes = pd.Categorical.from_codes(split.labels, digits.classes)
        rows = pd.DataFrame({"class": classes, "mean_pixel": pixels.mean(1), "ink": (pixels > 0).mean(1)})
        groups = rows.groupby("class", observed=False)
        table = pd.DataFrame({"images": groups.size(), "share": groups.size() / len(split)}).join(groups.mean())
        tables[name] = table.fillna({"share": 0}).set_axis(digits.classes)
    return pd.concat(tables, names=["split", "class"])


def export_images(
    digits: Digits,
    folder: Path | str | None = None,
    format: str = "png",
    limit: int | None = None,
    progress: bool = True,
) -> Path:
    """Write the images out as files, as the paper does, and return the folder.

    `View/<label>/<n>.png` (training) and `View_test/<label>/<n>.png` have a folder per class, `View_raw/<n>.png`
    (training) is flat; n is the image's index in its split.

    folder: default `exports/<name>` in `$MNIST_KIT_HOME`; format: "png" (exact) or "jpg" (the paper's, lossy);
    limit: only the first so many images of each split.
    Raises DataError for another format, a limit that is not a whole number from 1, a name that is no folder's, or a
    folder that is no path; StorageError when the folder cannot be written.
    """
    if format not in ("png", "jpg"):
        raise DataError(f"format must be one of png, jpg, not {format!r}")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise DataError(f"limit must be a whole number from 1, or None, not {limit!r}")
    if folder is None and not is_plain_name(digits.name):
        raise DataError(f"{digits.name!r} cannot name a folder: say where to export to, export_images(…, folder=…)")
    if not isinstance(folder, str | os.PathLike | None):
        raise DataError(f"folder must be a path, or None, not {folder!r:.80}")
    folder = home_folder() / "exports" / digits.name if folder is None else Path(folder)
    files = []
    for view, split in {"View": digits.train, "View_test": digits.test, "View_raw": digits.train}.items():
        for index, (image, label) in enumerate(zip(split.images[:limit, 0], split.labels.tolist(), strict=False)):
            parent = folder / view if view == "View_raw" else folder / view / str(label)
            files.append((parent / f"{index}.{format}", image))
    partial = folder / f".partial.{format}"  # a file that is there is whole
    with writing(folder):
        for parent in {path.parent for path, _ in files}:
            parent.mkdir(parents=True, exist_ok=True)
        try:
            for path, image in tqdm(files, unit=" files", disable=not progress):
                Image.fromarray(image.numpy()).save(partial, compress_level=1, quality=95)  # of a PNG, of a JPEG
                os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)  # after a failure or Ctrl+C; otherwise it is gone already
    return folder
