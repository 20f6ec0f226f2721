import contextlib
import gzip
import hashlib
import http.server
import shutil
import socket
import struct
import subprocess
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import datasets

from mnist_kit import data
from mnist_kit.data import Digits, Split, class_table, export_images, load_mnist
from mnist_kit.errors import DataError, DataNotFound, StorageError
from mnist_kit.files import data_folder

FILES = tuple(data.MNIST_CRC32)


@pytest.fixture
def raw(monkeypatch):
    """A folder with the four files in small, and a loader that takes them for MNIST."""
    folder = data_folder() / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for split, count in (("train", 40), ("t10k", 20)):
        values = np.arange(count)
        pixels = np.repeat(values.astype(np.uint8), 784).tobytes()
        (folder / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, count, 28, 28) + pixels)
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(_label_file(values % 10))
    monkeypatch.setattr(data, "MNIST_CRC32", {})
    return folder


def test_the_real_files(mnist):
    assert mnist.train.images.shape == (60_000, 1, 28, 28)
    assert mnist.test.images.shape == (10_000, 1, 28, 28)
    assert mnist.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert round(mnist.train.images.float().mean().item() / 255, 4) == 0.1307


def _label_file(labels):
    return struct.pack(">4BI", 0, 0, 8, 1, len(labels)) + bytes(labels.tolist())


def test_a_read_only_folder_is_enough_when_the_files_are_there(raw):
    raw.chmod(0o500)
    try:
        assert len(load_mnist().train) == 40
    finally:
        raw.chmod(0o700)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("train-images-idx3-ubyte", lambda b: b[:-5], "is not a whole IDX file"),
        ("train-images-idx3-ubyte", lambda b: b"", "is not a whole IDX file"),
        ("train-images-idx3-ubyte", lambda b: b[:4] + b"\xff" * 12 + b[16:], "is not a whole IDX file"),
        ("t10k-labels-idx1-ubyte", lambda b: b[:-1] + b"\x0b", "label 19 is 11"),
        ("t10k-labels-idx1-ubyte", lambda b: struct.pack(">4BI", 0, 0, 8, 1, 3) + b"\0\0\0", "labels must be int64"),
    ],
)
def test_damaged_files_are_named(raw, file, damage, message):
    path = raw / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=message) as caught:
        load_mnist()
    assert str(path) in str(caught.value)
    assert not isinstance(caught.value, DataNotFound)


def test_mnists_files_are_told_from_damaged_ones_and_from_those_of_a_sibling(mnist, tmp_path):
    labels, path = bytearray(_label_file(mnist.test.labels)), tmp_path / "t10k-labels-idx1-ubyte"
    path.write_bytes(labels)
    assert len(data._read(path, "mnist")) == 10_000
    with pytest.raises(DataError, match="another file's content"):
        data._read(path, "fashion")
    labels[500] ^= 1
    path.write_bytes(labels)
    with pytest.raises(DataError, match="checksum"):
        data._read(path, "mnist")


@pytest.mark.parametrize("name", ["emnist", ["mnist"], None])
def test_an_unknown_name_is_answered_with_the_known_ones(name):
    with pytest.raises(DataError, match="mnist, fashion, kmnist, qmnist"):
        load_mnist(name)


def test_a_folder_that_is_a_loop_of_links_is_named(tmp_path, monkeypatch):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    monkeypatch.setenv("MNIST_KIT_DATA", str(tmp_path / "a"))
    with pytest.raises(DataError, match="MNIST_KIT_DATA"):
        load_mnist()


