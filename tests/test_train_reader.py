"""The command that makes the shipped weights of the reading network, on a little data of the project's own."""

import json
import sys

import numpy as np
import pytest
import torch
import train_reader as command
from safetensors import safe_open

from mnist_kit import Recognizer, make_digits, sample_drawing


@pytest.fixture
def train_reader(monkeypatch, home, tmp_path):
    """Run the command with a few drawings of two sites, and return the path of the weights."""
    digits = make_digits(300, 20, progress=False)
    monkeypatch.setattr(command, "load_mnist", lambda: digits)
    for name, value in {
        "SYNTHETIC": 40,
        "ROWS": 10,
        "SHAPES": 20,
        "SPECKS": 10,
        "PHOTOGRAPHS": 8,
        "VALIDATION": 100,
    }.items():
        monkeypatch.setattr(command, name, value)
    monkeypatch.setattr(command, "RECIPE", command.RECIPE.but(epochs=1, batch_size=32))
    folder = tmp_path / "unipen"
    folder.mkdir()
    for name, column, first in (("digits", "label", 0), ("signs", "sign", 100)):
        rows = []
        for n in range(30):
            row = json.loads(sample_drawing(n % 10, first + n).to_json())
            if column == "sign":
                row |= {"sign": "WMK"[n % 3], "label": None}
            rows.append(json.dumps(row | {"site": "ab"[n % 2]}))
        (folder / f"{name}.jsonl").write_text("\n".join(rows))

    def run(name: str, *arguments: str):
        monkeypatch.setattr(sys, "argv", ["train_reader.py", str(folder), "--name", name, *arguments])
        threads = torch.get_num_threads()
        try:
            command.main()
        finally:
            torch.set_num_threads(threads)
        return home / "weights" / f"{name}.safetensors"

    return run


def test_a_seed_gives_the_same_weights_and_those_trained_on_everything_take_over_the_calibration(train_reader):
    paths = [train_reader(name, "--leave-out", "b") for name in ("first", "second")]
    tensors = []
    for path in paths:
        with safe_open(path, "pt") as file:
            tensors.append({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 (not a dict)
            assert json.loads(file.metadata()["sites"]) == ["a"]  # b was left out
    assert all(torch.equal(tensors[0][key], tensors[1][key]) for key in tensors[0])

    train_reader("all", "--calibrated-by", "first")
    left_out, everything = Recognizer.load("first"), Recognizer.load("all")
    assert 0 < left_out.threshold < 1  # calibrated by what was left out
    assert (everything.temperature, everything.threshold) == (left_out.temperature, left_out.threshold)
    image = np.zeros((1, 1, 28, 28), np.float32)
    assert not np.array_equal(everything.predict_images(image), left_out.predict_images(image))
