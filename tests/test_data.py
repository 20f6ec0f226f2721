import gzip
import hashlib
import http.server
import shutil
import struct
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mnist_kit import data
from mnist_kit.data import Split, class_table, export_images, load_mnist
from mnist_kit.errors import DataError, DataNotFound, StorageError
from mnist_kit.files import data_folder

# Of the unpacked official files (torchvision lists those of the .gz files they come in).
OFFICIAL_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


@pytest.fixture
def raw(monkeypatch):
    """A folder with the four files in small, and a loader that expects just that many images."""
    folder = data_folder() / "MNIST" / "raw"
    folder.mkdir(parents=True)
    source = _small("mnist")
    counts = source.counts
    for split, (images, labels) in source.files.items():
        values = np.arange(counts[split])
        pixels = np.repeat(values.astype(np.uint8), 784).tobytes()
        (folder / images).write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, counts[split], 28, 28) + pixels)
        content = struct.pack(">4BI", 0, 0, 8, 1, counts[split]) + bytes((values % 10).tolist())
        (folder / labels).write_bytes(content)
    monkeypatch.setitem(data.SOURCES, "mnist", source)
    return folder


def test_the_real_files(mnist):
    assert mnist.train.images.shape == (60_000, 1, 28, 28)
    assert mnist.test.images.shape == (10_000, 1, 28, 28)
    assert mnist.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert round(mnist.train.images.float().mean().item() / 255, 4) == 0.1307
    header = struct.pack(">4B3I", 0, 0, 8, 3, 60_000, 28, 28)
    images_md5 = hashlib.md5(header + mnist.train.images.numpy().tobytes()).hexdigest()
    assert images_md5 == OFFICIAL_MD5["train-images-idx3-ubyte"]
    labels_md5 = hashlib.md5(_label_file(mnist.test.labels)).hexdigest()
    assert labels_md5 == OFFICIAL_MD5["t10k-labels-idx1-ubyte"]


def _label_file(labels):
    return struct.pack(">4BI", 0, 0, 8, 1, len(labels)) + bytes(labels.tolist())


def _small(name):
    """The source called `name`, of 40 and 20 images."""
    source = data.SOURCES[name]
    return data._Source(source.dataset, source.files, {"train": 40, "test": 20}, {})


def test_small_files_are_read_as_they_are(raw):
    digits = load_mnist()
    assert digits.train.images[7].unique().tolist() == [7]
    assert digits.test.labels.tolist() == [i % 10 for i in range(20)]
    assert digits.classes == tuple("0123456789")


def test_a_read_only_folder_is_enough_when_the_files_are_there(raw):
    raw.chmod(0o500)
    try:
        assert len(load_mnist().train) == 40
    finally:
        raw.chmod(0o700)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("train-images-idx3-ubyte", lambda b: b[:-5], "bytes where its header promises"),
        ("train-images-idx3-ubyte", lambda b: b[:2], "is no IDX file"),
        ("train-images-idx3-ubyte", lambda b: b"", "is no IDX file"),
        ("train-images-idx3-ubyte", lambda b: b"\x1f\x8b" + b[2:], "is no IDX file"),
        ("train-images-idx3-ubyte", lambda b: b[:10], "header"),
        ("train-images-idx3-ubyte", lambda b: b[:4] + b"\xff" * 12 + b[16:], "header promises"),
        ("t10k-labels-idx1-ubyte", lambda b: b[:-1] + b"\x0b", "label 19 is 11"),
        ("t10k-labels-idx1-ubyte", lambda b: struct.pack(">4BI", 0, 0, 8, 1, 3) + b"\0\0\0", "not a label for each"),
    ],
)
def test_damaged_files_are_named(raw, file, damage, message):
    path = raw / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=message) as caught:
        load_mnist()
    assert str(path) in str(caught.value)
    assert not isinstance(caught.value, DataNotFound)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"),
    ],
)
def test_swapped_files_are_noticed(raw, one, other):
    content = (raw / one).read_bytes()
    (raw / one).write_bytes((raw / other).read_bytes())
    (raw / other).write_bytes(content)
    with pytest.raises(DataError, match=one):
        load_mnist()


def test_a_single_wrong_bit_of_the_real_files_is_noticed(mnist, tmp_path):
    labels = bytearray(_label_file(mnist.test.labels))
    labels[500] ^= 1
    path = tmp_path / "t10k-labels-idx1-ubyte"
    path.write_bytes(labels)
    with pytest.raises(DataError, match="checksum"):
        data._read_idx(path, data.SOURCES["mnist"].crc32[path.name])


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(DataError, match="mnist, fashion, kmnist, qmnist"):
        load_mnist("emnist")


