"""The benchmarks run from end to end, on a little noise, and their tables have all they promise. No time is judged."""

import subprocess
import sys

import pytest
from conftest import PROJECT

SPEED = ["benchmarks.speed", "--rounds", "1", "--steps", "1", "--evaluations", "1"]
ACCURACY = ["benchmarks.accuracy", "--seeds", "1", "--most-epochs", "1"]
LADDER = ["benchmarks.tried", "--only-the-ladder", "--rounds", "1", "--steps", "1"]


@pytest.mark.parametrize(
    ("command", "report", "promised"),
    [
        (
            SPEED,
            "speed",
            [
                "fit, PAPER",
                "fit, QUICK",
                "the paper's loop",
                "the classic example",
                "train_mnist_fast",
                "× its floor",
            ],
        ),
        (ACCURACY, "accuracy", ["fit, QUICK", "the paper's loop", "train_mnist_fast", "s to 99.2%"]),
        (LADDER, "ladder", ["plain loop", "channels_last", "same losses"]),
    ],
    ids=["speed", "accuracy", "ladder"],
)
def test_a_benchmark_measures_what_it_promises(home, command, report, promised):
    command = [sys.executable, "-m", *command, "--data", "noise", "--device", "cpu"]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    text = (home / "bench" / f"{report}.md").read_text()
    assert all(words in text for words in promised)
    assert "skipped" not in text and "no |" not in text  # each rung of the ladder computes the same losses
