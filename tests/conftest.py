"""What several tests share: folders of their own, real MNIST where it is found, small data made on the spot."""

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # set before torch looks: those that test have a core each, or less
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from mnist_kit.data import Digits, Split, load_mnist
from mnist_kit.models import Net
from mnist_kit.training import Callback

# Files whose tests share what is long in the making, or build on each other; the longest come first.
TOGETHER = (
    "tests/browser/test_lab",
    "tests/notebooks/test_without_mnist",
    "tests/notebooks/test_series",
    "tests/browser/",
    "tests/test_adaptation",
    "tests/test_benchmarks",
    "tests/test_export",
)


def pytest_collection_modifyitems(items):
    """The files of `TOGETHER`, then all the others: long files at the end would leave a core with nothing to do."""
    items.sort(key=lambda item: [not item.nodeid.startswith(start) for start in TOGETHER])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Each test goes to the next worker that has hardly any left, a file of `TOGETHER` to one."""
    if config.getvalue("dist") != "load":
        return None  # as the command line says
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return super()._split_scope(nodeid) if nodeid.startswith(TOGETHER) else nodeid

    return Scheduling(config, log)


settings.register_profile("patient", deadline=None)  # nothing is timed here: machines differ, and have other work
settings.load_profile("patient")

PROJECT = Path(__file__).resolve().parent.parent
REAL_DATA = next(
    (
        folder
        for folder in (
            Path(os.environ.get("MNIST_KIT_DATA", PROJECT / "data")).resolve(),
            PROJECT.parent / "shared" / "data",  # where several checkouts share one copy
        )
        if (folder / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file()
    ),
    None,
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """A fresh home and an empty data folder for each test, so that nothing of the reader's is touched."""
    monkeypatch.setenv("MNIST_KIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MNIST_KIT_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("MNIST_KIT_RECIPE", raising=False)
    return tmp_path / "home"


@pytest.fixture(scope="session")
def mnist() -> Digits:
    """The real MNIST; tests that need it are skipped, with this line, where there is none."""
    if REAL_DATA is None:
        pytest.skip("real MNIST is not here: set MNIST_KIT_DATA to the folder that holds MNIST/raw")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MNIST_KIT_DATA", str(REAL_DATA))
        return load_mnist()


@pytest.fixture
def tiny() -> Digits:
    """300 training and 100 test images that are easy to tell apart: two bright rows whose height is the label."""
    return Digits("tiny", _rows(300), _rows(100))


def _rows(count: int) -> Split:
    labels = torch.arange(count) % 10
    images = torch.zeros(count, 1, 28, 28, dtype=torch.uint8)
    for row in range(2):
        images[torch.arange(count), 0, 4 + 2 * labels + row] = 255
    return Split(images, labels)


def small_model(seed: int = 0) -> nn.Module:
    """What `Net` is made of, in little: it trains in milliseconds."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(4 * 14 * 14, 10),
    )


def plain_model(seed: int = 0) -> nn.Module:
    """Without batch norm and dropout: what it makes of an image depends on no other image and on no random number."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def layer_names(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model.modules()]


class StopAt(Callback):
    """Ends training as Ctrl+C does, or with another error, after a step or an epoch."""

    def __init__(self, step: int = 0, epoch: int = 0, error: type[BaseException] = KeyboardInterrupt):
        self.step, self.epoch, self.error = step, epoch, error

    def on_step(self, run):
        if run.step == self.step:
            raise self.error

    def on_epoch(self, run):
        if run.epoch == self.epoch:
            raise self.error


class Spoil(Callback):
    """Ruins the weights after a step, as an update with an infinite gradient does."""

    def __init__(self, step: int):
        self.step = step

    def on_step(self, run):
        if run.step == self.step:
            with torch.no_grad():
                next(run.model.parameters()).fill_(torch.inf)


class InDouble(nn.Module):
    """Computes in float64, so that what two ways of training differ by is not rounding."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model.double()

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.double())