class _Mirror(http.server.BaseHTTPRequestHandler):
    """Serves the .gz files of the folder set on it; `cut` breaks the connection half way."""

    folder, cut = None, False

    def do_GET(self):
        path = self.folder / self.path.lstrip("/")
        if not path.is_file():
            return self.send_error(404)
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.cut else content)

    def log_message(self, *_): ...


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror on this machine, which torchvision's MNIST is pointed at."""
    handler = type("Mirror", (_Mirror,), {"folder": tmp_path / "mirror", "cut": False})
    handler.folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(data.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    yield handler
    server.shutdown()
    server.server_close()


def _serve(mirror, raw, monkeypatch):
    resources = []
    for name in OFFICIAL_MD5:
        content = gzip.compress((raw / name).read_bytes())
        (mirror.folder / f"{name}.gz").write_bytes(content)
        resources.append((f"{name}.gz", hashlib.md5(content).hexdigest()))
    monkeypatch.setattr(data.datasets.MNIST, "resources", resources)
    shutil.rmtree(raw)


def test_a_download_fills_the_data_folder(raw, mirror, monkeypatch):
    _serve(mirror, raw, monkeypatch)
    assert len(load_mnist().train) == 40
    assert sorted(path.name for path in raw.iterdir()) == sorted(OFFICIAL_MD5)


def test_an_interrupted_download_leaves_nothing_and_can_be_repeated(raw, mirror, monkeypatch):
    _serve(mirror, raw, monkeypatch)
    mirror.cut = True
    with pytest.raises(DataNotFound) as caught:
        load_mnist()
    for word in (str(raw), data.datasets.MNIST.mirrors[0], "MNIST_KIT_DATA"):
        assert word in str(caught.value)
    assert list(raw.iterdir()) == []
    mirror.cut = False
    assert len(load_mnist().test) == 20


def test_no_mirror_and_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MNIST_KIT_DATA", str(tmp_path / "file"))
    with pytest.raises(DataNotFound, match="cannot be written"):
        load_mnist()


@pytest.mark.parametrize("name", ["fashion", "kmnist"])
def test_siblings_in_the_same_format(raw, name, monkeypatch):
    source = _small(name)
    monkeypatch.setitem(data.SOURCES, name, source)
    shutil.copytree(raw, data_folder() / source.dataset.__name__ / "raw")
    digits = load_mnist(name)
    assert (digits.name, len(digits.train), len(digits.classes)) == (name, 40, 10)


def test_qmnist_keeps_the_class_of_its_eight_label_columns(raw, monkeypatch):
    source = _small("qmnist")
    monkeypatch.setitem(data.SOURCES, "qmnist", source)
    folder = data_folder() / "QMNIST" / "raw"
    folder.mkdir(parents=True)
    for split, (images, labels) in source.files.items():
        shutil.copy(raw / data._LIKE_MNIST[split][0], folder / images)
        count = source.counts[split]
        rows = np.zeros((count, 8), ">i4")
        rows[:, 0], rows[:, 1] = np.arange(count) % 10, 77
        (folder / labels).write_bytes(struct.pack(">4B2I", 0, 0, 12, 2, count, 8) + rows.tobytes())
    assert load_mnist("qmnist").train.labels.tolist() == [i % 10 for i in range(40)]


@given(st.lists(st.integers(-3, 12), min_size=1, max_size=30))
def test_a_split_takes_labels_0_to_9_only(labels):
    images = torch.zeros(len(labels), 1, 28, 28, dtype=torch.uint8)
    if all(0 <= label <= 9 for label in labels):
        assert len(Split(images, torch.tensor(labels))) == len(labels)
    else:
        with pytest.raises(DataError, match="0 to 9"):
            Split(images, torch.tensor(labels))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 1, 28, 28), torch.float32), ((2, 28, 28), torch.uint8), ((2, 1, 32, 32), torch.uint8)],
)
def test_a_split_takes_uint8_28x28_only(shape, dtype):
    images = torch.zeros(shape, dtype=dtype)
    with pytest.raises(DataError, match="images must be uint8"):
        Split(images, torch.zeros(2, dtype=torch.int64))


def test_the_class_table_counts(tiny):
    table = class_table(tiny)
    assert table.loc["train", "images"].tolist() == [30] * 10
    assert table.loc[("test", "3"), "share"] == pytest.approx(0.1)
    assert table.loc[("train", "0"), "ink"] == pytest.approx(2 / 28)
    assert table.loc[("train", "0"), "mean_pixel"] == pytest.approx(255 * 2 / 28)


def test_exported_png_files_hold_the_very_pixels(tiny, tmp_path):
    folder = export_images(tiny, tmp_path / "out", progress=False)
    assert len(list((folder / "View").rglob("*.png"))) == 300
    assert len(list((folder / "View_test").rglob("*.png"))) == 100
    assert len(list((folder / "View_raw").glob("*.png"))) == 300
    for index in (0, 123):
        label = int(tiny.train.labels[index])
        for path in (folder / "View" / str(label) / f"{index}.png", folder / "View_raw" / f"{index}.png"):
            assert np.array_equal(np.asarray(Image.open(path)), tiny.train.images[index, 0].numpy())


def test_exported_jpeg_files_and_a_limit(tiny, home):
    folder = export_images(tiny, format="jpg", limit=12, progress=False)
    assert folder == home / "exports" / "tiny"
    assert len(list(folder.rglob("*.jpg"))) == 36
    assert Image.open(folder / "View_raw" / "11.jpg").format == "JPEG"


def test_bad_exports_say_so(tiny, tmp_path):
    with pytest.raises(DataError, match="png, jpg"):
        export_images(tiny, tmp_path, format="bmp")
    with pytest.raises(DataError, match="limit"):
        export_images(tiny, tmp_path, limit=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        export_images(tiny, tmp_path / "file", progress=False)
