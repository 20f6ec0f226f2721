"""The benchmarks run from end to end, on a little noise, and their tables have all they promise. No time is judged."""

import pytest

from benchmarks import accuracy, speed, tried

SPEED = [speed, "--rounds", "1", "--steps", "1", "--evaluations", "1"]
ACCURACY = [accuracy, "--seeds", "1", "--most-epochs", "1"]
LADDER = [tried, "--only-the-ladder", "--rounds", "1", "--steps", "1"]


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
    benchmark, *options = command
    assert benchmark.main([*options, "--data", "noise", "--device", "cpu"]) == 0
    text = (home / "bench" / f"{report}.md").read_text()
    assert all(words in text for words in promised)
    assert "skipped" not in text and "no |" not in text  # each rung of the ladder computes the same losses