class _Mirror(http.server.BaseHTTPRequestHandler):
    """Serves the .gz files of the folder set on it, in the manner of `manner`."""

    folder, manner = None, "whole"

    def do_GET(self):
        path = self.folder / self.path.rpartition("/")[2]
        manner = self.path.split("/")[1] if self.path.count("/") > 1 else self.manner
        if manner == "silent":
            time.sleep(5)
        if manner in ("resets", "silent"):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return self.connection.close()
        if manner == "drips from the start":
            for _ in range(100):
                with contextlib.suppress(OSError):
                    self.wfile.write(b"H")
                time.sleep(0.05)
            return None
        if manner == "absent":
            return self.send_error(404)
        content = path.read_bytes()
        if manner == "damaged":
            content = content[:-9] + bytes(9)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if manner == "drips":
            for byte in content:
                with contextlib.suppress(OSError):
                    self.wfile.write(bytes([byte]))
                time.sleep(0.05)
        else:
            self.wfile.write(content[: len(content) // 2] if manner == "cut" else content)

    def log_message(self, *_): ...


@pytest.fixture
def mirror(raw, tmp_path, monkeypatch):
    """A mirror on this machine, which torchvision's MNIST is pointed at; the files of `raw` are there and not here."""
    handler = type("Mirror", (_Mirror,), {"folder": tmp_path / "mirror"})
    handler.folder.mkdir()
    resources = []
    for name in FILES:
        content = gzip.compress((raw / name).read_bytes())
        (handler.folder / f"{name}.gz").write_bytes(content)
        resources.append((f"{name}.gz", hashlib.md5(content).hexdigest()))
    shutil.rmtree(raw)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    handler.address = f"http://127.0.0.1:{server.server_port}/"
    monkeypatch.setattr(datasets.MNIST, "mirrors", [handler.address])
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    yield handler
    server.shutdown()
    server.server_close()


def test_a_download_fills_the_data_folder(raw, mirror):
    raw.mkdir()
    dead = subprocess.Popen(["true"])
    dead.wait()
    (raw / f".train-images-idx3-ubyte.{dead.pid}.1.tmp").write_text("left by a download that was killed")
    assert len(load_mnist().train) == 40
    assert sorted(path.name for path in raw.iterdir()) == sorted([*FILES, *(f"{name}.crc32" for name in FILES)])


def test_a_changed_byte_of_what_was_unpacked_here_is_noticed(raw, mirror):
    load_mnist()
    path = raw / FILES[0]
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DataError, match=rf"{FILES[0]}: is damaged"):
        load_mnist()
    path.unlink()
    assert len(load_mnist().train) == 40


def test_packed_files_downloaded_by_hand_are_used(raw, mirror, monkeypatch):
    monkeypatch.setattr(data, "_fetch", lambda _: pytest.fail("nothing has to be downloaded"))
    shutil.copytree(mirror.folder, raw)
    assert len(load_mnist().train) == 40
    for path in raw.glob("*-ubyte"):
        path.unlink()
    (raw / "train-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    monkeypatch.setattr(datasets.MNIST, "mirrors", [])
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz: its checksum differs"):
        load_mnist()


@pytest.mark.parametrize(
    "manner", ["absent", "cut", "damaged", "resets", "silent", "drips", "drips%20from%20the%20start"]
)
def test_a_mirror_that_fails_is_followed_by_the_next(mirror, monkeypatch, manner):
    monkeypatch.setattr(data, "PATIENCE", 0.3)
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{mirror.address}{manner}/", mirror.address])
    assert len(load_mnist().train) == 40


def test_an_interrupted_download_leaves_nothing_and_can_be_repeated(raw, mirror):
    mirror.manner = "cut"
    with pytest.raises(DataNotFound) as caught:
        load_mnist()
    for word in (str(raw), mirror.address, "MNIST_KIT_DATA"):
        assert word in str(caught.value)
    assert list(raw.iterdir()) == []
    mirror.manner = "whole"
    assert len(load_mnist().test) == 20


def test_a_sibling_in_the_same_format(raw):
    shutil.copytree(raw, data_folder() / "FashionMNIST" / "raw")
    digits = load_mnist("fashion")
    assert (digits.name, len(digits.train), digits.classes[0]) == ("fashion", 40, "T-shirt/top")


def test_qmnist_keeps_the_class_of_its_eight_label_columns(raw):
    folder = data_folder() / "QMNIST" / "raw"
    folder.mkdir(parents=True)
    for split, like, count in (("train", "train", 40), ("test", "t10k", 20)):
        shutil.copy(raw / f"{like}-images-idx3-ubyte", folder / f"qmnist-{split}-images-idx3-ubyte")
        rows = np.zeros((count, 8), ">i4")
        rows[:, 0], rows[:, 1] = np.arange(count) % 10, 77
        header = struct.pack(">4B2I", 0, 0, 12, 2, count, 8)
        (folder / f"qmnist-{split}-labels-idx2-int").write_bytes(header + rows.tobytes())
    assert load_mnist("qmnist").train.labels.tolist() == [i % 10 for i in range(40)]


@given(st.lists(st.integers(-3, 18), min_size=1, max_size=30))
def test_labels_are_classes_of_the_data_set(labels):
    images = torch.zeros(len(labels), 1, 28, 28, dtype=torch.uint8)
    none = Split(images[:0], torch.zeros(0, dtype=torch.int64))
    for least, make in (
        (16, lambda: Split(images, torch.tensor(labels))),
        (11, lambda: Digits("with noise", Split(images, torch.tensor(labels)), none, tuple("0123456789-"))),
        (10, lambda: Digits("digits", none, Split(images, torch.tensor(labels)))),
    ):
        if all(0 <= label < least for label in labels):
            make()
        else:
            with pytest.raises(DataError, match="labels must be 0 to"):
                make()


def test_validation_takes_the_last_training_images(tiny):
    digits = tiny.validation(100)
    assert (digits.name, len(digits.train), len(digits.test)) == ("tiny-validation", 200, 100)
    assert torch.equal(torch.cat([digits.train.images, digits.test.images]), tiny.train.images)
    assert torch.equal(digits.test.labels, tiny.train.labels[-100:])
    for count in (0, 300, -1, 2.5):
        with pytest.raises(DataError, match="whole number from 1 to 299"):
            tiny.validation(count)


def test_splits_need_tensors_with_values_and_digits_need_splits(tiny):
    images, labels = tiny.test.images, tiny.test.labels
    for wrong in ((images.to("meta"), labels), (images, labels.to("meta")), (images.to_sparse(), labels)):
        with pytest.raises(DataError, match=r"on meta|sparse"):
            Split(*wrong)
    for train, test in ((None, None), (tiny.train, (images, labels))):
        with pytest.raises(DataError, match="must be a Split"):
            Digits("x", train, test)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 1, 28, 28), torch.float32), ((2, 28, 28), torch.uint8), ((2, 1, 32, 32), torch.uint8)],
)
def test_a_split_takes_uint8_28x28_only(shape, dtype):
    images = torch.zeros(shape, dtype=dtype)
    with pytest.raises(DataError, match="images must be uint8"):
        Split(images, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(DataError, match="not a list"):
        Split(torch.zeros(1, 1, 28, 28, dtype=torch.uint8), [1])


def test_the_class_table_counts(tiny):
    table = class_table(tiny)
    assert table.loc["train", "images"].tolist() == [30] * 10
    assert table.loc[("test", "3"), "share"] == pytest.approx(0.1)
    assert list(table.loc[("train", "0"), ["mean_pixel", "ink"]]) == pytest.approx([255 * 2 / 28, 2 / 28])


def test_exported_png_files_hold_the_very_pixels(tiny, tmp_path, home):
    folder = export_images(tiny, tmp_path / "out", progress=False)
    assert [len(list((folder / view).rglob("*.png"))) for view in ("View", "View_test", "View_raw")] == [300, 100, 300]
    label = int(tiny.train.labels[123])
    for path in (folder / "View" / str(label) / "123.png", folder / "View_raw" / "123.png"):
        assert np.array_equal(np.asarray(Image.open(path)), tiny.train.images[123, 0].numpy())
    jpegs = export_images(tiny, format="jpg", limit=12, progress=False)
    assert jpegs == home / "exports" / "tiny" and len(list(jpegs.rglob("*.jpg"))) == 36
    assert Image.open(jpegs / "View_raw" / "11.jpg").format == "JPEG"


def test_bad_exports_say_so(tiny, tmp_path):
    with pytest.raises(DataError, match="png, jpg"):
        export_images(tiny, tmp_path, format="bmp")
    for limit in (0, 2.5, "all"):
        with pytest.raises(DataError, match="limit"):
            export_images(tiny, tmp_path, limit=limit)
    for folder in (5, b"x", ["a"]):
        with pytest.raises(DataError, match="folder must be a path"):
            export_images(tiny, folder, progress=False)
    with pytest.raises(StorageError, match="null byte"):
        export_images(tiny, "a\0b", progress=False)
    with pytest.raises(DataError, match="cannot name a folder"):
        export_images(replace(tiny, name="../../escape"))
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        export_images(tiny, tmp_path / "file", progress=False)
