"""MNIST and its siblings as uint8 tensors, a table of what is in them, and writing the images out as files."""

import io
import os
import shutil
import socket
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets
from tqdm import tqdm

from mnist_kit.errors import DataError, DataNotFound, StorageError
from mnist_kit.files import data_folder, home_folder, make_folder

SIDE = 28
DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Split:
    """Images with their labels. images: uint8 (N, 1, 28, 28), ink 255 on 0; labels: int64 (N,), 0 to 9.

    Raises DataError when shapes, dtypes or labels are anything else.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self):
        if self.images.dtype != torch.uint8 or self.images.shape[1:] != (1, SIDE, SIDE):
            raise DataError(f"images must be uint8 (N, 1, 28, 28), not {_describe(self.images)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(f"labels must be int64 ({len(self.images)},), not {_describe(self.labels)}")
        if len(self.labels) and not (self.labels.min() >= 0 and self.labels.max() <= 9):
            where = int(((self.labels < 0) | (self.labels > 9)).nonzero()[0])
            raise DataError(f"labels must be 0 to 9, but label {where} is {int(self.labels[where])}")

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> "Split":
        """The first `count` images with their labels."""
        return Split(self.images[:count], self.labels[:count])


@dataclass(frozen=True)
class Digits:
    """A data set: its name, a training and a test split, and what the ten labels are called."""

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...] = DIGITS

    @property
    def splits(self) -> dict[str, Split]:
        return {"train": self.train, "test": self.test}

    def __repr__(self) -> str:
        return f"Digits({self.name!r}, {len(self.train):,} training and {len(self.test):,} test images)"


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


@dataclass(frozen=True)
class _Source:
    """One data set as torchvision keeps it under its root.

    files: image and label file of each split; counts: images in each; crc32: of the official files, where known.
    """

    dataset: type[datasets.MNIST]
    files: dict[str, tuple[str, str]]
    counts: dict[str, int]
    crc32: dict[str, int]

    @property
    def folder(self) -> Path:
        return data_folder() / self.dataset.__name__ / "raw"

    @property
    def mirrors(self) -> list[str]:
        resources = self.dataset.resources
        if isinstance(resources, dict):  # QMNIST names whole addresses, one list a split
            return sorted({url.rsplit("/", 1)[0] for split in self.files for url, _ in resources[split]})
        return list(self.dataset.mirrors)

    def download(self, root: Path) -> None:
        for split in self.files:
            self.dataset(root, train=split == "train", download=True)


_LIKE_MNIST = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_COUNTS = {"train": 60_000, "test": 10_000}
# Swapped, cut or damaged files show at once; crc32 reads 50 MB in 20 ms.
_MNIST_CRC32 = {
    "train-images-idx3-ubyte": 0xE9F4D8B3,
    "train-labels-idx1-ubyte": 0xE0CB4AD2,
    "t10k-images-idx3-ubyte": 0x91373BDF,
    "t10k-labels-idx1-ubyte": 0x4AB9EFF9,
}
SOURCES = {
    "mnist": _Source(datasets.MNIST, _LIKE_MNIST, _COUNTS, _MNIST_CRC32),
    "fashion": _Source(datasets.FashionMNIST, _LIKE_MNIST, _COUNTS, {}),
    "kmnist": _Source(datasets.KMNIST, _LIKE_MNIST, _COUNTS, {}),
    "qmnist": _Source(
        datasets.QMNIST,
        {
            "train": ("qmnist-train-images-idx3-ubyte", "qmnist-train-labels-idx2-int"),
            "test": ("qmnist-test-images-idx3-ubyte", "qmnist-test-labels-idx2-int"),
        },
        {"train": 60_000, "test": 60_000},
        {},
    ),
}


def load_mnist(name: str = "mnist") -> Digits:
    """MNIST ("mnist") or a sibling in the same format: "fashion", "kmnist", "qmnist".

    Read from `$MNIST_KIT_DATA`, where torchvision's downloader puts it on first use; a folder that has the files may be
    read-only. Raises DataNotFound when it is not there and cannot be downloaded to there, DataError when a file is
    damaged.
    """
    if name not in SOURCES:
        raise DataError(f"there is no data set called {name!r}; there are: {', '.join(SOURCES)}")
    source = SOURCES[name]
    if not all((source.folder / file).is_file() for pair in source.files.values() for file in pair):
        _download(name, source)
    classes = tuple(label.split(" - ")[0] for label in source.dataset.classes)
    return Digits(name, _read_split(source, "train"), _read_split(source, "test"), classes)


def _read_split(source: _Source, split: str) -> Split:
    images_path, labels_path = (source.folder / file for file in source.files[split])
    images, labels = (_read_idx(path, source.crc32.get(path.name)) for path in (images_path, labels_path))
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE):
        raise DataError(f"{images_path}: holds {images.dtype} {images.shape}, not uint8 images of 28×28. {_MEND}")
    if len(images) != source.counts[split]:
        raise DataError(f"{images_path}: holds {len(images):,} images, not {source.counts[split]:,}. {_MEND}")
    if labels.ndim == 2:  # QMNIST: the class, then seven columns of provenance
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) != len(images):
        raise DataError(f"{labels_path}: holds {labels.shape}, not a label for each of {len(images):,} images. {_MEND}")
    try:
        return Split(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)))
    except DataError as error:
        raise DataError(f"{labels_path}: {error}. {_MEND}") from error


_MEND = "Delete the file and load again to download it anew."
_IDX_TYPES = {0x08: np.dtype("u1"), 0x0C: np.dtype(">i4")}


def _read_idx(path: Path, crc32: int | None = None) -> np.ndarray:
    """An IDX file: two zero bytes, a type, the number of dimensions, big-endian sizes, then the values, row by row."""
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    dtype = _IDX_TYPES.get(int(content[2])) if len(content) >= 4 and not content[:2].any() else None
    if dtype is None:
        raise DataError(f"{path}: is no IDX file (its first bytes are {bytes(content[:4]).hex(' ')}). {_MEND}")
    header = 4 + 4 * int(content[3])
    shape = tuple(int(size) for size in content[4:header].view(">u4")) if len(content) >= header else ()
    wanted = header + dtype.itemsize * int(np.prod(shape, dtype=np.uint64))
    if not shape or len(content) != wanted:
        raise DataError(f"{path}: has {len(content):,} bytes where its header promises {wanted:,}. {_MEND}")
    if crc32 is not None and zlib.crc32(content) != crc32:
        raise DataError(f"{path}: is damaged or another file's content (its checksum differs). {_MEND}")
    return content[header:].view(dtype).reshape(shape)


def _download(name: str, source: _Source) -> None:
    """Through torchvision, into a folder beside the target; whole files only are moved into place."""
    folder = source.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder, prefix=".download-"))
    except OSError as error:
        raise _not_found(name, source, f"the folder cannot be written: {error.strerror or error}") from error
    try:
        with _no_endless_wait(), redirect_stdout(sys.stderr):
            source.download(scratch)
        for path in (scratch / source.dataset.__name__ / "raw").iterdir():
            if path.suffix != ".gz":
                os.replace(path, folder / path.name)
    except (OSError, RuntimeError, EOFError, HTTPException) as error:  # no network, disk full, no mirror has the file
        raise _not_found(name, source, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _not_found(name: str, source: _Source, reason: object) -> DataNotFound:
    return DataNotFound(
        f"{name} is not in {source.folder} and could not be downloaded ({' '.join(str(reason).split())}). "
        f"Its mirrors: {', '.join(source.mirrors)}. If you have a copy, set the environment variable MNIST_KIT_DATA "
        f"to the folder that holds {source.dataset.__name__}/raw/."
    )


@contextmanager
def _no_endless_wait(seconds: float = 5.0) -> Iterator[None]:
    """torchvision's downloader sets no time limit: a mirror that never answers would hang the notebook."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def class_table(digits: Digits) -> pd.DataFrame:
    """A row per split and class: images, share of the split, mean pixel (0–255), ink (share of pixels above 0)."""
    rows = []
    for split_name, split in digits.splits.items():
        pixels = split.images.flatten(1)
        means = pixels.float().mean(1)
        inks = (pixels > 0).float().mean(1)
        for label, class_name in enumerate(digits.classes):
            chosen = split.labels == label
            rows.append(
                {
                    "split": split_name,
                    "class": class_name,
                    "images": int(chosen.sum()),
                    "share": chosen.float().mean().item(),
                    "mean_pixel": means[chosen].mean().item(),
                    "ink": inks[chosen].mean().item(),
                }
            )
    return pd.DataFrame(rows).set_index(["split", "class"])


