"""Threads that do everything at once, and processes that are killed while they write anything at all."""

import faulthandler
import math
import multiprocessing
import os
import random
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_model
from PIL import Image
from test_adaptation import hand
from test_data import mirror, raw  # noqa: F401 (fixtures)
from torchvision import datasets

from mnist_kit import (
    DigitPad,
    Recognizer,
    append_drawing,
    evaluate,
    export_images,
    fit,
    load_history,
    load_weights,
    make_digits,
    read_drawings,
    sample_drawing,
    save_history,
    save_weights,
    split,
)
from mnist_kit.adaptation import adapt
from mnist_kit.data import load_mnist
from mnist_kit.files import home_folder
from mnist_kit.models import Net
from mnist_kit.recipes import Recipe

THREE = sample_drawing(3, seed=1, size=(100, 100))
BRIEF = Recipe("brief", epochs=1, batch_size=50)  # 6 steps of `tiny`
MIXTURES = 100


def test_in_any_mixture_of_threads_training_comes_to_the_same_bits(tiny, monkeypatch):
    monkeypatch.setattr("mnist_kit.pad.SLOW", math.inf)  # however busy the machine is, the pad asks for each digit
    seven = sample_drawing(7, seed=0, size=(100, 100))
    expected = list(fit(small_model(), tiny, BRIEF, device="cpu").steps["loss"])
    answer = split(seven, Recognizer(small_model()))[0].prediction.probabilities
    net = Net()
    save_weights(net, "net")
    fresh = small_model()  # to be copied: a new one draws from torch's random state, which threads share
    shared = small_model()  # everybody trains, asks and saves this one too

    def trains():
        assert list(fit(deepcopy(fresh), tiny, BRIEF, device="cpu").steps["loss"]) == expected

    def draws():
        pad = DigitPad(Recognizer(deepcopy(fresh)), 100, 100)
        pad.draw(seven)
        assert np.array_equal(pad.recognise().probabilities, answer)

    actions = {
        "fit": trains,
        "fit the shared one": lambda: fit(shared, tiny, BRIEF, device="cpu"),
        "evaluate": lambda: evaluate(shared, tiny.test, "cpu"),
        "predict": lambda: Recognizer(shared).predict(seven),
        "pad": draws,
        "save": lambda: save_weights(net, "net"),
        "load": lambda: load_weights("net"),
    }
    dice = random.Random(20231130)
    faulthandler.dump_traceback_later(300, exit=True)  # threads that wait for each other would never end
    with ThreadPoolExecutor(4) as threads:
        for number in range(MIXTURES):
            chosen = dice.choices(list(actions), k=dice.randint(2, 4))
            for name, result in [(name, threads.submit(actions[name])) for name in chosen]:
                assert result.exception() is None, f"mixture {number}, {chosen}: {name} failed"
    faulthandler.cancel_dump_traceback_later()


# Killed while writing


def _write_weights(_):
    save_weights(small_model(), "mine")


def _write_history(history):
    save_history(history, "mine")


def _keep_drawings(_):
    if not (home_folder() / "drawings.jsonl").exists():
        threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGKILL]).start()
    for _ in range(2_000):
        append_drawing(THREE)


def _export(digits):
    export_images(digits, progress=False)


def _adapt(digits):
    adapt(Recognizer.load("class-mnist"), hand(range(5)), digits=digits, progress=False)


def _download(source):
    address, resources = source
    from mnist_kit import data

    datasets.MNIST.mirrors, datasets.MNIST.resources, data.MNIST_CRC32 = [address], resources, {}
    load_mnist()


# What writes, in a process of its own, and what is then there whole.
KINDS = {
    "weights": (_write_weights, lambda home: load_weights("mine", small_model())),
    "history": (_write_history, lambda home: load_history("mine")),
    "drawings": (_keep_drawings, lambda home: _require_drawings(read_drawings()[-2_000:])),
    "export": (_export, lambda home: _require_pictures(list((home / "exports").rglob("*.png")))),
    "adapt": (_adapt, lambda home: load_weights("my-hand")),
    "download": (_download, lambda home: load_mnist()),
}


def _require_drawings(drawings):
    assert [drawing.label for drawing in drawings] == [3] * 2_000


def _require_pictures(paths):
    assert len(paths) == 300 + 100 + 300 and all(Image.open(path).tobytes() for path in paths)


def _until_killed(environment: dict, write, argument, countdown: int) -> None:
    """In a process of its own: do it, and die without a word at the `countdown`-th call of the system that writes."""
    os.environ.update(environment)
    torch.set_num_threads(1)

    def dying(original):
        def call(*arguments, **options):
            nonlocal countdown
            countdown -= 1
            if countdown == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        return call

    for name in ("fsync", "replace"):
        setattr(os, name, dying(getattr(os, name)))
    write(argument)
    os._exit(0)


def hidden(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob(".*") if path.is_file()]


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is of Unix")
@pytest.mark.parametrize("kind", ["weights", "history", "drawings", "export", "adapt", "download"])
def test_killed_while_writing_nothing_is_half_written_and_the_next_call_cleans_up(kind, tiny, home, request, tmp_path):
    if kind == "download":
        mirror = request.getfixturevalue("mirror")
        argument = mirror.address, datasets.MNIST.resources
    elif kind == "history":
        argument = fit(small_model(), tiny, BRIEF, device="cpu")
    else:
        argument = make_digits(600, 10, progress=False) if kind == "adapt" else tiny
    write, require_whole = KINDS[kind]
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["mnist_kit.training", "test_stress"])
    environment = {name: os.environ[name] for name in ("MNIST_KIT_HOME", "MNIST_KIT_DATA")}
    codes = []
    for countdown in (1, 2, 0):
        process = processes.Process(target=_until_killed, args=(environment, write, argument, countdown))
        process.start()
        process.join(120)
        codes.append(process.exitcode)
    assert codes[0] == -signal.SIGKILL and codes[-1] == 0
    require_whole(home)
    assert not hidden(home) and not hidden(tmp_path / "data")
