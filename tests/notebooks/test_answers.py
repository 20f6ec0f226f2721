"""The answers to the exercises run, each once: on real MNIST where it is found, else on synthetic digits."""

import pytest
from conftest import PROJECT, REAL_DATA
from running import run

STEMS = [f"answers/{path.stem}" for path in sorted((PROJECT / "notebooks" / "answers").glob("*.ipynb"))]


@pytest.mark.parametrize("stem", STEMS)
def test_the_answers_run(stem, tmp_path, monkeypatch):
    run(stem, tmp_path / "home", REAL_DATA or tmp_path / "empty", monkeypatch)