EXPORT_FORMATS = {"png": ("png", {"compress_level": 1}), "jpg": ("jpeg", {"quality": 95})}


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
    Raises DataError for another format or a limit below 1, StorageError when the folder cannot be written.
    """
    format = "jpg" if format == "jpeg" else format
    if format not in EXPORT_FORMATS:
        raise DataError(f"format must be one of {', '.join(EXPORT_FORMATS)}, not {format!r}")
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1 or None, not {limit}")
    folder = Path(folder) if folder is not None else home_folder() / "exports" / digits.name
    views = {"View": (digits.train, True), "View_test": (digits.test, True), "View_raw": (digits.train, False)}
    views = {name: (split.first(limit or len(split)), by_class) for name, (split, by_class) in views.items()}
    with tqdm(total=sum(len(split) for split, _ in views.values()), unit=" files", disable=not progress) as bar:
        for view, (split, by_class) in views.items():
            _export_view(folder / view, split, by_class, format, bar)
    return folder


def _export_view(folder: Path, split: Split, by_class: bool, format: str, bar: tqdm) -> None:
    folders = [make_folder(folder / str(label) if by_class else folder) for label in range(10)]
    writer, settings = EXPORT_FORMATS[format]
    for index, (image, label) in enumerate(zip(split.images.numpy(), split.labels.tolist(), strict=True)):
        encoded = io.BytesIO()
        Image.fromarray(image[0]).save(encoded, writer, **settings)
        path = folders[label] / f"{index}.{format}"
        partial = path.with_suffix(".partial")
        try:
            partial.write_bytes(encoded.getbuffer())
            os.replace(partial, path)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
        finally:
            partial.unlink(missing_ok=True)  # after a failure or Ctrl+C; else it is gone already
        bar.update()
